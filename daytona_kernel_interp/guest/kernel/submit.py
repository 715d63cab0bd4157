"""The ``SUBMIT`` function of a cell: it checks its arguments, sends the submission and ends the cell."""

from __future__ import annotations

import builtins
import difflib
import inspect
import keyword
from typing import TYPE_CHECKING

from ...wire.comm import OutputField

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


class SubmitSignal(BaseException):
    """Raised by SUBMIT to end the cell.

    It derives from BaseException so that ``except Exception`` around a SUBMIT does not catch it. The submission has
    been sent by then: code that catches this runs on, and its output is not used.
    """


def make_submit(
    fields: Sequence[OutputField] | None,
    send: Callable[[dict[str, object]], None],
    current_fields: Callable[[], Sequence[OutputField] | None] | None = None,
) -> Callable[..., None]:
    """Return the SUBMIT function for ``fields``; None stands for one field, ``output``.

    Code may keep the function beyond the run that it was made for. Each call answers for ``current_fields()``.
    """
    declared = _declared(fields)

    def SUBMIT(*args: object, **kwargs: object) -> None:
        send(_bind(declared if current_fields is None else _declared(current_fields()), args, kwargs))
        raise SubmitSignal

    SUBMIT.__doc__ = f"Submit the final answer and end the run: {submit_signature(declared)}"
    SUBMIT.__qualname__, SUBMIT.__module__ = "SUBMIT", "__main__"
    signature = _signature(declared)
    if signature is not None:
        SUBMIT.__signature__ = signature  # type: ignore[attr-defined]
        SUBMIT.__annotations__ = {
            name: p.annotation for name, p in signature.parameters.items() if p.annotation is not p.empty
        }
    return SUBMIT


def _declared(fields: Sequence[OutputField] | None) -> list[OutputField]:
    return [OutputField("output")] if fields is None else list(fields)


def submit_signature(fields: Sequence[OutputField]) -> str:
    """Return the call as a model should write it, for example ``SUBMIT(answer: str, score: int)``."""
    return f"SUBMIT({', '.join(f'{f.name}: {f.type}' if f.type else f.name for f in fields)})"


def _bind(fields: Sequence[OutputField], args: tuple[object, ...], kwargs: dict[str, object]) -> dict[str, object]:
    names = [field.name for field in fields]
    problems = []
    if len(args) > len(names):
        problems.append(f"takes {len(names)} values but {len(args)} were given")
    values = dict(zip(names, args, strict=False))  # too many values are a problem noted above
    for name, value in kwargs.items():
        if name in values:
            problems.append(f"got field {name!r} twice")
        elif name not in names:
            problems.append(f"has no field {name!r}{_did_you_mean(name, names)}")
        values[name] = value
    missing = [repr(name) for name in names if name not in values]
    if missing:
        problems.append(f"is missing {', '.join(missing)}")
    if problems:
        raise TypeError(f"SUBMIT() {'; '.join(problems)}. Expected: {submit_signature(fields)}")
    return {name: values[name] for name in names}


def _did_you_mean(name: str, names: Sequence[str]) -> str:
    close = difflib.get_close_matches(name, names, n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""


def _signature(fields: Sequence[OutputField]) -> inspect.Signature | None:
    names = [field.name for field in fields]
    if not all(name.isidentifier() and not keyword.iskeyword(name) for name in names):
        return None
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    return inspect.Signature([inspect.Parameter(f.name, kind, annotation=_annotation(f.type)) for f in fields])


def _annotation(type_name: str) -> object:
    """Return the builtin type of that name; another type stays a text, because its class may not exist here."""
    builtin = getattr(builtins, type_name, None)
    return builtin if isinstance(builtin, type) else type_name or inspect.Parameter.empty
