"""The result of an inspection: typed, as plain text, and as an HTML table for a notebook.

All of it comes from a sandbox, so everything is checked, bounded, stripped of control characters, and escaped.
"""

from __future__ import annotations

import dataclasses
import html
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..formatting import byte_size, duration, table
from ..wire.inspect_messages import CODE_CHARS, KINDS, MAX_CALLS, MAX_VARIABLES, NAMED_CHARS, ROW

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_NAME_CHARS, _TYPE_CHARS, _LINE_CHARS = 200, 140, 120
_MAX_DIMENSIONS = 32


@dataclass(frozen=True)
class Variable:
    """One variable.

    Attributes:
        name: Its name.
        type: Qualified name of its type.
        size: Bytes of the object itself, or of the data of an array or table. None where only the value's own code
            could compute it.
        shape: Its length or dimensions; None as for ``size``.
        preview: A short text of its value.
        kind: ``variable``, ``function``, ``class`` or ``module``.
    """

    name: str
    type: str
    size: int | None = None
    shape: tuple[int, ...] | None = None
    preview: str = ""
    kind: str = "variable"


@dataclass(frozen=True)
class PendingCall:
    """A pending call of a host tool."""

    name: str
    elapsed_s: float


@dataclass(frozen=True)
class RunningCell:
    """The running cell. ``line`` is the current line of its code, or None if it is unknown."""

    code: str
    number: int
    elapsed_s: float
    line: int | None = None
    calls: tuple[PendingCall, ...] = ()
    tasks: tuple[str, ...] = ()


@dataclass(frozen=True)
class Inspection(Mapping[str, Variable]):
    """A session at one moment: a mapping of variable names to :class:`Variable`.

    A notebook displays it as a table, which a click on a heading sorts; elsewhere it is text.

    Attributes:
        variables: The session's variables in the order of their creation, with modules, functions and classes, and
            with those whose names begin with an underscore.
        running: The running cell, or None.
        left_out: The number of further variables.
        tools: Names of the host's tools.
        cells: The number of cells that the kernel started.
        answered_by: ``"kernel"``; or ``"relay"`` if native code in the kernel blocks all its threads. The variables are
            then those of ``age_s`` seconds ago.
        age_s: Age of the variables, where the relay answered.
        cpu_percent: CPU use of the kernel's process, where the relay answered.
        memory_bytes: Memory of the kernel's process, where the relay answered.
        session: The session's id.
        note: A further line for the user, such as which of several sessions this is.
        private: Whether the table shows variables whose names begin with an underscore; else it counts them.
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
        return {variable.name: variable for variable in self.variables}[name]

    def __iter__(self) -> Iterator[str]:
        """Iterate over the names of all variables."""
        return (variable.name for variable in self.variables)

    def __len__(self) -> int:
        """Return the number of variables."""
        return len(self.variables)

    def noted(self, note: str) -> Inspection:
        """Return a copy with a note."""
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
        head = "".join(f"<div>{html.escape(line)}</div>" for line in self.headings())
        foot = "".join(f"<div>{html.escape(line)}</div>" for line in self.footings())
        return f"<div>{head}{_html_table(self.shown())}{foot}</div>"

    def headings(self) -> Iterator[str]:
        """Yield the lines above the table, which describe the running cell."""
        if self.note:
            yield self.note
        running = self.running
        if self.answered_by != "kernel":
            why = (
                ", though this host runs no cell"
                if running is None
                else f" for {duration(running.elapsed_s)}: native code blocks it"
            )
            yield f"The kernel does not answer{why}. {', '.join(self._process_texts())}"
            age = "This host has not inspected it before." if self.age_s is None else ""
            yield age or f"Its variables as of {duration(self.age_s or 0.0)} ago:"
        if running is None:
            if self.answered_by == "kernel":
                yield "No cell runs."
            return
        where = "" if running.line is None else f", at line {running.line}"
        yield f"Cell {running.number} runs for {duration(running.elapsed_s)}{where}: {_line(running)}"
        if running.calls:
            yield "It waits for " + ", ".join(f"{call.name} ({duration(call.elapsed_s)})" for call in running.calls)
        if running.tasks:
            yield f"Tasks: {', '.join(running.tasks)}"

    def _process_texts(self) -> Iterator[str]:
        if self.cpu_percent is not None:
            yield f"{self.cpu_percent:.0f} % CPU"
        if self.memory_bytes is not None:
            yield f"{byte_size(self.memory_bytes)} of memory"

    def footings(self) -> Iterator[str]:
        """Yield the lines below the table, which count what it leaves out."""
        if hidden := len(self.variables) - len(self.shown()):
            yield f"… and {hidden:,} private, of names that begin with an underscore."
        if self.left_out:
            yield f"… and {self.left_out:,} older variables."
        if self.tools:
            yield f"Tools: {', '.join(self.tools)}"


# --- as text ------------------------------------------------------------------------------------------------------

_HEADINGS = ("NAME", "TYPE", "SIZE", "SHAPE", "VALUE")


def _cells(variable: Variable) -> tuple[str, str, str, str, str]:
    size = "" if variable.size is None else byte_size(variable.size)
    shape = "" if variable.shape is None else " x ".join(f"{n:,}" for n in variable.shape)
    return variable.name, variable.type, size, shape, variable.preview


def _text_table(variables: Sequence[Variable]) -> list[str]:
    if not variables:
        return []
    rows = [_cells(variable) for variable in variables]
    if len(rows) == 1 and "\n" in rows[0][4]:  # a single variable with a repr of several lines
        *facts, text = rows[0]
        return ["  ".join(fact for fact in facts if fact), text]
    return table([_HEADINGS, *((*facts, preview.replace("\n", " ")) for *facts, preview in rows)], right=(2,))


def _line(running: RunningCell) -> str:
    lines = running.code.splitlines() or [""]
    at = running.line - 1 if running.line is not None and running.line <= len(lines) else 0
    return lines[at].strip()[:_LINE_CHARS]


# --- as a table in a notebook --------------------------------------------------------------------------------------

# An inline handler, because each table of a notebook would need a script element or a global function to be present.
# Rows are moved and never created, so no text is parsed as HTML twice.
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
    sort = html.escape(" ".join(_SORT.split()))
    return f'<table><thead onclick="{sort}"><tr>{heads}</tr></thead><tbody>{rows}</tbody></table>'


def _html_row(variable: Variable) -> str:
    name, kind, size, shape, preview = map(html.escape, _cells(variable))
    elements = "" if variable.shape is None else str(math.prod(variable.shape))
    long = "\n" in preview or len(preview) > _LINE_CHARS
    value = f"<pre>{preview}</pre>" if long else f"<code>{preview}</code>"
    return (
        f'<tr><td style="text-align:left"><b>{name}</b></td><td style="text-align:left">{kind}</td>'
        f'<td data-key="{"" if variable.size is None else variable.size}">{size}</td>'
        f'<td data-key="{elements}">{shape}</td><td style="text-align:left">{value}</td></tr>'
    )


# --- parsing the sandbox's answer ---------------------------------------------------------------------------------


def parse_inspection(
    answer: Mapping[str, object], session: str, name: str | None = None, *, private: bool = False
) -> Inspection:
    """Return the inspection in an answer, of all variables or of ``name``; invalid parts are left out."""
    by_relay = answer.get("by") == "relay"
    summary = answer.get("summary") if by_relay else answer
    given: Mapping[str, object] = summary if isinstance(summary, Mapping) else {}
    rows = [parse_row(row) for row in as_list(given.get("variables"))[:MAX_VARIABLES]]
    found = Inspection(
        variables=tuple(variable for variable in rows if variable is not None),
        running=parse_running(answer.get("running")),
        left_out=_count(given.get("left_out")) or 0,
        tools=_names(given.get("tools")),
        cells=_count(given.get("count")) or 0,
        answered_by="relay" if by_relay else "kernel",
        age_s=_number(answer.get("age_s")),
        cpu_percent=_number(answer.get("cpu_percent")),
        memory_bytes=_count(answer.get("memory_bytes")),
        session=session,
        private=private,
    )
    if name is None:
        return found
    # The kernel answers for that variable alone; its relay has only a summary of all.
    named = tuple(variable for variable in found.variables if variable.name == clean(name, _NAME_CHARS))
    return dataclasses.replace(found, variables=named, left_out=0, tools=(), private=True)


def parse_row(row: object) -> Variable | None:
    """Return the variable in a row, or None if the row is invalid."""
    if not isinstance(row, list) or len(row) != len(ROW):
        return None
    name, cls, size, shape, preview, kind = row
    if not (isinstance(name, str) and isinstance(cls, str) and isinstance(preview, str)):
        return None
    return Variable(
        name=clean(name, _NAME_CHARS),
        type=clean(cls, _TYPE_CHARS),
        size=_count(size),
        shape=_parse_shape(shape),
        preview=clean(preview, NAMED_CHARS, lines=True),
        kind=kind if kind in KINDS else KINDS[0],
    )


def _parse_shape(shape: object) -> tuple[int, ...] | None:
    if not isinstance(shape, list):
        return None
    numbers = tuple(number for number in map(_count, shape[:_MAX_DIMENSIONS]) if number is not None)
    return numbers if len(numbers) == min(len(shape), _MAX_DIMENSIONS) else None


def parse_running(running: object) -> RunningCell | None:
    """Return the running cell, or None if no cell runs or the data is invalid."""
    match running:
        case {"code": str(code), "number": number, "elapsed_s": elapsed, **rest}:
            calls = [parse_call(call) for call in as_list(rest.get("calls"))[:MAX_CALLS]]
            return RunningCell(
                code=clean(code, CODE_CHARS, lines=True),
                number=_count(number) or 0,
                elapsed_s=_number(elapsed) or 0.0,
                line=_count(rest.get("line")) or None,
                calls=tuple(call for call in calls if call is not None),
                tasks=_names(rest.get("tasks")),
            )
    return None


def parse_call(call: object) -> PendingCall | None:
    """Return a pending call, or None if the data is invalid."""
    match call:
        case [str(name), elapsed]:
            return PendingCall(clean(name, _NAME_CHARS), _number(elapsed) or 0.0)
    return None


def clean(text: str, limit: int, *, lines: bool = False) -> str:
    """Return at most ``limit`` characters of a text, without characters that control a terminal or a page.

    Control and format characters (escape sequences, right-to-left marks) and lone surrogates are replaced.
    """
    text = text[:limit]
    if text.isprintable():
        return text
    allowed = "\n\t" if lines else ""
    return "".join(c if c.isprintable() or c in allowed else " " if c in "\n\t" else "\ufffd" for c in text)


def _names(value: object) -> tuple[str, ...]:
    return tuple(clean(name, _NAME_CHARS) for name in as_list(value)[:MAX_CALLS] if isinstance(name, str))


def as_list(value: object) -> list[object]:
    """Return ``value`` if it is a list, else an empty one."""
    return value if isinstance(value, list) else []


def _count(value: object) -> int | None:
    return value if type(value) is int and 0 <= value < 1 << 63 else None


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, (int, float)) and type(value) is not bool and 0 <= value < 1e12 else None
