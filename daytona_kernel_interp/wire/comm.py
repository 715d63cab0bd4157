"""The messages of the bridge between cell and host, and the lines of the relay's control stream.

**The bridge.** Requests of a cell are ``comm_msg`` on iopub; replies are ``comm_msg`` on *control*, because the shell
channel is blocked while a cell runs (Jupyter messaging spec, "Custom Messages"; ipykernel handles control on a thread
of its own). ``content.data`` is one of the objects below, values travel as the message's buffers
(:mod:`daytona_kernel_interp.codec.values`). The comm's target name is :data:`COMM_TARGET`.

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
inspect    to cell     ``name`` str, or none           none; answered on control, see :mod:`.inspect_messages`
inspected  to host     see :mod:`.inspect_messages`      none, or a variable's value
========= =========== =============================== ==================================================

**The preamble.** An ``execute_request`` whose metadata has the key :data:`PREAMBLE_KEY` carries one value in its
buffers: :class:`Preamble` as a dict. The kernel applies it before the cell runs. The ``execute_reply`` has an object
under the same key of its metadata:

- ``compiled``: whether any of the code ran.
- ``value``: the last expression as text, where it is one buffer of at most :data:`SMALL_VALUE_BYTES` in UTF-8; else it
  comes as a ``value`` above.
- ``kept``: the keys of the variables in the kernel's input cache; and :data:`HAS_ARROW`, if it has pyarrow.
- ``forgotten``: true if a variable that the request expects in the cache is missing; the cell did not run.

**The control stream.** JSON objects, one per line, at most :data:`MAX_LINE_BYTES`. Requests have ``id``, ``op`` and
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
    """One parameter of a tool, for ``help()`` and ``inspect.signature`` in the cell. The host binds arguments."""

    name: str
    kind: int  # inspect._ParameterKind: 0 positional-only ... 4 var-keyword
    default: str | None = None  # repr of the default value, or None


@dataclass(frozen=True)
class ToolSpec:
    """A tool as the cell sees it."""

    name: str
    doc: str = ""
    parameters: tuple[Parameter, ...] | None = None  # None if the host could not read the signature


@dataclass(frozen=True)
class OutputField:
    """One output field: a parameter of SUBMIT."""

    name: str
    type: str = ""


@dataclass(frozen=True)
class Preamble:
    """The data that the kernel applies before the cell runs.

    A large variable is listed in ``kept``: its name, the hash of its encoding, and the number of its buffers in the
    message, which is zero if it is in the kernel's input cache. These buffers come last, in the order of ``kept``.
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
    arrow: bool = False  # whether the host has pyarrow, so that frames may be sent to it as Arrow IPC
    # The seed of Python's and numpy's random generators before the kernel's first cell; ignored later.
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
        """Return the preamble that :meth:`to_value` converted."""
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
    """A host tool's exception as data, from which the cell builds an exception."""

    type: str  # class name
    bases: tuple[str, ...]  # names of the builtin exception classes among its ancestors, nearest first
    message: str

    def to_value(self) -> dict[str, Any]:
        """Return the plain dict that goes through the value codec."""
        return asdict(self)

    @classmethod
    def from_value(cls, value: dict[str, Any]) -> ToolFailure:
        """Return the failure that :meth:`to_value` converted."""
        return cls(type=value["type"], bases=tuple(value["bases"]), message=value["message"])


class LineReader:
    """Splits the control stream into JSON objects. Sans-I/O."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []  # of the incomplete line; joined when it ends
        self._size = 0

    def feed(self, data: bytes) -> Iterator[dict[str, Any]]:
        """Yield the objects that ``data`` completes.

        Raises:
            RemoteProtocolError: If a line is too long or is not a JSON object.
        """
        *lines, rest = data.split(b"\n")
        if lines:
            lines[0] = b"".join(self._pieces) + lines[0]
            self._pieces, self._size = [], 0
        self._pieces.append(rest)
        self._size += len(rest)
        if max(self._size, *map(len, lines), 0) > MAX_LINE_BYTES:
            raise RemoteProtocolError(f"a line of the control stream has at most {MAX_LINE_BYTES} bytes")
        for line in lines:
            try:
                message = json.loads(line)
            except (ValueError, RecursionError):
                raise RemoteProtocolError("a line of the control stream is not JSON") from None
            if not isinstance(message, dict):
                raise RemoteProtocolError("a line of the control stream is not a JSON object")
            yield message


def to_line(message: dict[str, Any]) -> bytes:
    """Return ``message`` as one line of the control stream."""
    return json.dumps(message).encode("ascii") + b"\n"
