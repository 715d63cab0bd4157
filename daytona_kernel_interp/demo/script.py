"""Replacements for language models: a script for the main model, a rule for the sub-model.

The script has six steps, written in advance for the text of :func:`.reference_text`. The rule derives each answer from
the words in the prompt.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import dspy

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator


@dataclass(frozen=True)
class ScriptedStep:
    """One answer of the main model."""

    reasoning: str
    code: str

    def completion(self) -> str:
        """Return the step in the form that DSPy's chat adapter reads."""
        return (
            f"[[ ## reasoning ## ]]\n{self.reasoning}\n\n"
            f"[[ ## code ## ]]\n```python\n{self.code.strip()}\n```\n\n"
            "[[ ## completed ## ]]"
        )


STEPS = (
    ScriptedStep(
        "The text may be far too long to print. I look at its size, at how it is divided and at one sample first.",
        """
import re

sections = dict(re.findall(r"^## (\\S+)\\n(.*?)(?=^## |\\Z)", text, re.S | re.M))
print(f"{len(text):,} characters in {len(sections)} sections")
print("longest:", ", ".join(sorted(sections, key=lambda name: -len(sections[name]))[:6]))
print(sections["del"].strip()[:420])
""",
    ),
    ScriptedStep(
        "Plain prose, with code names in double quotes. Sentences that say 'raise' and quote a capitalised name are "
        "the ones to look at; some sections repeat others, so each sentence counts once.",
        """
from collections import Counter

hits = {}
for section in sections.values():
    for paragraph in re.split(r"\\n\\s*\\n", section):
        for sentence in re.split(r"(?<=[.!?])\\s+(?=[A-Z\\"*])", " ".join(paragraph.split())):
            names = re.findall(r'"([A-Z][A-Za-z]+)"', sentence)
            if names and re.search(r"\\braise", sentence):
                hits.setdefault(sentence, names[-1])
print(f"{len(hits)} sentences")
print(", ".join(f"{name} {count}" for name, count in Counter(hits.values()).most_common()))
""",
    ),
    ScriptedStep(
        "What ends in Error is an exception. For the other names I ask the host's tool. It raises KeyError where "
        "there is no such exception, and I catch that here by its type.",
        """
exceptions = {name for name in hits.values() if name.endswith("Error")}
for name in sorted(set(hits.values()) - exceptions):
    try:
        exception_family(name)
        exceptions.add(name)
    except KeyError as error:
        print("left out:", error.message)

warnings = {sentence: name for sentence, name in hits.items() if name in exceptions}
print(f"{len(warnings)} sentences are left, about {len(exceptions)} exceptions")
""",
    ),
    ScriptedStep(
        "Which mistake a sentence warns of is a matter of reading, so I ask the sub-model about all of them at once.",
        """
kinds = ["wrong type", "wrong arguments", "nothing there", "bad value", "other"]
sentences = list(warnings)[:100]
task = f"Which kind of mistake does this sentence warn of? Answer with one of {kinds} only."
answers = llm_query_batched([f"{task}\\n\\n{sentence}" for sentence in sentences])
table = {kind: Counter() for kind in kinds}
for sentence, kind in zip(sentences, answers):
    table[kind][warnings[sentence]] += 1
for kind, counts in table.items():
    print(f"{kind:16}{sum(counts.values()):4}  {dict(counts.most_common(3))}")
""",
    ),
    ScriptedStep(
        "A figure shows the whole table better than numbers do.",
        """
import matplotlib.pyplot as plt

total = sum(table.values(), Counter())
names = [name for name, _ in total.most_common()][::-1]
figure, axes = plt.subplots(figsize=(8, 4.5), layout="constrained")
left = [0] * len(names)
for kind, counts in table.items():
    widths = [counts[name] for name in names]
    axes.barh(names, widths, left=left, label=kind)
    left = [a + b for a, b in zip(left, widths)]
axes.set(title="What Python's reference warns of", xlabel="sentences")
axes.legend(title="mistake", frameon=False)
plt.show()
""",
    ),
    ScriptedStep(
        "The variables hold all that the answer needs: I put it together from them and submit it.",
        """
parts = [
    f"{kind} ({sum(counts.values())}: {', '.join(name for name, _ in counts.most_common(3))})"
    for kind, counts in sorted(table.items(), key=lambda item: -sum(item[1].values()))
    if counts
]
firsts = {answer: sentence for sentence, answer in reversed(list(zip(sentences, answers)))}
SUBMIT(
    answer=f"{len(sentences)} sentences warn of: {'; '.join(parts)}.",
    evidence=[firsts[kind] for kind in kinds if kind in firsts],
)
""",
    ),
)

# The first matching rule counts. The sentence is the last paragraph of the prompt.
_RULES = (
    ("wrong arguments", r"positional|keyword|parameter|slot is|number of arguments"),
    (
        "nothing there",
        r"not found|missing|not in |bound|out of range|empty|outside|attribute|does not exist|is not defined",
    ),
    ("wrong type", r"\btypes?\b|string|tuple|compar|callable|iter|instance"),
    ("bad value", r"zero|negative|duplicate|same value|larger|length|value"),
)


def scripted_lm(steps: Iterable[ScriptedStep]) -> dspy.BaseLM:
    """Return a model that answers with ``steps``, one after the other, whatever the prompt."""
    left = iter(steps)

    def answer(prompt: str) -> str:
        step = next(left, None)
        if step is None:
            raise RuntimeError("the script has no further step")
        return step.completion()

    return rule_based_lm("script", answer)


def classify_mistake(prompt: str) -> str:
    """Return the answer to the script's question about one sentence, by the words in the sentence."""
    sentence = prompt.rpartition("\n\n")[2]
    return next((kind for kind, words in _RULES if re.search(words, sentence)), "other")


def rule_based_lm(name: str, answer: Callable[[str], str]) -> dspy.BaseLM:
    """Return a model that replies to a prompt with ``answer(prompt)``."""
    if hasattr(dspy, "lm15"):  # DSPy 3.4 and later: BaseLM.forward is deprecated, and removed in 3.5
        return dspy.LM(name, engine=_Engine(answer), async_engine=_AsyncEngine(answer), cache=False)
    return _LegacyLM(name, answer)


def _text(parts: Iterable[object]) -> str:
    """Return the texts of a prompt's parts; an image has none."""
    return "\n".join(part for part in parts if isinstance(part, str))


class _Engine:
    def __init__(self, answer: Callable[[str], str]) -> None:
        self._answer = answer

    def complete(self, request: Any) -> Any:
        prompt = _text(getattr(part, "text", None) for part in request.messages[-1].parts)
        reply = dspy.lm15.Message.assistant([dspy.lm15.TextPart(self._answer(prompt))])
        usage = dspy.lm15.Usage(input_tokens=0, output_tokens=0, total_tokens=0)
        return dspy.lm15.Response(id=None, model=request.model, message=reply, finish_reason="stop", usage=usage)

    def stream(self, request: Any) -> Iterator[Any]:
        yield from dspy.lm15.response_to_events(self.complete(request))


class _AsyncEngine:
    def __init__(self, answer: Callable[[str], str]) -> None:
        self._engine = _Engine(answer)

    async def complete(self, request: Any) -> Any:
        return self._engine.complete(request)


class _LegacyLM(dspy.BaseLM):
    def __init__(self, name: str, answer: Callable[[str], str]) -> None:
        super().__init__(name, cache=False)
        self._answer = answer

    def forward(self, prompt: str | None = None, messages: list[dict[str, Any]] | None = None, **kwargs: Any) -> Any:
        content = messages[-1]["content"] if messages else prompt or ""
        text = self._answer(content if isinstance(content, str) else _text(part.get("text") for part in content))
        choice = SimpleNamespace(message=SimpleNamespace(content=text, tool_calls=None), finish_reason="stop")
        return SimpleNamespace(choices=[choice], usage={}, model=self.model)

    async def aforward(self, *args: Any, **kwargs: Any) -> Any:
        return self.forward(*args, **kwargs)
