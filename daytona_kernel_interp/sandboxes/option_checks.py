"""Checks of the options of sandbox descriptions: TypeError for a wrong type, ValueError for a value out of range.

Each message is one sentence that names the option. Values that may be secret are not in it.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")


def check_seconds(name: str, value: object) -> None:
    """Check that an option is a positive, finite number of seconds."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name} must be a number of seconds, not {value!r}")
    if not 0 < value < math.inf:
        raise ValueError(f"{name} must be a positive number of seconds, not {value!r}")


def check_whole(name: str, value: object, least: int, most: int | None = None) -> None:
    """Check that an option is a whole number in a range."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be a whole number, not {value!r}")
    if value < least or (most is not None and value > most):
        limits = f"{least} or more" if most is None else f"from {least} to {most}"
        raise ValueError(f"{name} must be {limits}, not {value}")


def check_text(name: str, value: object) -> None:
    """Check that an option is a text that is not empty."""
    if not isinstance(value, str):
        raise TypeError(f"{name} must be a text, not {value!r}")
    if not value:
        raise ValueError(f"{name} must not be empty")


def check_texts(name: str, value: object) -> None:
    """Check that an option maps texts to texts."""
    if not isinstance(value, Mapping):
        raise TypeError(f"{name} must be a mapping of texts, not {type(value).__name__}")
    if not all(isinstance(part, str) for pair in value.items() for part in pair):
        raise TypeError(f"{name} must have texts as names and as values")


def check_flag(name: str, value: object) -> None:
    """Check that an option is True or False."""
    if not isinstance(value, bool):
        raise TypeError(f"{name} must be True or False, not {value!r}")


def refuse_options(hints: Mapping[str, str]) -> Callable[[type[T]], type[T]]:
    """Return a decorator for a dataclass whose constructor explains unknown options.

    Args:
        hints: What to do instead, by names that the class once had or that users know from elsewhere.
    """

    def decorate(cls: type[T]) -> type[T]:
        init = cls.__init__
        names = [field.name for field in dataclasses.fields(cls)]  # type: ignore[arg-type]  # a dataclass

        @functools.wraps(init)
        def checked_init(self: T, *args: Any, **options: Any) -> None:
            for name in options:
                if name not in names:
                    raise TypeError(unknown_option(f"{cls.__name__} has", name, names, hints))
            init(self, *args, **options)

        setattr(cls, "__init__", checked_init)  # noqa: B010 - mypy allows no assignment to a method
        return cls

    return decorate


def unknown_option(owner: str, name: str, names: list[str], hints: Mapping[str, str]) -> str:
    """Return the sentence that refuses an unknown option; ``owner`` is its beginning, such as "LocalSandbox has"."""
    if name in hints:
        return f"{owner} no option {name!r}: {hints[name]}"
    similar = difflib.get_close_matches(name, names, 1)
    suggestion = f"; did you mean {similar[0]!r}?" if similar else ";"
    return f"{owner} no option {name!r}{suggestion} It has {', '.join(sorted(names))}".replace("; It", "; it")
