"""The list of facts: every check has its fact and source."""

from __future__ import annotations

import importlib
import inspect
from pathlib import Path
from typing import Any

from .facts import Known

FOLDER = Path(__file__).parent


def _checks() -> list[tuple[str, Any]]:
    modules = [importlib.import_module(f"{__package__}.{path.stem}") for path in FOLDER.glob("test_*.py")]
    return [
        (name, function)
        for module in modules
        if module.__name__ != __name__
        for name, function in inspect.getmembers(module, inspect.isfunction)
        if name.startswith("test_") and function.__module__ == module.__name__
    ]


def test_every_check_names_its_fact() -> None:
    """Every check has a fact, no fact occurs twice, and there are about eighty."""
    facts = []
    for name, function in _checks():
        marks = [mark for mark in getattr(function, "pytestmark", []) if mark.name == "fact"]
        assert len(marks) == 1, f"{name} has no fact"
        text, known = marks[0].args
        assert isinstance(known, Known)
        facts.append(text)
    assert len(set(facts)) == len(facts)
    assert len(facts) >= 80
