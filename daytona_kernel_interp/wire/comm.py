"""Calls: what cell and host say to each other inside Jupyter messages, and host to relay on its own stream.

**The bridge.** Requests of a cell are ``comm_msg`` on iopub; replies are ``comm_msg`` on *control*, because the shell
channel is blocked while a cell runs (Jupyter messaging spec, "Custom Messages"; ipykernel handles control on a thread
of its own). ``content.data`` is one of the objects below, values travel as the message's buffers
(:mod:`.values`). The comm's target name is :data:`COMM_TARGET`.

========= =========== =============================== ==================================================
``op``     direction   further fields                  buffers
========= =========== =============================== ==================================================
call       to host     ``id`` int, ``name`` str,       [args, kwargs]
                       ``arrow`` true: see ``kept``
submit     to host                                     {field: value}
value      to host                                     the cell's last expression, where JSON carries it
wanted     to host                                     the answer to :attr:`Preamble.wanted`
result     to cell     ``id``                          the tool's return value
error      to cell     ``id``                          :class:`ToolFailure` as a dict
raise      to cell     ``cell`` msg_id                 none; KeyboardInterrupt into that cell's main thread
inspect    to cell     ``name`` str, or none           none; answered on control, see :mod:`.looks`
inspected  to host     see :mod:`.looks`               none, or a variable's value
========= =========== =============================== ==================================================

**The preamble.** An ``execute_request`` whose metadata has the key :data:`PREAMBLE_KEY` carries one value in its
buffers: :class:`Preamble` as a dict. The kernel applies it before the cell runs. The ``execute_reply`` has an object
under the same key of its metadata:

- ``compiled``: whether any of the code ran.
- ``value``: the last expression as text, where it is one buffer of at most :data:`SMALL_VALUE_BYTES` in UTF-8; else it
  comes as a ``value`` above.
- ``kept``: the keys of the large variables that the kernel keeps; and :data:`HAS_ARROW`, if it has pyarrow.
- ``forgotten``: true if it was to have one that it has not; it did not run the cell then.

**The relay's stream.** JSON objects, one a line, at most :data:`MAX_LINE_BYTES`. Requests have ``id``, ``op`` and
``args``; a reply has the ``id`` and either ``ok`` (an object) or ``error`` (text); an event has ``event`` and its
fields.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from .protocol_errors import RemoteProtocolError

if TYPE_CHECKING:
    from collections.abc import Iterator

COMM_TARGET = "daytona_kernel_interp"
PREAMBLE_KEY = "daytona_kernel_preamble"
SMALL_VALUE_BYTES = 4096
HAS_ARROW = "pyarrow"
MAX_LINE_BYTES = 1024 * 1024


@dataclass(frozen=True)
class Parameter:
    """One parameter of a tool, for ``help()`` and ``inspect.signature`` in the cell. Binding is the host's."""

    name: str
    kind: int  # inspect._ParameterKind: 0 positional-only ... 4 var-keyword
    default: str | None = None  # repr of the default, None if there is none


@dataclass(frozen=True)
class ToolSpec:
    """A tool as the cell sees it."""

    name: str
    doc: str = ""
    parameters: tuple[Parameter, ...] | None = None  # None: the host could not read a signature


@dataclass(frozen=True)
class OutputField:
    """One output field: a parameter of SUBMIT."""

    name: str
    type: str = ""


@dataclass(frozen=True)
class Preamble:
    """What the kernel sets up before the cell runs.

    A large variable is in ``kept``: its name, the hash of its encoding, and how many buffers of the message are its
    own; none if the kernel has it from an earlier cell. These buffers come last, in the order of ``kept``.
    """

    variables: dict[str, Any] = field(default_factory=dict)
    tools: tuple[ToolSpec, ...] = ()
    fields: tuple[OutputField, ...] | None = None
    max_output_chars: int | None = None
    max_value_bytes: int | None = None
    kept: tuple[tuple[str, str, int], ...] = ()
    # What the host wants after the cell: the variable of this name; or a step with a file, see guest/files.py: "do"
    # (write, folder, list or read), "path", and what that takes.
    wanted: str | dict[str, Any] | None = None
    arrow: bool = False  # whether the host has pyarrow, so that frames may come to it as Arrow IPC
    # What the random generators of Python and numpy are set to before the kernel's first cell; later it is ignored.
    seed: int | None = None
    # The cell of a client that is not the host: tools and SUBMIT stay as the host's last cell bound them.
    shared: bool = False

    def to_value(self) -> dict[str, Any]:
        """Return the plain dict that goes through the value codec."""
        return {
            "variables": self.variables,
            "tools": [
                [
                    t.name,
                    t.doc,
                    None if t.parameters is None else [[p.name, p.kind, p.default] for p in t.parameters],
                ]
                for t in self.tools
            ],
            "fields": None if self.fields is None else [[f.name, f.type] for f in self.fields],
            "max_output_chars": self.max_output_chars,
            "max_value_bytes": self.max_value_bytes,
            **({"kept": [list(kept) for kept in self.kept]} if self.kept else {}),
            **({} if self.wanted is None else {"wanted": self.wanted}),
            **({"arrow": True} if self.arrow else {}),
            **({} if self.seed is None else {"seed": self.seed}),
            **({"shared": True} if self.shared else {}),
        }

    @classmethod
    def from_value(cls, value: dict[str, Any]) -> Preamble:
        """Return the preamble in what :meth:`to_value` made."""
        return cls(
            variables=value["variables"],
            tools=tuple(
                ToolSpec(name, doc, None if params is None else tuple(Parameter(*p) for p in params))
                for name, doc, params in value["tools"]
            ),
            fields=None if value["fields"] is None else tuple(OutputField(*f) for f in value["fields"]),
            max_output_chars=value["max_output_chars"],
            max_value_bytes=value["max_value_bytes"],
            kept=tuple((name, key, count) for name, key, count in value.get("kept", ())),
            wanted=value.get("wanted"),
            arrow=value.get("arrow") is True,
            seed=value.get("seed"),
            shared=value.get("shared") is True,
        )


@dataclass(frozen=True)
class ToolFailure:
    """A host tool's exception, as facts: the cell builds an exception from them."""

    type: str  # class name
    bases: tuple[str, ...]  # names of the builtin exception classes among its ancestors, nearest first
    message: str

    def to_value(self) -> dict[str, Any]:
        """Return the plain dict that goes through the value codec."""
        return asdict(self)

    @classmethod
    def from_value(cls, value: dict[str, Any]) -> ToolFailure:
        """Return the failure in what :meth:`to_value` made."""
        return cls(type=value["type"], bases=tuple(value["bases"]), message=value["message"])


class LineReader:
    """Cuts the relay's stream into JSON objects. Sans-I/O."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []  # of the line that has not ended; joined once
        self._size = 0

    def feed(self, data: bytes) -> Iterator[dict[str, Any]]:
        """Yield the objects that ``data`` completes.

        Raises:
            RemoteProtocolError: If a line is too long, or no JSON object.
        """
        *lines, rest = data.split(b"\n")
        if lines:
            lines[0] = b"".join(self._pieces) + lines[0]
            self._pieces, self._size = [], 0
        self._pieces.append(rest)
        self._size += len(rest)
        if max(self._size, *map(len, lines), 0) > MAX_LINE_BYTES:
            raise RemoteProtocolError(f"a line of the relay's stream has at most {MAX_LINE_BYTES} bytes")
        for line in lines:
            try:
                message = json.loads(line)
            except (ValueError, RecursionError):
                raise RemoteProtocolError("a line of the relay's stream is not JSON") from None
            if not isinstance(message, dict):
                raise RemoteProtocolError("a line of the relay's stream is not a JSON object")
            yield message


def to_line(message: dict[str, Any]) -> bytes:
    """Return ``message`` as one line of the relay's stream."""
    return json.dumps(message).encode("ascii") + b"\n"
