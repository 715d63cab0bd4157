"""The export for rlm's visualizer has the lines and fields that the visualizer reads, for any session."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

from daytona_kernel_interp.export.rlm import to_jsonl
from daytona_kernel_interp.recording.model import SessionFacts, Transcript
from tests.sessions import BEGAN, MODEL, MemoryStore, small

# github.com/alexzhang13/rlm, visualizer/src/lib/types.ts: RLMConfigMetadata, RLMIteration, CodeBlock, REPLResult and
# RLMChatCompletion, each with the types that its fields may have.
NUMBER, TEXT = (int, float), (str,)
CONFIG: dict[str, tuple[type, ...]] = {
    "root_model": (str, type(None)),
    "max_depth": (int, type(None)),
    "max_iterations": (int, type(None)),
    "backend": (str, type(None)),
    "backend_kwargs": (dict, type(None)),
    "environment_type": (str, type(None)),
    "environment_kwargs": (dict, type(None)),
    "other_backends": (list, type(None)),
}
ITERATION: dict[str, tuple[type, ...]] = {
    "type": TEXT,
    "iteration": (int,),
    "timestamp": TEXT,
    "prompt": (list,),
    "response": TEXT,
    "code_blocks": (list,),
    "final_answer": (str, type(None)),
    "iteration_time": (int, float, type(None)),
}
RESULT: dict[str, tuple[type, ...]] = {
    "stdout": TEXT,
    "stderr": TEXT,
    "locals": (dict,),
    "execution_time": NUMBER,
    "rlm_calls": (list,),
}
COMPLETION: dict[str, tuple[type, ...]] = {
    "prompt": (str, dict),
    "response": TEXT,
    "prompt_tokens": NUMBER,
    "completion_tokens": NUMBER,
    "execution_time": NUMBER,
    # rlm/core/types.py, RLMChatCompletion.to_dict
    "root_model": TEXT,
    "usage_summary": (dict,),
}


def _lines(transcript: Transcript) -> list[Any]:
    text = to_jsonl(transcript)
    assert text.endswith("\n")
    return [json.loads(line, parse_constant=_no_json) for line in text.splitlines()]


def _no_json(name: str) -> None:
    raise AssertionError(f"{name} is no JSON: JSON.parse would refuse the line")


def _check(found: dict[str, Any], wanted: dict[str, tuple[type, ...]], *others: str) -> None:
    assert found.keys() - set(others) == wanted.keys()
    for name, kinds in wanted.items():
        assert isinstance(found[name], kinds), name


def test_lines_have_the_fields_that_are_read() -> None:
    """There is a line of metadata and one for each step, with the fields and types that the visualizer declares."""
    head, *iterations = _lines(small())
    assert head.pop("type") == "metadata"
    _check(head, CONFIG, "timestamp")
    assert head["root_model"] == MODEL
    assert [one["iteration"] for one in iterations] == [1, 2, 3, 4, 5]
    for one in iterations:
        _check(one, ITERATION)
        assert one["type"] == "iteration"
        assert all(message.keys() == {"role", "content"} for message in one["prompt"])
        (block,) = one["code_blocks"]
        assert block.keys() == {"code", "result"}
        _check(block["result"], RESULT)
        for call in block["result"]["rlm_calls"]:
            _check(call, COMPLETION, "error", "error_type")


def test_steps_say_what_happened() -> None:
    """Reasoning, printed text, described figures, errors, model calls and the answer are in the fields it reads."""
    _, first, second, third, fourth, last = _lines(small())
    assert first["response"].startswith("First I **look** at the text.")
    assert first["code_blocks"][0]["result"]["stdout"] == "51,200 characters\n38\n"
    assert first["code_blocks"][0]["result"]["locals"]["question"] == "Who pays?"
    assert first["iteration_time"] == 0.031 + 2.9
    (call,) = second["code_blocks"][0]["result"]["rlm_calls"]
    assert (call["prompt"], call["response"], call["prompt_tokens"]) == ("Which one?", "refunds", 410)
    assert call["usage_summary"]["model_usage_summaries"][MODEL]["total_output_tokens"] == 35
    assert second["code_blocks"][0]["result"]["stderr"] == ""  # a warning is no failure
    assert "a warning" in second["code_blocks"][0]["result"]["stdout"]
    assert third["code_blocks"][0]["result"]["stderr"].startswith("ZeroDivisionError")
    assert "[figure 240x120 PNG]" in fourth["code_blocks"][0]["result"]["stdout"]
    assert [one["final_answer"] for one in (first, third)] == [None, None]
    assert last["final_answer"] == "{'answer': 'The customer pays.', 'score': 0.75}"


def test_prompts_are_the_main_models() -> None:
    """The prompt of a step is the last request to the main model before it, as messages."""
    store, session = MemoryStore(), small()
    asked = [{"role": "system", "content": "You write code."}, {"role": "user", "content": ["a", "b"]}]
    requests = [
        replace(session.lm_calls[0], request=store.put({"messages": asked})),
        replace(session.lm_calls[1], request=store.put({"prompt": "Go on."})),
        replace(session.lm_calls[2], entry=2),
    ]
    _, first, second, third, *_ = _lines(replace(session, lm_calls=requests, store=store))
    assert first["prompt"] == [asked[0], {"role": "user", "content": "['a', 'b']"}]
    assert second["prompt"] == [{"role": "user", "content": "Go on."}]
    assert third["prompt"] == []


def test_what_json_lacks() -> None:
    """Infinite numbers are null; they, missing values and an empty session give valid JSON."""
    facts = SessionFacts("x", BEGAN, "local", options={"execution_timeout": float("inf"), "at": BEGAN})
    (head,) = _lines(Transcript(facts, [], MemoryStore()))
    assert head["environment_kwargs"]["execution_timeout"] is None
    entry = replace(small().entries[0], elapsed_s=float("nan"))
    assert len(_lines(Transcript(facts, [entry], MemoryStore()))) == 2
