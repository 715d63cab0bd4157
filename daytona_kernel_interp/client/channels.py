"""The channels of one client to a kernel, replaced as a whole when the link cannot resume. Lives on the I/O loop."""

from __future__ import annotations

import asyncio
import logging
import os
from typing import TYPE_CHECKING, Any

import zmq
import zmq.asyncio
from jupyter_client.asynchronous.client import AsyncKernelClient

from ..config import HELD_BYTES
from ..errors import TunnelLost
from ..wire.comm import PREAMBLE_KEY
from .messages import max_message_bytes, parse

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from jupyter_client.session import Session

    from ..errors import KernelError

log = logging.getLogger(__name__)

_PROBE_S, _SLOW_PROBE_S = 0.05, 5.0  # between kernel_info requests until iopub is subscribed
_QUICK_PROBES = 100

Message = dict[str, Any]


def execute_request(session: Session, code: str) -> Message:
    """Return the execute_request of a cell; its preamble travels in the buffers, see ``wire.comm``."""
    content = {
        **{"code": code, "silent": False, "store_history": True, "user_expressions": {}},
        **{"allow_stdin": False, "stop_on_error": False},
    }
    message: Message = session.msg("execute_request", content, metadata={PREAMBLE_KEY: True})
    return message


class Channels:
    """Shell, iopub and control of one kernel, with a reader task for each.

    What iopub delivers is dropped until the subscription is known to be in effect, then held until
    :meth:`release_iopub`: the owner reads the journal first, which has all of it.
    """

    def __init__(
        self,
        connection_file: Path,
        max_value_bytes: int | None,
        on_shell: Callable[[Message], None],
        on_iopub: Callable[[Message], None],
        on_failed: Callable[[KernelError], None],
    ) -> None:
        """Connect the sockets; return without waiting for the kernel.

        ``on_failed`` is called if a reader task fails, after which messages would be missing.
        """
        context = _zmq_context()
        limit = max_message_bytes(max_value_bytes)
        context.setsockopt(zmq.MAXMSGSIZE, -1 if limit is None else limit)
        self._client = AsyncKernelClient(context=context)
        self._client.load_connection_file(str(connection_file))
        self._client.start_channels(stdin=False, hb=False)
        self._on_shell, self.on_iopub, self._on_failed = on_shell, on_iopub, on_failed
        self._barriers: dict[str, asyncio.Future[str]] = {}
        self._shell_replies: dict[str, asyncio.Future[None]] = {}
        self._control_replies: dict[str, asyncio.Future[Message]] = {}  # pending requests on control, by msg_id
        self._subscribed = False
        self._held_messages: list[Message] | None = None
        self._held_bytes = 0
        self._room = asyncio.Event()  # whether further messages can be held
        self._room.set()
        self._known_ids: set[str] = set()  # ids of messages taken from the journal that may arrive here, too
        channels = (
            (self._client.shell_channel, self._receive_shell),
            (self._client.iopub_channel, self.receive_iopub),
            (self._client.control_channel, self._receive_control),
        )
        self._readers = [asyncio.create_task(self._read(channel, receive)) for channel, receive in channels]

    @property
    def session(self) -> Session:
        """The Jupyter session, which makes and signs messages."""
        session: Session = self._client.session
        return session

    def send(self, message: Message, buffers: Sequence[Any] = ()) -> None:
        """Send a message on shell."""
        self.session.send(self._client.shell_channel.socket, message, buffers=list(buffers))

    def send_control(self, data: dict[str, Any], buffers: Sequence[Any] = ()) -> None:
        """Send a ``comm_msg`` on control; see ``wire.comm``."""
        message = self.session.msg("comm_msg", {"comm_id": "", "data": data})
        self.session.send(self._client.control_channel.socket, message, buffers=list(buffers))

    async def request_control(self, data: dict[str, Any]) -> Message:
        """Send a ``comm_msg`` on control and return the kernel's reply. There is no time limit; cancel it instead."""
        message = self.session.msg("comm_msg", {"comm_id": "", "data": data})
        answer = self._control_replies[message["header"]["msg_id"]] = asyncio.get_running_loop().create_future()
        try:
            self.session.send(self._client.control_channel.socket, message)
            found: Message = await answer
            return found
        finally:
            self._control_replies.pop(message["header"]["msg_id"], None)

    async def wait_subscribed(self) -> str:
        """Wait until the iopub subscription is in effect; hold iopub from then on. Return the last message's id.

        A PUB socket drops messages for subscriptions it has not received yet. The first status message that arrives
        proves that the subscription was received.
        """
        probes: list[asyncio.Future[str]] = []
        while not any(probe.done() for probe in probes):
            probes.append(self._probe())
            wait_s = _PROBE_S if len(probes) < _QUICK_PROBES else _SLOW_PROBE_S  # native code may block the kernel
            await asyncio.wait(probes, timeout=wait_s, return_when=asyncio.FIRST_COMPLETED)
        return next(probe.result() for probe in probes if probe.done())

    async def barrier(self) -> None:
        """Wait until all that the kernel published before this call has arrived; iopub is ordered.

        It does not arrive while iopub is held and there is no room for more.
        """
        await self._probe()

    async def shell_barrier(self) -> None:
        """Wait until the kernel has processed everything that reached its shell channel before this call.

        Two requests are sent: a ROUTER socket takes messages from its peers in turns, and earlier messages came over
        another connection.
        """
        for _ in range(2):
            message = self.session.msg("kernel_info_request", {})
            replied = self._shell_replies[message["header"]["msg_id"]] = asyncio.get_running_loop().create_future()
            self.send(message)
            await replied

    def hold_iopub(self) -> None:
        """Hold iopub messages until :meth:`release_iopub`."""
        self._subscribed = True
        if self._held_messages is None:
            self._held_messages = []

    def release_iopub(self, known: set[str]) -> None:
        """Deliver the buffered iopub messages, except those whose id is in ``known``, and stop buffering."""
        self._known_ids |= known  # messages published just before the journal was read are still in transit
        held, self._held_messages, self._held_bytes = self._held_messages or [], None, 0
        self._room.set()
        for message in held:
            self._guard(self.receive_iopub, message)

    async def aclose(self) -> None:
        """Close the channels and drop what is queued. A second call does nothing."""
        tasks, self._readers = self._readers, []
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if not tasks:
            return
        for channel in ("shell", "iopub", "control"):
            socket = getattr(self._client, f"{channel}_channel").socket
            if socket is not None:
                socket.close(linger=0)
        self._client.stop_channels()

    # --- messages ---------------------------------------------------------------------------------

    async def _read(self, channel: Any, receive: Callable[[Message], None]) -> None:
        try:
            await self._read_messages(channel, receive)
        except Exception as error:  # without this task, messages are missing and calls would wait forever
            log.exception("a channel to the kernel cannot be read")
            self._on_failed(TunnelLost(f"a channel to the kernel cannot be read: {error!r}"))

    async def _read_messages(self, channel: Any, receive: Callable[[Message], None]) -> None:
        session = channel.session
        while True:
            if channel is self._client.iopub_channel:
                await self._room.wait()
            frames = await channel.socket.recv_multipart()
            try:
                _, parts = session.feed_identities(frames)
                message = parse(session, parts)
            except Exception as error:  # a bad signature, or anything a hostile kernel makes json.loads raise
                log.warning("dropped an invalid Jupyter message: %s", error)
                continue
            held = len(self._held_messages or ())
            self._guard(receive, message)
            if self._held_messages is not None and len(self._held_messages) > held:
                self._held_bytes += sum(map(len, frames))
                if self._held_bytes > HELD_BYTES:
                    self._room.clear()

    def _guard(self, receive: Callable[[Message], None], message: Message) -> None:
        try:
            receive(message)
        except Exception:
            log.warning("dropped a malformed message of type %r", message.get("msg_type"), exc_info=True)

    def _receive_shell(self, message: Message) -> None:
        waiting = self._shell_replies.pop(parent_id(message), None)
        if waiting is None:
            self._on_shell(message)
        elif not waiting.done():
            waiting.set_result(None)

    def _receive_control(self, message: Message) -> None:
        """Resolve the pending request that a comm_msg answers; other replies on control are ignored."""
        answer = self._control_replies.get(parent_id(message))
        if answer is not None and not answer.done() and message["msg_type"] == "comm_msg":
            answer.set_result(message)

    def receive_iopub(self, message: Message) -> None:
        """Pass on an iopub message, or hold it until :meth:`release_iopub`.

        Drop it if the subscription is not known to be in effect, or if the journal had it.
        """
        parent = parent_id(message)
        if parent in self._barriers:
            if message["msg_type"] == "status" and message["content"]["execution_state"] == "idle":
                passed = self._barriers.pop(parent)
                if not self._subscribed:
                    self.hold_iopub()
                if not passed.done():
                    passed.set_result(message["header"]["msg_id"])
        elif not self._subscribed:
            return
        elif self._held_messages is not None:
            self._held_messages.append(message)
        elif message["header"]["msg_id"] in self._known_ids:
            self._known_ids.discard(message["header"]["msg_id"])
        else:
            self.on_iopub(message)

    def _probe(self) -> asyncio.Future[str]:
        message = self.session.msg("kernel_info_request", {})
        passed = self._barriers[message["header"]["msg_id"]] = asyncio.get_running_loop().create_future()
        self.session.send(self._client.control_channel.socket, message)
        return passed


def parent_id(message: Message) -> Any:
    """Return the msg_id of a message's parent, or None."""
    return message["parent_header"].get("msg_id")


_context: zmq.asyncio.Context | None = None


def _forget_after_fork() -> None:
    global _context
    _context = None


os.register_at_fork(after_in_child=_forget_after_fork)


def _zmq_context() -> zmq.asyncio.Context:
    """Return the process's ZMQ context; every further context would cost an I/O thread.

    Receiving keeps libzmq's high-water mark of 1000 messages. At the mark libzmq stops reading, the tunnel's window
    closes and the kernel has to wait: nothing is lost (the kernel's iopub has no mark, see ``kernel_app``),
    and a sandbox that floods its host fills its own memory, not the host's.
    """
    global _context
    if _context is None or _context.closed:
        _context = zmq.asyncio.Context()
        _context.setsockopt(zmq.SNDHWM, 0)
        _context.setsockopt(zmq.LINGER, 0)
        _context.setsockopt(zmq.RECONNECT_IVL, 5)
        _context.setsockopt(zmq.RECONNECT_IVL_MAX, 1000)
    return _context
