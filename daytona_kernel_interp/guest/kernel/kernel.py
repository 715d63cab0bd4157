"""The kernel of a session: ipykernel's ``IPythonKernel``, whose cells call host tools and have bounded output.

A cell is an ordinary ``execute_request``. Its preamble, in the buffers of the message, brings the variables, tools,
output fields and limits of this cell. ``Kernel.execute_request`` restores what earlier cells have damaged, applies the
preamble, and lets ipykernel run the code. ``Kernel.do_execute`` makes sure that every cell has a reply, also one that
breaks IPython itself. ``finish_metadata`` puts the facts for the host into the reply and the journal.

Two threads meet here: the main thread runs cells, ipykernel's control thread handles tool replies, interrupts and
inspect requests (``dispatch_control``). Works with ipykernel 6.31 and 7.x; private names are in ``ipykernel_compat``.
"""

from __future__ import annotations

import contextlib
import inspect
import json
import os
import sys
import threading
import warnings
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING, Any

from IPython.core.error import StdinNotImplementedError
from traitlets import Type

from ...codec import values
from ...codec.libraries import has_arrow
from ...wire.comm import HAS_ARROW, PREAMBLE_KEY, Preamble
from ..journal_files import MESSAGE_DELIMITER
from .bridge import Bridge
from .class_sources import find_classes_of_cells
from .error_text import without_colours
from .input_cache import InputCache, ValueForgotten, resolve
from .inspect_handler import InspectHandler
from .ipykernel_compat import HookedKernel
from .namespace_restore import NamespaceRestorer
from .output import CellStream, OutputBudget, end_cell, pack
from .random_seed import seed_all
from .shell import Shell, message_of
from .submit import SubmitSignal

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Iterator, Mapping, Sequence

    import zmq

    from .journal_writer import JournalWriter

_to_json = json.dumps  # as it is before any cell: code may replace it
_CELL_ERRORS = (Exception, KeyboardInterrupt, SystemExit)  # stored, because code can replace builtins
_NOT_STARTED = ("KeyboardInterrupt", "interrupted before it started")
_NO_STDIN = "is not available: this kernel has no interactive user. Use a variable or a tool instead"


class Kernel(HookedKernel):
    """The kernel of one session."""

    shell_class = Type(Shell)
    shell: Any  # ipykernel declares an InteractiveShellABC, which has none of the attributes used here

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        # Read before any cell: code can replace both streams and change the environment.
        self._streams = [stream for stream in (sys.stdout, sys.stderr) if isinstance(stream, CellStream)]
        for stream in self._streams:
            stream.siblings = self._streams
        self.shell.display_pub.streams = self._streams
        self._folder = Path(os.environ["DAYTONA_KERNEL_FOLDER"])
        self._bridge = Bridge(self.session, self.iopub_socket, self._streams)
        self._budget: OutputBudget
        self._async_cell = False
        self._cells = 0
        self.ends = False  # a shutdown was requested
        self._host_ran = False  # a cell of the host was prepared, and with it the seed
        assert self.parent is not None
        self._journal: JournalWriter = self.parent.journal
        self._cancelled: deque[str] = deque(maxlen=64)  # cells interrupted before they started
        self._restorer = NamespaceRestorer(self.shell, self._streams)
        self._input_cache = InputCache()
        self._inspector = InspectHandler(self._bridge, self.shell)
        self.session.pack = pack
        # IPython's advice at a SystemExit, which is about its terminal.
        warnings.filterwarnings("ignore", message="To exit: use 'exit', 'quit', or Ctrl-D.")
        # The kernel has threads whatever the code does, and a forked child uses nothing that they share.
        warnings.filterwarnings("ignore", message=r"This process .* is multi-threaded, use of fork\(\)")
        self.shell.set_custom_exc((SubmitSignal,), lambda *_, **__: [])
        # A tip is drawn from Python's random generator at every kernel_info_request, also while a cell runs.
        self.shell.enable_tip = False
        _silence_submit_in_threads()
        find_classes_of_cells()

    # --- a cell ------------------------------------------------------------------------------------

    async def execute_request(self, stream: object, ident: object, parent: dict[str, Any]) -> None:
        """Apply the preamble in the request's buffers, then run the cell as ipykernel does."""
        self._preamble: Preamble | None = None
        self._cell_refused: tuple[str, str] | None = None  # name and text of the error of a cell that must not run
        self._error: BaseException | None = None  # the exception that ended the cell
        self._value: str | None = None  # the encoded last expression, if it is small
        self._failed_to_compile = self._input_evicted = False
        self._restorer.restore()
        self._restorer.restore_descriptors()
        self.shell.forget_traceback()
        self.shell.transformed = None
        after = self.shell.events.callbacks["post_run_cell"]
        if self._after_cell not in after:
            after.append(self._after_cell)
        cell = parent["header"]["msg_id"]
        self._journal.cell_started(cell)
        for output in self._streams:
            output.cell, output.budget = cell, None
        self.shell.displayhook.budget = self.shell.display_pub.budget = None
        if cell not in self._cancelled and PREAMBLE_KEY in parent.get("metadata", {}):
            try:
                self._apply_preamble(parent)
            except KeyboardInterrupt:  # during the decoding of large variables
                self._cell_refused = _NOT_STARTED
        # A failed cell of another client, such as jupyter console, must not abort the host's queued cells.
        parent["content"]["stop_on_error"] = False
        try:
            self._bridge.running = cell
            if cell in self._cancelled:  # after `running` is set; see dispatch_control
                self._cell_refused = _NOT_STARTED
            self._inspector.cell_started(cell, parent["content"].get("code"), self.shell.execution_count)
            await super().execute_request(stream, ident, parent)
        finally:
            self._bridge.cell_ended()
            self._inspector.cell_ended()

    def _apply_preamble(self, parent: dict[str, Any]) -> None:
        buffers = parent["buffers"]
        parent["buffers"] = []  # ipykernel keeps the request while the cell runs; free its payload
        try:
            preamble = Preamble.from_value(values.loads(buffers))
            preamble.variables.update(resolve(self._input_cache, preamble.kept, buffers))
            self._bridge.begin_cell(parent, preamble, self.shell.user_ns)
        except ValueForgotten as error:
            self._input_evicted = True
            self._cell_refused = ("ValueForgotten", str(error))
            return
        except Exception as error:  # with any error here, the host must still get a reply
            self._cell_refused = ("PreambleError", f"the kernel cannot apply the cell's preamble: {error}")
            return
        if preamble.seed is not None and not self._host_ran:
            seed_all(preamble.seed)
        self._cells += 1
        self._host_ran = self._host_ran or not preamble.shared
        name = f"output-{self._cells}.txt"
        self._budget = OutputBudget(preamble.max_output_chars, self._folder, name, preamble.max_value_bytes)
        for stream in self._streams:
            stream.budget = self._budget
        self.shell.displayhook.budget = self.shell.display_pub.budget = self._budget
        self._preamble = preamble

    async def do_shutdown(self, restart: bool) -> dict[str, object]:
        """Note that the loop, which is stopped next, is not to run again."""
        self.ends = True
        result = super().do_shutdown(restart)
        reply: dict[str, object] = await result if inspect.isawaitable(result) else result
        return reply

    async def do_execute(
        self, code: str, *args: Any, cell_meta: object = None, cell_id: object = None, **kwargs: Any
    ) -> Any:
        """Run the cell. If its preamble could not be applied, end it with that error."""
        name, text = self._cell_refused or ("", "")
        if self._cell_refused is None:
            try:
                reply: dict[str, Any] = await super().do_execute(
                    code, *args, cell_meta=cell_meta, cell_id=cell_id, **kwargs
                )
                if self._preamble is not None and "evalue" in reply:
                    reply["evalue"] = self._budget.clip(without_colours(reply["evalue"]))
                if self._preamble is not None and self._preamble.wanted is not None:
                    self._bridge.send_requested(self._preamble.wanted, self.shell.user_ns)
                return reply
            except _CELL_ERRORS as error:
                # IPython itself failed, because of what the code did: it replaced builtins, for example.
                self._restorer.restore()
                name, text = type(self._error or error).__name__, message_of(self._error or error)
            finally:
                self._restorer.restore()
        failure = {"ename": name, "evalue": text, "traceback": self.shell.last_traceback}
        self.send_response(self.iopub_socket, "error", failure)
        return {"status": "error", "execution_count": self.execution_count, "payload": [], **failure}

    def raw_input(self, prompt: str = "") -> Any:
        """Ask the client for ``input()`` if it can answer; otherwise raise an error at once."""
        if not self.stdin_allowed:
            raise StdinNotImplementedError(f"input() {_NO_STDIN}")
        return super().raw_input(prompt)

    def getpass(self, prompt: str = "", *args: Any, **kwargs: Any) -> Any:
        """Ask the client for ``getpass()``, like :meth:`raw_input`."""
        if not self.stdin_allowed:
            raise StdinNotImplementedError(f"getpass() {_NO_STDIN}")
        return super().getpass(prompt, *args, **kwargs)

    def _after_cell(self, result: Any) -> None:
        if self._preamble is None or result is None:
            return
        self._error = result.error_before_exec or result.error_in_exec
        self._failed_to_compile = result.error_before_exec is not None
        end_cell(self._streams, self._budget)
        wants_raw = any(name.startswith("__dspy_") for name in self._preamble.variables)
        shown = result.result is not None and result.error_in_exec is None and not self.shell.shows_all_values
        if shown and (wants_raw or not self._budget.clipped) and _is_json(result.result):
            self._value = self._bridge.send_value(result.result)

    def finish_metadata(
        self, parent: Mapping[str, Mapping[str, str]], metadata: dict[str, object], reply_content: dict[str, object]
    ) -> dict[str, object]:
        """Add the facts for the host: whether the code compiled, the cached inputs, a small value."""
        kept = [*self._input_cache.keys, *([HAS_ARROW] if has_arrow() else [])]
        facts: dict[str, object] = {"compiled": not self._failed_to_compile, "kept": kept}
        if self._input_evicted:
            facts["forgotten"] = True
        if self._value is not None:
            facts["value"] = self._value
        self._journal.cell_ended(parent["header"]["msg_id"], reply_content, {PREAMBLE_KEY: facts})
        return {**super().finish_metadata(parent, metadata, reply_content), PREAMBLE_KEY: facts}

    # --- control: replies and interrupts -------------------------------------------------------------

    async def dispatch_control(self, msg: list[zmq.Frame]) -> None:
        """Handle messages of the bridge; leave other control messages to ipykernel.

        ipykernel would publish busy and idle and flush twice for each message, and comm_manager would run IPython's
        pre_execute hooks in the middle of the cell.

        ``withhold`` and ``raise`` end a cell whose code has not started: the request has not arrived, the kernel
        decodes its variables, or it has published busy and ignores SIGINT for the moment, as ipykernel does. ``raise``
        also ends a cell whose code runs.
        """
        if _message_type(msg) != "comm_msg":
            await super().dispatch_control(msg)
            return
        try:
            ident, frames = self.session.feed_identities(msg, copy=False)
            message = self.session.deserialize(frames, content=True, copy=False)
        except Exception:  # as ipykernel does: a message that is not valid in any way is dropped
            self.log.error("Invalid control message", exc_info=True)
            return
        data = message["content"].get("data", {})
        if data.get("op") in ("raise", "withhold"):
            # The cell may not have arrived, or may be decoding its variables. This thread notes the cell, then checks
            # whether it runs; the main thread sets it running, then checks the note. So one of the two always sees
            # the other. A note on a cell that has ended has no effect.
            self._cancelled.append(str(data.get("cell")))
        if data.get("op") == "withhold":
            return
        if data.get("op") == "inspect":
            await self._answer_inspect(ident, message, data)
            return
        self._bridge.on_control(data, message["buffers"], async_cell=self._async_cell)

    async def _answer_inspect(
        self, ident: object, message: Mapping[str, object], request: Mapping[str, object]
    ) -> None:
        """Reply to an inspect request on the control channel; nothing is published on iopub."""
        buffers: list[Any] = []
        if "name" in request:
            reply, buffers = await self._inspector.variable(
                request["name"], with_value=request.get("value") is True, max_bytes=request.get("max_bytes")
            )
        else:
            reply = self._inspector.summary()
        content = {"comm_id": "", "data": {"op": "inspected", **reply}}
        self.session.send(
            self.control_stream, "comm_msg", content, parent=message, ident=ident, buffers=buffers or None
        )

    @contextlib.contextmanager
    def awaiting(self, future: asyncio.Future[object]) -> Iterator[None]:
        """Let SIGINT cancel an async cell, and note that one runs."""
        self._async_cell = True
        try:
            with super().awaiting(future):
                yield
        finally:
            self._async_cell = False


def _is_json(value: object) -> bool:
    """Whether the caller can use the value itself, not only its repr."""
    try:
        _to_json(value)
    except Exception:  # not JSON, or code of a subclass that raises anything
        return False
    return True


def _message_type(frames: Sequence[zmq.Frame]) -> str | None:
    """Return the ``msg_type`` of a raw message, without checking its signature: its handler does that."""
    raw = [bytes(frame.buffer) if len(frame.buffer) < 4096 else b"" for frame in frames[:8]]
    try:
        header = json.loads(raw[raw.index(MESSAGE_DELIMITER) + 2])
        return str(header["msg_type"])
    except (ValueError, IndexError, KeyError, TypeError):
        return None


def _silence_submit_in_threads() -> None:
    previous = threading.excepthook

    def hook(args: threading.ExceptHookArgs) -> None:
        if args.exc_type is not SubmitSignal:
            previous(args)

    threading.excepthook = hook
