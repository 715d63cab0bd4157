"""The private names of ipykernel, IPython and asyncio that this package uses. No other module of ``guest`` uses any.

ipykernel has no public way to bound a cell's output, to read the pipes of child processes, to hide frames of a
traceback, or to learn whether a client answers ``input()``. The subclasses here give the private methods and attributes
public names, so that an upgrade can break this file only. A method of ipykernel that has to be replaced calls a public
hook, whose default is ipykernel's own behaviour::

    ipykernel calls     OutStream._flush_buffers
    which is here       HookedOutStream._flush_buffers -> self.buffered_messages()
    and is replaced in  CellStream.buffered_messages

:data:`PRIVATE_NAMES` lists every name with the version that has it; ``test_ipykernel_compat.py`` fails with the name
that an installed version lacks. All of them exist in ipykernel 6.31 and 7.x unless a later version is noted.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import sys
import threading
from typing import TYPE_CHECKING, Any, NamedTuple

from ipykernel import ipkernel
from ipykernel.iostream import IOPubThread, OutStream
from ipykernel.ipkernel import IPythonKernel
from ipykernel.zmqshell import ZMQInteractiveShell

from .interrupts import cancelled_by_sigint

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    AcceptsParameters = Callable[[Callable[..., object], list[str]], dict[str, bool]]


class PrivateName(NamedTuple):
    """A private name of a class or module of a dependency."""

    owner: Any
    name: str
    since: tuple[str, int] = ("ipykernel", 6)  # distribution and major version


PRIVATE_NAMES = (
    PrivateName(OutStream, "_buffers"),
    PrivateName(OutStream, "_exc"),
    PrivateName(OutStream, "_fid"),
    PrivateName(OutStream, "_flush"),
    PrivateName(OutStream, "_flush_buffers"),
    PrivateName(OutStream, "_flush_pending"),
    PrivateName(OutStream, "_original_stdstream_copy"),
    PrivateName(OutStream, "_original_stdstream_fd"),
    PrivateName(OutStream, "_rotate_buffers"),
    PrivateName(OutStream, "_setup_stream_redirects"),
    PrivateName(OutStream, "_should_watch"),
    PrivateName(OutStream, "_watch_pipe_fd"),
    PrivateName(IOPubThread, "_events"),
    PrivateName(IOPubThread, "_handle_event"),
    PrivateName(IOPubThread, "_really_send"),
    PrivateName(ZMQInteractiveShell, "_format_exception_for_storage", since=("ipython", 9)),
    PrivateName(ZMQInteractiveShell, "_get_exc_info"),
    PrivateName(ZMQInteractiveShell, "_last_traceback"),
    PrivateName(ZMQInteractiveShell, "_showtraceback"),
    PrivateName(ZMQInteractiveShell, "_tee", since=("ipython", 9)),
    PrivateName(IPythonKernel, "_allow_stdin"),
    PrivateName(IPythonKernel, "_cancel_on_sigint"),
    PrivateName(IPythonKernel, "_control_lock"),
    PrivateName(IPythonKernel, "_execute_sleep"),
    PrivateName(IPythonKernel, "_supports_kernel_subshells", since=("ipykernel", 7)),
    PrivateName(ipkernel, "_accepts_parameters"),
    PrivateName(asyncio.events, "_set_running_loop"),
    PrivateName(asyncio.tasks, "_enter_task"),
    PrivateName(asyncio.tasks, "_leave_task"),
)


class HookedOutStream(OutStream):
    """``OutStream``, whose steps from the buffer to iopub and from the pipe to the buffer can be replaced."""

    @property
    def has_unpublished(self) -> bool:
        """Whether there is text that is not handed to the iopub thread, or a flush that it has not done."""
        return bool(self._buffers or self._flush_pending)

    @property
    def watches_pipe(self) -> bool:
        """Whether what child processes write to the file descriptor is read."""
        return bool(self._should_watch)

    @property
    def pipe_fd(self) -> int:
        """The read end of the pipe behind file descriptor 1 or 2."""
        fd: int | None = self._fid
        assert fd is not None
        return fd

    @property
    def original_fd(self) -> int:
        """A copy of file descriptor 1 or 2 as it was when the process started."""
        return int(self._original_stdstream_copy)

    @property
    def redirected_fd(self) -> int:
        """File descriptor 1 or 2, which is the write end of the pipe; without a pipe, OutStream's own descriptor."""
        fd: int = getattr(self, "_original_stdstream_fd", None) or super().fileno()
        return fd

    def open_pipe(self) -> tuple[int, int] | None:
        """Return the read and the write end of the pipe to use, or None for the one that ipykernel made."""
        return None

    def publish_buffered(self) -> None:
        """Publish what is buffered. Runs on the iopub thread."""
        super()._flush()

    def buffered_messages(self) -> Iterator[tuple[dict[str, Any], str]]:
        """Clear the buffer and yield its texts, each with the header of the cell that wrote it."""
        yield from super()._flush_buffers()

    def swap_buffers(self) -> Any:
        """Return the buffers by parent header, and begin empty ones."""
        return super()._rotate_buffers()

    def read_pipe_until_closed(self) -> None:
        """Read what child processes write until the stream closes. Runs on a thread of its own."""
        super()._watch_pipe_fd()

    def _flush(self) -> None:
        self.publish_buffered()

    def _flush_buffers(self) -> Iterator[tuple[dict[str, Any], str]]:
        return self.buffered_messages()

    def _rotate_buffers(self) -> Any:
        return self.swap_buffers()

    def _setup_stream_redirects(self, name: str) -> None:
        self.redirected = threading.Event()
        super()._setup_stream_redirects(name)  # starts the thread that reads the pipe
        if (ends := self.open_pipe()) is not None:
            for end, fd in zip(ends, (self.pipe_fd, self._original_stdstream_fd), strict=True):
                os.dup2(end, fd, inheritable=fd != self.pipe_fd)
                os.close(end)
        self.redirected.set()

    def _watch_pipe_fd(self) -> None:
        self.redirected.wait()
        try:
            self.read_pipe_until_closed()
        except Exception:  # as OutStream does for any error: close() prints what stands in _exc
            self._exc = sys.exc_info()


class IOPubQueue:
    """The queue of ipykernel's iopub thread, to which messages can be added without waking the thread."""

    def __init__(self, thread: IOPubThread) -> None:
        self.thread = thread
        self.send: Callable[..., None] = thread.send_multipart  # adds a message and wakes the thread

    def add(self, frames: Sequence[Any], *args: Any, **kwargs: Any) -> None:
        """Add a message, which is sent after those before it when the thread wakes up."""
        self.thread._events.append(functools.partial(self.thread._really_send, frames, *args, **kwargs))

    def send_all(self) -> None:
        """Send what is queued. Call it on the thread."""
        self.thread._handle_event(None)

    def watch(self, fd: int, readable: Callable[[], None]) -> None:
        """Call ``readable`` on the thread whenever a file descriptor is readable, and read eight bytes from it."""

        def handle(fd: int, events: int) -> None:
            with contextlib.suppress(BlockingIOError):  # read by an earlier call
                os.read(fd, 8)
            readable()

        loop = self.thread.io_loop
        loop.add_callback(loop.add_handler, fd, handle, loop.READ)


class NoShellChannelThread:
    """Stands for ipykernel 7's shell-channel thread in a kernel without subshells.

    That thread parses each request once more and passes it on to the main thread: two wake-ups for each cell. Without
    it the main thread reads the shell socket, as in ipykernel 6. ``do_execute`` reads ``parent_thread`` all the same.
    """

    parent_thread = threading.main_thread()

    def __bool__(self) -> bool:
        return False


class HookedShell(ZMQInteractiveShell):
    """``ZMQInteractiveShell``, whose tracebacks can be changed. Keeps no history of printed text and of errors."""

    def exception_info(self, exc_tuple: Any = None) -> Any:
        """Return type, value and traceback of an exception: of the current one without ``exc_tuple``."""
        return super()._get_exc_info(exc_tuple)

    def publish_traceback(self, etype: type[BaseException], evalue: object, lines: list[str]) -> None:
        """Publish an error with its traceback, and keep that for the cell's reply."""
        super()._showtraceback(etype, evalue, lines)

    @property
    def last_traceback(self) -> list[str]:
        """The lines of the last traceback since :meth:`forget_traceback`."""
        return self._last_traceback or []

    def forget_traceback(self) -> None:
        """Have no last traceback."""
        self._last_traceback = None

    def _get_exc_info(self, exc_tuple: Any = None) -> Any:
        return self.exception_info(exc_tuple)

    def _showtraceback(self, etype: type[BaseException], evalue: object, stb: list[str]) -> None:
        self.publish_traceback(etype, evalue, stb)

    def _format_exception_for_storage(
        self, exception: BaseException, *args: object, **kwargs: object
    ) -> dict[str, object]:
        # For IPython's history of errors, which has no reader here: no second traceback, no str() that may raise.
        return {"ename": type(exception).__name__, "evalue": "", "traceback": []}

    def _tee(self, channel: str) -> Any:
        # IPython would keep every printed string of the session for its history of outputs, past any limit.
        return contextlib.nullcontext()


class HookedKernel(IPythonKernel):
    """``IPythonKernel`` whose interrupts reach every ``await``, without a pause before each reply."""

    session: Any
    _supports_kernel_subshells = False  # see NoShellChannelThread
    _execute_sleep = 0  # ipykernel waits half a millisecond for output; here a flush precedes every reply

    def start(self) -> None:
        """Serve. In ipykernel 6, a control message that comes before the lock is made would be lost with an error."""
        self._control_lock = asyncio.Lock()
        super().start()

    @property
    def stdin_allowed(self) -> bool:
        """Whether the client of the running cell answers ``input()``."""
        return bool(self._allow_stdin)

    @contextlib.contextmanager
    def _cancel_on_sigint(self, future: asyncio.Future[object]) -> Iterator[None]:
        with self.awaiting(future):
            yield

    @contextlib.contextmanager
    def awaiting(self, future: asyncio.Future[object]) -> Iterator[None]:
        """Let SIGINT cancel an async cell, also one that only waits, while this is open."""
        with cancelled_by_sigint(future):
            yield


@contextlib.contextmanager
def outside_of_loop(loop: asyncio.AbstractEventLoop) -> Iterator[None]:
    """Let this thread run another event loop while this is open, although ``loop`` is running it."""
    task = asyncio.current_task(loop)
    if task is not None:
        asyncio.tasks._leave_task(loop, task)
    asyncio.events._set_running_loop(None)
    try:
        yield
    finally:
        asyncio.events._set_running_loop(loop)
        if task is not None:
            asyncio.tasks._enter_task(loop, task)


def _cached(accepts: AcceptsParameters) -> AcceptsParameters:
    known: dict[Any, dict[str, bool]] = {}

    def accepts_parameters(method: Callable[..., object], names: list[str]) -> dict[str, bool]:
        key = (getattr(method, "__func__", method), *names)
        if key not in known:
            known[key] = accepts(method, names)
        return known[key]

    return accepts_parameters


# ipykernel inspects the signatures of the same methods again in every cell.
if hasattr(ipkernel, "_accepts_parameters"):
    ipkernel._accepts_parameters = _cached(ipkernel._accepts_parameters)
