"""What was found in a session: typed, as plain text, and as a table for a notebook.

All of it comes out of a sandbox, so everything is checked, bounded, stripped of control characters, and escaped.
"""

from __future__ import annotations

import dataclasses
import html
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..wire.inspect_messages import CODE_CHARS, KINDS, MAX_CALLS, MAX_VARIABLES, NAMED_CHARS, ROW

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

_NAME_CHARS, _TYPE_CHARS, _LINE_CHARS = 200, 140, 120
_MAX_DIMENSIONS = 32


@dataclass(frozen=True)
class Variable:
    """One variable. ``size`` in bytes and ``shape`` are None where nothing can be told without running its code.

    ``size`` is that of the object itself, for an array or a table that of its data; ``kind`` is ``variable``,
    ``function``, ``class`` or ``module``.
    """

    name: str
    type: str
    size: int | None = None
    shape: tuple[int, ...] | None = None
    preview: str = ""
    kind: str = "variable"


@dataclass(frozen=True)
class PendingCall:
    """A call of a host tool that code waits for."""

    name: str
    elapsed_s: float


@dataclass(frozen=True)
class RunningCell:
    """The cell that runs. ``line`` is where in its code it is, where that can be told."""

    code: str
    number: int
    elapsed_s: float
    line: int | None = None
    calls: tuple[PendingCall, ...] = ()
    tasks: tuple[str, ...] = ()


@dataclass(frozen=True)
class Inspection:
    """A session at one moment. Shows as a table in a notebook, which a click on a heading sorts, and as text elsewhere.

    Attributes:
        variables: What the code made, in the order it did; modules, functions and classes too, and private ones.
        running: The cell that runs, or None.
        left_out: How many further variables there are.
        tools: Names of the host's tools that code can call.
        cells: How many cells the kernel took up.
        answered_by: ``"kernel"``; or ``"relay"``, when native code in the kernel let nobody else run: ``variables`` are
            those of ``age_s`` seconds ago then.
        cpu_percent: Of the kernel's process, where the relay answered.
        memory_bytes: Of the same.
        session: The session's id.
        note: What else there is to say, such as which of several sessions it is.
        private: Whether variables whose names begin with an underscore are shown too; else they are counted.
    """

    variables: tuple[Variable, ...] = ()
    running: RunningCell | None = None
    left_out: int = 0
    tools: tuple[str, ...] = ()
    cells: int = 0
    answered_by: str = "kernel"
    age_s: float | None = None
    cpu_percent: float | None = None
    memory_bytes: int | None = None
    session: str = ""
    note: str = ""
    private: bool = False

    def __getitem__(self, name: str) -> Variable:
        """Return the variable of that name."""
        for variable in self.variables:
            if variable.name == name:
                return variable
        raise KeyError(name)

    def noted(self, note: str) -> Inspection:
        """Return the same with a note."""
        return dataclasses.replace(self, note=note)

    def shown(self) -> Sequence[Variable]:
        """Return the variables that the table shows."""
        return [variable for variable in self.variables if self.private or not variable.name.startswith("_")]

    def rows(self) -> Iterator[tuple[str, str, str, str, str]]:
        """Yield the table's rows: name, type, size, shape and value as texts."""
        return map(_cells, self.shown())

    def __str__(self) -> str:
        """Return it as lines of text."""
        return "\n".join([*self.headings(), *_text_table(self.shown()), *self.footings()])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        head = "".join(f"<div>{_escaped(line)}</div>" for line in self.headings())
        foot = "".join(f"<div>{_escaped(line)}</div>" for line in self.footings())
        return f"<div>{head}{_html_table(self.shown())}{foot}</div>"

    def headings(self) -> Iterator[str]:
        """Yield lines that stand above the table: what runs."""
        if self.note:
            yield self.note
        running = self.running
        if self.answered_by != "kernel":
            why = (
                ", though this host runs no cell"
                if running is None
                else f" for {_seconds(running.elapsed_s)}: native code holds it"
            )
            yield f"The kernel does not speak{why}. {self._process_texts()}"
            age = "This host has not inspected it before." if self.age_s is None else ""
            yield age or f"Its variables as of {_seconds(self.age_s or 0.0)} ago:"
        if running is None:
            if self.answered_by == "kernel":
                yield "No cell runs."
            return
        where = "" if running.line is None else f", at line {running.line}"
        yield f"Cell {running.number} runs for {_seconds(running.elapsed_s)}{where}: {_line(running)}"
        if running.calls:
            yield "It waits for " + ", ".join(f"{call.name} ({_seconds(call.elapsed_s)})" for call in running.calls)
        if running.tasks:
            yield f"Tasks: {', '.join(running.tasks)}"

    def _process_texts(self) -> str:
        cpu = "" if self.cpu_percent is None else f"{self.cpu_percent:.0f} % CPU"
        memory = "" if self.memory_bytes is None else f"{_bytes(self.memory_bytes)} of memory"
        return ", ".join(part for part in (cpu, memory) if part)

    def footings(self) -> Iterator[str]:
        """Yield lines that stand below it: what it leaves out."""
        if hidden := len(self.variables) - len(self.shown()):
            yield f"… and {hidden:,} private, of names that begin with an underscore."
        if self.left_out:
            yield f"… and {self.left_out:,} older variables."
        if self.tools:
            yield f"Tools: {', '.join(self.tools)}"


# --- as text ------------------------------------------------------------------------------------------------------

_HEADINGS = ("NAME", "TYPE", "SIZE", "SHAPE", "VALUE")


def _cells(variable: Variable) -> tuple[str, str, str, str, str]:
    size = "" if variable.size is None else _bytes(variable.size)
    shape = "" if variable.shape is None else " x ".join(f"{n:,}" for n in variable.shape)
    return variable.name, variable.type, size, shape, variable.preview


def _text_table(variables: Sequence[Variable]) -> list[str]:
    if not variables:
        return []
    rows = [_HEADINGS, *(_cells(variable) for variable in variables)]
    if len(variables) == 1 and "\n" in rows[1][4]:  # one by name, with its own text
        *facts, text = rows[1]
        return ["  ".join(fact for fact in facts if fact), text]
    widths = [min(40, max(len(row[i]) for row in rows)) for i in range(4)]
    lines = []
    for row in rows:
        cells = [f"{row[i]:>{widths[i]}}" if i == 2 else f"{row[i]:{widths[i]}}" for i in range(4)]
        value = row[4] if len(variables) == 1 else row[4].replace("\n", " ")
        lines.append("  ".join([*cells, value]).rstrip())
    return lines


def _line(running: RunningCell) -> str:
    lines = running.code.splitlines() or [""]
    at = running.line - 1 if running.line is not None and running.line <= len(lines) else 0
    return lines[at].strip()[:_LINE_CHARS]


def _seconds(seconds: float) -> str:
    if seconds >= 90:
        return f"{int(seconds) // 60} min {int(seconds) % 60} s"
    return f"{seconds:.1f} s"


def _bytes(count: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" or count >= 10 else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


# --- as a table in a notebook --------------------------------------------------------------------------------------

# In the table itself: a script or a function by name would have to be found again by each table of a notebook. Rows are
# moved, never made, so nothing is ever read as HTML twice.
_SORT = """
const head = event.target.closest('th'), table = head.closest('table'), body = table.tBodies[0];
const at = head.cellIndex, up = head.dataset.up !== '1';
for (const other of head.parentNode.cells) delete other.dataset.up;
head.dataset.up = up ? '1' : '0';
const key = row => row.cells[at].dataset.key ?? row.cells[at].textContent;
const number = text => text === '' ? -1 : Number(text);
const order = head.dataset.number
  ? (a, b) => number(key(a)) - number(key(b)) : (a, b) => key(a).localeCompare(key(b));
for (const row of [...body.rows].sort((a, b) => up ? order(a, b) : order(b, a))) body.append(row);
"""


def _html_table(variables: Sequence[Variable]) -> str:
    if not variables:
        return ""
    heads = "".join(
        f'<th style="cursor:pointer;text-align:left"{" data-number=1" if heading in ("SIZE", "SHAPE") else ""}>'
        f"{heading.title()}</th>"
        for heading in _HEADINGS
    )
    rows = "".join(_html_row(variable) for variable in variables)
    sort = _escaped(" ".join(_SORT.split()))
    return f'<table><thead onclick="{sort}"><tr>{heads}</tr></thead><tbody>{rows}</tbody></table>'


def _html_row(variable: Variable) -> str:
    name, kind, size, shape, preview = map(_escaped, _cells(variable))
    elements = "" if variable.shape is None else str(math.prod(variable.shape))
    long = "\n" in preview or len(preview) > _LINE_CHARS
    value = f"<pre>{preview}</pre>" if long else f"<code>{preview}</code>"
    return (
        f'<tr><td style="text-align:left"><b>{name}</b></td><td style="text-align:left">{kind}</td>'
        f'<td data-key="{"" if variable.size is None else variable.size}">{size}</td>'
        f'<td data-key="{elements}">{shape}</td><td style="text-align:left">{value}</td></tr>'
    )


def _escaped(text: str) -> str:
    return html.escape(text, quote=True)


# --- from what the sandbox said -----------------------------------------------------------------------------------


def parse_inspection(
    answer: Mapping[str, Any], session: str, name: str | None = None, *, private: bool = False
) -> Inspection:
    """Return the inspection in what :mod:`.looking` was told, of all or of ``name``; what is wrong is left out."""
    found = _parsed(answer, session)
    if name is None:
        return dataclasses.replace(found, private=private)
    # The kernel tells of that one alone; its relay has only a summary of all.
    named = tuple(variable for variable in found.variables if variable.name == clean(name, _NAME_CHARS))
    return dataclasses.replace(found, variables=named, left_out=0, tools=(), private=True)


def _parsed(answer: Mapping[str, Any], session: str) -> Inspection:
    by_relay = answer.get("by") == "relay"
    found: Any = answer.get("summary") if by_relay else answer
    found = found if isinstance(found, dict) else {}
    variables = [parse_row(row) for row in _list(found.get("variables"))[:MAX_VARIABLES]]
    return Inspection(
        variables=tuple(variable for variable in variables if variable is not None),
        running=parse_running(answer.get("running")),
        left_out=_count(found.get("left_out")) or 0,
        tools=tuple(clean(name, _NAME_CHARS) for name in _list(found.get("tools"))[:MAX_CALLS] if type(name) is str),
        cells=_count(found.get("count")) or 0,
        answered_by="relay" if by_relay else "kernel",
        age_s=_number(answer.get("age_s")),
        cpu_percent=_number(answer.get("cpu_percent")),
        memory_bytes=_count(answer.get("memory_bytes")),
        session=session,
    )


def parse_row(row: Any) -> Variable | None:
    """Return a variable, or None if the row is none."""
    if type(row) is not list or len(row) != len(ROW):
        return None
    name, cls, size, shape, preview, kind = row
    if not (type(name) is type(cls) is type(preview) is str):
        return None
    return Variable(
        name=clean(name, _NAME_CHARS),
        type=clean(cls, _TYPE_CHARS),
        size=_count(size),
        shape=_parse_shape(shape),
        preview=clean(preview, NAMED_CHARS, lines=True),
        kind=kind if kind in KINDS else KINDS[0],
    )


def _parse_shape(shape: Any) -> tuple[int, ...] | None:
    if type(shape) is not list:
        return None
    numbers = tuple(number for number in shape[:_MAX_DIMENSIONS] if _count(number) is not None)
    return numbers if len(numbers) == min(len(shape), _MAX_DIMENSIONS) else None


def parse_running(running: Any) -> RunningCell | None:
    """Return the running cell, or None if there is none."""
    match running:
        case {"code": str(code), "number": number, "elapsed_s": elapsed}:
            calls = [parse_call(call) for call in _list(running.get("calls"))[:MAX_CALLS]]
            return RunningCell(
                code=clean(code, CODE_CHARS, lines=True),
                number=_count(number) or 0,
                elapsed_s=_number(elapsed) or 0.0,
                line=_count(running.get("line")) or None,
                calls=tuple(call for call in calls if call is not None),
                tasks=tuple(
                    clean(name, _NAME_CHARS) for name in _list(running.get("tasks"))[:MAX_CALLS] if type(name) is str
                ),
            )
    return None


def parse_call(call: Any) -> PendingCall | None:
    """Return a call under way, or None if it is none."""
    match call:
        case [str(name), elapsed]:
            return PendingCall(clean(name, _NAME_CHARS), _number(elapsed) or 0.0)
    return None


def clean(text: str, limit: int, *, lines: bool = False) -> str:
    """Return a text without what a terminal or a page would act on, no longer than ``limit``.

    Control and format characters (escape sequences, writing from right to left) and lone surrogates are replaced.
    """
    text = text[:limit]
    if text.isprintable():
        return text
    allowed = "\n\t" if lines else ""
    return "".join(c if c.isprintable() or c in allowed else " " if c in "\n\t" else "\ufffd" for c in text)


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _count(value: Any) -> int | None:
    return value if type(value) is int and 0 <= value < 1 << 63 else None


def _number(value: Any) -> float | None:
    return float(value) if type(value) in (int, float) and 0 <= value < 1e12 else None
