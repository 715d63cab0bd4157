"""The kernel's end of the bridge: tool stubs, ``SUBMIT``, and pending tool calls. Message format: ``wire/comm.py``.

Requests are sent as ``comm_msg`` on iopub, after all output that was printed before. Replies arrive as ``comm_msg`` on
control, in ipykernel's control thread. That thread only completes the pending call; the calling thread decodes.
"""

from __future__ import annotations

import asyncio
import contextvars
import ctypes
import inspect
import itertools
import os
import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import comm

from ...codec import values
from ...codec.libraries import has_arrow
from ...wire.comm import COMM_TARGET, SMALL_VALUE_BYTES, OutputField, Preamble, ToolFailure, ToolSpec
from .files import handle_request
from .submit import make_submit
from .tool_errors import ToolError, to_exception

if TYPE_CHECKING:
    from jupyter_client.session import Session

Reply = tuple[Mapping[str, object], Sequence[values.Buffer]]

# The cell that runs this code. Tasks and callbacks that it leaves behind keep it.
_CELL: contextvars.ContextVar[object] = contextvars.ContextVar("cell", default=None)

# Names that begin_cell() binds in the namespace.
_SUBMIT, _TOOL_ERROR = "SUBMIT", "ToolError"


class Flushable(Protocol):
    """An output stream of the kernel."""

    def flush(self) -> None:
        """Send the buffered text."""


class Bridge:
    """Connects code in cells with the tools of the host. One per kernel."""

    def __init__(self, session: Session, iopub_socket: Any, streams: Sequence[Flushable]) -> None:
        self._session, self._iopub, self._streams = session, iopub_socket, streams
        self._comm_id: str | None = None
        self._parent: dict[str, object] = {}
        # By id: the tool's name, the time of the call, and the function that takes the reply.
        self._calls: dict[int, tuple[str, float, Callable[[Reply], None]]] = {}
        self._ids = itertools.count(1)
        self._specs: dict[str, tuple[ToolSpec, Callable[..., Any]]] = {}
        # SUBMIT's output fields, and the function. Code may have kept functions of earlier fields.
        self._submit: tuple[tuple[OutputField, ...] | None, Callable[..., None]] | None = None
        self._max_value_bytes: int | None = None
        self._host_has_arrow = False
        self._pid = os.getpid()
        self._cell: object = None  # stands for the running cell in _CELL
        self._earlier_threads: list[threading.Thread] = []  # that cells before it have left behind
        self._main_thread = threading.main_thread().ident
        self.running: str | None = None  # msg_id of the cell that the main thread runs

    def __reduce__(self) -> str:
        raise TypeError("tools and SUBMIT stay in the process of the cell: call them there and pass on the results")

    # --- start of a cell -------------------------------------------------------------------------

    def begin_cell(self, parent: Mapping[str, object], preamble: Preamble, namespace: dict[str, object]) -> None:
        """Bind the tools, SUBMIT and the variables of a cell in ``namespace``.

        Tools and SUBMIT that code has overwritten are restored, and tools that the host no longer offers are removed.
        Variables are bound last, so an input with the name of a tool hides that tool.
        """
        self._cell = object()
        _CELL.set(self._cell)
        self._earlier_threads = threading.enumerate()
        if self._comm_id is None:
            self._comm_id = comm.create_comm(target_name=COMM_TARGET).comm_id
        self._parent = {"header": parent["header"]}
        self._max_value_bytes, self._host_has_arrow = preamble.max_value_bytes, preamble.arrow
        if not preamble.shared:
            self._bind_tools(preamble.tools, namespace)
            if self._submit is None or self._submit[0] != preamble.fields:
                function = make_submit(preamble.fields, self._send_submission, self._fields_of_this_cell)
                self._submit = (preamble.fields, function)
            namespace[_SUBMIT] = self._submit[1]
        namespace.update(preamble.variables)

    def _bind_tools(self, specs: Sequence[ToolSpec], namespace: dict[str, object]) -> None:
        for name, (_, stub) in list(self._specs.items()):
            if name not in {spec.name for spec in specs}:
                del self._specs[name]
                if namespace.get(name) is stub:
                    del namespace[name]
        for spec in specs:
            known = self._specs.get(spec.name)
            # An unchanged tool stays the same object: code may have stored it, and DSPy compares tools by identity.
            stub = known[1] if known is not None and known[0] == spec else self._make_stub(spec)
            self._specs[spec.name] = (spec, stub)
            namespace[spec.name] = stub
        if specs:
            namespace.setdefault(_TOOL_ERROR, ToolError)

    def _make_stub(self, spec: ToolSpec) -> Callable[..., Any]:
        name = spec.name

        def tool(*args: object, **kwargs: object) -> object:
            return self.call(name, args, kwargs)

        async def aio(*args: object, **kwargs: object) -> object:
            return await self.acall(name, args, kwargs)

        signature = _signature(spec)
        function: Any
        for function in (tool, aio):
            function.__name__ = function.__qualname__ = name
            function.__module__ = "__main__"  # where it stands: a process pool finds it there, and its call is refused
            function.__doc__ = spec.doc or None
            if signature is not None:
                function.__signature__ = signature
        aio.__qualname__ = f"{name}.aio"
        tool.aio = aio  # type: ignore[attr-defined]
        return tool

    # --- calls to the host -----------------------------------------------------------------------

    def call(self, name: str, args: tuple[object, ...], kwargs: dict[str, object]) -> object:
        """Call the host's tool ``name`` and wait for its result. Thread-safe.

        Raises:
            ToolError: If the tool failed on the host; the class is a subclass.
            TypeError: If an argument has a type that cannot leave the sandbox.
        """
        inbox: queue.SimpleQueue[Reply] = queue.SimpleQueue()
        call_id = self._send_call(name, args, kwargs, inbox.put)
        try:
            reply = inbox.get()  # SIGINT interrupts this in the main thread
        finally:
            self._calls.pop(call_id, None)
        return _result_or_error(reply)

    async def acall(self, name: str, args: tuple[object, ...], kwargs: dict[str, object]) -> object:
        """Call the host's tool ``name`` without blocking the cell's event loop."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Reply] = loop.create_future()

        def settle(reply: Reply) -> None:
            if not future.done():
                future.set_result(reply)

        def complete(reply: Reply) -> None:
            loop.call_soon_threadsafe(settle, reply)

        call_id = self._send_call(name, args, kwargs, complete)
        try:
            reply = await future
        finally:
            self._calls.pop(call_id, None)
        return _result_or_error(reply)

    def _send_call(
        self, name: str, args: tuple[object, ...], kwargs: dict[str, object], complete: Callable[[Reply], None]
    ) -> int:
        if os.getpid() != self._pid:
            raise RuntimeError(f"{name}() can be called from the cell and its threads, not from a child process")
        failure = f"{name}() cannot send this argument to the host"
        buffers = self._dumps([list(args), kwargs], failure, snapshot=True, root=values.ARGUMENTS)
        call_id = next(self._ids)
        self._calls[call_id] = (name, time.monotonic(), complete)
        self._send({"op": "call", "id": call_id, "name": name, **({"arrow": True} if has_arrow() else {})}, buffers)
        return call_id

    def pending_calls(self) -> list[tuple[str, float]]:
        """Return name and time (``time.monotonic``) of each pending call. Thread-safe."""
        return [(name, since) for name, since, _ in dict.copy(self._calls).values()]

    def bound_callables(self) -> dict[str, object]:
        """Return the tools, ``SUBMIT`` and ``ToolError`` as bound in the namespace. Thread-safe."""
        found = {name: stub for name, (_, stub) in dict.copy(self._specs).items()}
        submit = {} if self._submit is None else {_SUBMIT: self._submit[1]}
        return {**found, **submit, **({_TOOL_ERROR: ToolError} if found else {})}

    def cell_ended(self) -> None:
        """Let what the cell has left behind submit no more."""
        self.running = self._cell = None

    def _fields_of_this_cell(self) -> tuple[OutputField, ...] | None:
        """Return the output fields that the calling code answers for.

        Raises:
            RuntimeError: If that code belongs to a cell that has ended, or runs in a child process.
        """
        if os.getpid() != self._pid:
            raise RuntimeError("SUBMIT() can be called from the cell and its threads, not from a child process")
        # A task has the context of the code that made it, a thread mostly an empty one.
        thread, cell = threading.current_thread(), _CELL.get()
        late = (
            thread in self._earlier_threads and thread is not threading.main_thread()
            if cell is None
            else cell is not self._cell
        )
        if late or self._cell is None or self._submit is None:
            raise RuntimeError("SUBMIT() has no effect: the cell that made this call has ended")
        return self._submit[0]

    def _send_submission(self, fields: dict[str, object]) -> None:
        json_only = self._submit is not None and self._submit[0] is None
        answer = values.json_form(fields) if json_only else fields
        advice = ". Convert it to plain Python first"
        self._send(
            {"op": "submit"}, self._dumps(answer, "SUBMIT() cannot send this answer", advice, root=values.FIELDS)
        )

    def send_value(self, value: object) -> str | None:
        """Send the cell's last expression if the codec carries it; otherwise the host has its repr only.

        A small value is returned instead, for the cell's reply: a message of its own would take a tenth of the time
        of a small cell.
        """
        try:
            buffers = self._dumps(value, "")
            if len(buffers) == 1 and len(buffers[0]) <= SMALL_VALUE_BYTES:
                return bytes(buffers[0]).decode("utf-8")
        except Exception:  # code of the value, such as its __iter__, may raise anything
            return None
        self._send({"op": "value"}, buffers)
        return None

    def send_requested(self, requested: str | dict[str, object], namespace: Mapping[str, object]) -> None:
        """Send the variable named ``requested``, or the result of a file request.

        Raises:
            NameError: If there is no such variable.
            TypeError: If it cannot leave the sandbox.
            OSError: If the file cannot be read or written.
        """
        if isinstance(requested, str) and requested not in namespace:
            raise NameError(f"name {requested!r} is not defined")
        answer = namespace[requested] if isinstance(requested, str) else handle_request(requested)
        failure = f"variable {requested!r} cannot be sent to the host"
        root = requested if isinstance(requested, str) else "value"
        self._send({"op": "wanted"}, self._dumps(answer, failure, snapshot=True, root=root))

    def _dumps(
        self, value: object, failure: str, advice: str = "", *, snapshot: bool = False, root: str = "value"
    ) -> list[values.Buffer]:
        """Return the encoded value; if there is none, raise TypeError with ``failure``, the reason and ``advice``."""
        try:
            limit, arrow = self._max_value_bytes, self._host_has_arrow
            return values.dumps(value, max_bytes=limit, snapshot=snapshot, arrow=arrow, root=root)
        except (values.UnsupportedValue, values.ValueTooLarge) as error:
            raise TypeError(f"{failure}: {error}{advice}") from None

    def _send(self, data: Mapping[str, object], buffers: Sequence[values.Buffer]) -> None:
        for stream in self._streams:  # first, so that printed text arrives before this message
            stream.flush()
        content = {"comm_id": self._comm_id, "data": data}
        frames: list[Any] = [*buffers]
        topic = f"comm-{self._comm_id}".encode()
        self._session.send(self._iopub, "comm_msg", content, parent=self._parent, ident=topic, buffers=frames)

    # --- replies, on the control thread -----------------------------------------------------------

    def on_control(self, data: Mapping[str, object], buffers: Sequence[values.Buffer], *, async_cell: bool) -> None:
        """Handle a request or reply of the control channel. Late and unknown replies are dropped."""
        op = data.get("op")
        if op == "raise":
            self._raise_in_cell(data.get("cell"), async_cell)
        elif op == "pending":
            self._send({"op": "pending", "ids": sorted(self._calls)}, ())
        elif op == "abandon":
            upto = data.get("upto")
            calls = [call_id for call_id in self._calls if not isinstance(upto, int) or call_id <= upto]
            for call_id in calls:
                self._complete(call_id, {**data, "op": "error"}, buffers)
            self._send({"op": "abandoned", "ids": calls}, ())
        else:
            self._complete(data.get("id"), data, buffers)

    def _complete(self, call_id: object, data: Mapping[str, object], buffers: Sequence[values.Buffer]) -> None:
        call = self._calls.pop(call_id, None) if type(call_id) is int else None
        if call is not None:
            call[2]((data, buffers))

    def _raise_in_cell(self, msg_id: object, async_cell: bool) -> None:
        # Only while that cell runs: after its end the exception would be raised in kernel code. In an async cell, a
        # KeyboardInterrupt within a task would leave the event loop and end the kernel; a cancellation does not.
        if self.running is None or msg_id != self.running or self._main_thread is None:
            return
        error = asyncio.CancelledError if async_cell else KeyboardInterrupt
        ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(self._main_thread), ctypes.py_object(error))


def _result_or_error(reply: Reply) -> object:
    data, buffers = reply
    value = values.loads(buffers)
    if data.get("op") == "error":
        raise to_exception(ToolFailure.from_value(value))
    return value


class _DefaultRepr:
    """A default value of which only the repr is known."""

    def __init__(self, text: str) -> None:
        self._text = text

    def __repr__(self) -> str:
        return self._text


def _signature(spec: ToolSpec) -> inspect.Signature | None:
    if spec.parameters is None:
        return None
    parameters = []
    try:
        for p in spec.parameters:
            default = inspect.Parameter.empty if p.default is None else _DefaultRepr(p.default)
            # Parameter converts the number of a kind.
            parameters.append(inspect.Parameter(p.name, p.kind, default=default))  # type: ignore[arg-type]
        return inspect.Signature(parameters)
    except ValueError:
        return None
