"""The instructions for the model: the tools of an interpreter are part of them."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("dspy")

from daytona_kernel_interp import KernelInterpreter, ReplayInterpreter
from daytona_kernel_interp.interpreter.instructions import KERNEL_INSTRUCTIONS, with_tools
from tests.snapshots.file_formats import GOLDEN

pytestmark = pytest.mark.dspy


def search(query: str, limit: int = 5, *, key="0123456789abcdefg") -> list[str]:  # type: ignore[no-untyped-def]
    """Return the articles that match.

    The best comes first.
    """
    return [query] * limit


def test_a_tool_is_listed_with_signature_and_docstring() -> None:
    """In the form in which RLM lists its own; a default that may be a secret is left out."""
    text = with_tools("Be brief.", {"search": search})
    assert text.splitlines() == [
        "Be brief.",
        "Tools of this interpreter:",
        "- `search(query: str, limit: int = 5, key=...)` - Return the articles that match.    The best comes first.",
    ]


@pytest.mark.parametrize(
    ("tool", "line"),
    [
        (lambda *parts, **options: None, "- `t(*parts, **options)` - No description"),
        (lambda a, b=None: None, "- `t(a, b=None)` - No description"),
        (dict.fromkeys, "- `t(iterable, value=None)` - "),
        (type("Opaque", (), {"__call__": None, "__signature__": 0, "__doc__": None}), "- `t(...)` - "),
    ],
    ids=["variable", "defaults", "builtin", "no signature"],
)
def test_any_callable_is_listed(tool: Any, line: str) -> None:
    """Whatever is known of its signature."""
    assert with_tools("", {"t": tool}).splitlines()[-1].startswith(line)


def test_a_tool_that_cannot_be_called_is_left_out() -> None:
    """The next call refuses it; reading the instructions does not."""
    assert with_tools("Be brief.", {"five": 5}) == "Be brief."  # type: ignore[dict-item]


def test_the_class_has_the_text_and_an_object_has_its_tools() -> None:
    """DSPy may read the attribute from either; it must be a str."""
    assert KernelInterpreter.execution_instructions == KERNEL_INSTRUCTIONS
    assert KernelInterpreter().execution_instructions == KERNEL_INSTRUCTIONS
    listed = KernelInterpreter({"search": search}).execution_instructions
    assert listed.startswith(f"{KERNEL_INSTRUCTIONS}\nTools of this interpreter:\n- `search(query: str, ")


def test_a_replay_has_the_same_instructions() -> None:
    """They are part of the recorded prompts."""
    recording = GOLDEN / "recording-v1.ipynb"
    assert ReplayInterpreter(recording).execution_instructions == KERNEL_INSTRUCTIONS
    replayed = ReplayInterpreter(recording, {"search": search})
    assert replayed.execution_instructions == KernelInterpreter({"search": search}).execution_instructions
