"""Tests of ``tools.bound_arguments``; ``test_binding`` compares calls with those of Python."""

from __future__ import annotations

import inspect
from typing import Any

import pytest

from daytona_kernel_interp.tools.bound_arguments import BoundArguments

pytestmark = pytest.mark.python


def tool(x: Any, /, y: Any = 0, *rest: Any, z: Any = 0, **more: Any) -> None: ...


SIGNATURE = inspect.signature(tool)


def test_the_dict_has_each_name_once() -> None:
    """An argument of a parameter comes before one of ``**more`` with the same name; order is that of the parameters."""
    bound = BoundArguments.bind(SIGNATURE, [1, 2, 3], {"x": 4, "rest": 5, "other": 6, "z": 7})
    assert list(bound.items()) == [("x", 1), ("y", 2), ("rest", (3,)), ("z", 7), ("other", 6)]
    assert bound.as_passed() == ([1, 2, 3], {"z": 7, "x": 4, "rest": 5, "other": 6})


def test_positions_are_kept_or_become_keywords() -> None:
    """A tool that accepts keywords only gets by position what has no other way."""
    bound = BoundArguments.bind(SIGNATURE, [1, 2], {"z": 3})
    assert bound.as_passed() == ([1, 2], {"z": 3})
    assert bound.as_passed(by_keyword=True) == ([1], {"y": 2, "z": 3})
    assert BoundArguments.bind(SIGNATURE, [1], {"y": 2}).as_passed() == ([1], {"y": 2})


def test_names_alone_are_arguments_too() -> None:
    """Whoever knows the arguments only by name can call the tool."""
    bound = BoundArguments.from_names(SIGNATURE.parameters, {"other": 1, "x": 2, "rest": (3,), "y": 4})
    assert bound.as_passed() == ([2, 4, 3], {"other": 1})
    assert BoundArguments.from_names({}, {"arg0": 1, "b": 2}).as_passed() == ([1], {"b": 2})


def test_a_copy_with_other_values() -> None:
    """Each value is converted with the name of its parameter, also those with a hidden name."""
    bound = BoundArguments.bind(SIGNATURE, [1, 2, 3, 4], {"x": 5})
    changed = bound.convert(lambda name, value: f"{name}{value}")
    assert changed.as_passed() == (["x1", "y2", "rest3", "rest4"], {"x": "more5"})
    assert bound.as_passed() == ([1, 2, 3, 4], {"x": 5})
