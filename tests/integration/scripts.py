"""A model for tests: it gives every output field that a prompt asks for, by a rule."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeAlias

from daytona_kernel_interp.demo.script import rule_based_lm

if TYPE_CHECKING:
    import dspy

# The text itself; texts for one iteration of RLM each; or what a function makes of the prompt.
Answer: TypeAlias = str | Sequence[str] | Callable[[str], str]

_FIELD = re.compile(r"\[\[ ## (\w+) ## \]\]")
_ITERATION = re.compile(r"\[\[ ## iteration ## \]\]\s*(\d+)/")
_CODE = ("code", "generated_code")


def model(**answers: Answer) -> dspy.BaseLM:
    """Return a model; ``text`` is its answer to a prompt that asks for no fields (``llm_query``).

    It keeps no state, so that threads and nested modules may share it. ``reasoning`` needs no answer.
    """

    def answer(prompt: str) -> str:
        _, asked, names = prompt.rpartition("Respond with the corresponding output fields")
        if not asked:
            return _pick(answers["text"], prompt)
        fields = [name for name in _FIELD.findall(names) if name != "completed"]
        return "\n\n".join([*(_field(name, prompt) for name in fields), "[[ ## completed ## ]]"])

    def _field(name: str, prompt: str) -> str:
        if name == "reasoning" and name not in answers:
            return "[[ ## reasoning ## ]]\nBecause."
        text = _pick(answers[name], prompt)
        if name in _CODE:
            text = f"```python\n{text}\n```"
        return f"[[ ## {name} ## ]]\n{text}"

    return rule_based_lm("rules", answer)


def _pick(answer: Answer, prompt: str) -> str:
    if isinstance(answer, str):
        return answer
    if callable(answer):
        return answer(prompt)
    found = _ITERATION.search(prompt)
    return answer[min(int(found[1]) - 1 if found else 0, len(answer) - 1)]
