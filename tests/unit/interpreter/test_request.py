"""Requests: wrong calls are refused before anything is sent, and large variables are sent once."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("dspy")

from daytona_kernel_interp.codec import values
from daytona_kernel_interp.interpreter.dspy_errors import InvalidCall, UnsendableValue
from daytona_kernel_interp.interpreter.options import CallSettings
from daytona_kernel_interp.interpreter.request import build_request
from daytona_kernel_interp.interpreter.sent_inputs import SentInputs
from daytona_kernel_interp.wire.comm import OutputField, Preamble

pytestmark = pytest.mark.dspy

LARGE = "x" * (1 << 20)


def settings(**changed: Any) -> CallSettings:
    plain: dict[str, Any] = {
        "tools": {},
        "output_fields": None,
        "execution_timeout": None,
        "max_output_chars": 100,
        "max_value_bytes": 1 << 24,
        "on_output": None,
    }
    return CallSettings(**{**plain, **changed})


def preamble(buffers: list[Any], count: int = 1) -> Preamble:
    return Preamble.from_value(values.loads(buffers[: len(buffers) - count + 1]))


def test_a_request_has_what_the_cell_needs() -> None:
    """Variables, tools, fields, limits and the seed are in the preamble."""
    request = build_request(
        "1",
        {"a": [1]},
        settings(tools={"t": print}, output_fields=[{"name": "b", "type": "int"}], seed=7),
        SentInputs(),
    )
    found = preamble(request.buffers)
    assert (found.variables, found.max_output_chars, found.seed) == ({"a": [1]}, 100, 7)
    assert [tool.name for tool in found.tools] == ["t"]
    assert found.fields == request.fields == (OutputField("b", "int"),)
    assert request.complete_request is None


def test_a_large_variable_is_sent_once() -> None:
    """The next request names it; should the kernel have lost it, a complete request can be built."""
    inputs = SentInputs()
    first = build_request("1", {"a": LARGE}, settings(), inputs)
    assert sum(map(len, first.buffers)) > len(LARGE)
    inputs.set_cached_keys([first.variables["a"].key])
    second = build_request("1", {"a": LARGE}, settings(), inputs)
    assert sum(map(len, second.buffers)) < 10_000
    assert second.complete_request is not None
    assert sum(map(len, second.complete_request().buffers)) > len(LARGE)


WRONG: list[tuple[str, Any, dict[str, Any], type[Exception]]] = [
    ("code", 5, {}, InvalidCall),
    ("variables", [1], {}, InvalidCall),
    ("variables", {"two words": 1}, {}, InvalidCall),
    ("variables", {"class": 1}, {}, InvalidCall),
    ("variables", {"a": print}, {}, UnsendableValue),
    ("variables", {"__dspy_a": object()}, {}, UnsendableValue),
    ("variables", {"a": "long" * 100}, {"max_value_bytes": 100}, UnsendableValue),
    ("tools", None, {"tools": [print]}, InvalidCall),
    ("tools", None, {"tools": {"five": 5}}, InvalidCall),
    ("output_fields", None, {"output_fields": ["a"]}, InvalidCall),
    ("execution_timeout", None, {"execution_timeout": 0}, InvalidCall),
    ("max_value_bytes", None, {"max_value_bytes": "1"}, InvalidCall),
]


@pytest.mark.parametrize(("what", "value", "changed", "error"), WRONG, ids=[f"{i}-{w[0]}" for i, w in enumerate(WRONG)])
def test_a_wrong_call_is_refused(what: str, value: Any, changed: dict[str, Any], error: type[Exception]) -> None:
    """An unsendable value is a TypeError, everything else a ValueError; both end a run of DSPy."""
    code, variables = (value, None) if what == "code" else ("1", value if what == "variables" else None)
    with pytest.raises(error) as caught:
        build_request(code, variables, settings(**changed), SentInputs())
    assert isinstance(caught.value, TypeError if error is UnsendableValue else ValueError)


def test_a_lone_surrogate_is_a_syntax_error() -> None:
    """Source text is UTF-8."""
    with pytest.raises(SyntaxError, match="A lone surrogate at position 1"):
        build_request("'\ud800'", None, settings(), SentInputs())


def test_cells_of_flex_get_the_bare_value() -> None:
    """Their variables begin with ``__dspy_`` and go in JSON's form."""
    request = build_request("1", {"__dspy_a": (1,)}, settings(), SentInputs())
    assert request.raw_only
    assert preamble(request.buffers).variables == {"__dspy_a": [1]}
