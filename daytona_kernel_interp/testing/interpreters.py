"""The toolbox's code interpreter: contexts, each a process (``worker.py``), and the WebSocket that runs code."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import os
import sys
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aiohttp import WSMsgType, web

from . import worker
from .clock import stamp
from .model import Refused
from .pipes import drop, reader_of, writer_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .processes import Child, Machine

DEFAULT_S = 600.0
CLOSE_TIMED_OUT = 4008
_WORKER = str(Path(worker.__file__))
_LINE_BYTES = 64 << 20


class Context:
    """One context; its process is started for the first code."""

    def __init__(self, cwd: Path, now: float, context_id: str | None = None) -> None:
        self.id, self.cwd, self.created_at = context_id or str(uuid.uuid4()), cwd, now
        self.lock = asyncio.Lock()
        self._child: Child | None = None
        self._reader: asyncio.StreamReader
        self._out: asyncio.ReadTransport
        self._in: asyncio.WriteTransport

    def body(self) -> dict[str, Any]:
        """Return the context in the toolbox's format."""
        return {
            "id": self.id,
            "cwd": str(self.cwd),
            "createdAt": stamp(self.created_at),
            "active": True,
            "language": "python",
        }

    async def send(self, machine: Machine, env: Mapping[str, str], request: Mapping[str, Any]) -> None:
        """Send code to the process."""
        if self._child is None or self._child.exited.done():
            await self._start(machine, env)
        self._in.write(json.dumps(request).encode() + b"\n")

    async def event(self) -> bytes:
        """Return the next event as JSON; an empty object after the process has ended."""
        return await self._reader.readline()

    async def end(self, machine: Machine) -> None:
        """Kill the process; the next code starts a new one."""
        if self._child is not None:
            await machine.end_tree(self._child.pid, 0)
            self._child = None

    async def _start(self, machine: Machine, env: Mapping[str, str]) -> None:
        (child_in, ours_in), (ours_out, child_out) = os.pipe(), os.pipe()
        null = os.open(os.devnull, os.O_WRONLY)
        self._reader, self._out = await reader_of(ours_out, _LINE_BYTES)
        self._in = await writer_of(ours_in)
        try:
            self._child = await machine.spawn(
                [sys.executable, "-u", _WORKER], env, self.cwd, (child_in, child_out, null)
            )
        finally:
            for fd in (child_in, child_out, null):
                os.close(fd)
        self._child.exited.add_done_callback(functools.partial(_close, self._in, self._out))


class Interpreters:
    """The contexts of one started sandbox."""

    def __init__(self, machine: Machine, env: Mapping[str, str], cwd: Path, now: float) -> None:
        self._machine, self._env, self._cwd = machine, env, cwd
        self._default = Context(cwd, now, "default")
        self.known: dict[str, Context] = {}

    def create(self, cwd: str | None, now: float) -> Context:
        """Return a new context.

        Raises:
            Refused: If its folder does not exist.
        """
        folder = self._cwd / cwd if cwd else self._cwd
        if not folder.is_dir():
            raise Refused(400, f"working directory {cwd} does not exist")
        context = Context(folder, now)
        self.known[context.id] = context
        return context

    async def delete(self, context_id: str) -> None:
        """End a context and remove it.

        Raises:
            Refused: If there is no context with this id.
        """
        if context_id not in self.known:
            raise Refused(404, f"context {context_id} not found", code="NOT_FOUND")
        await self.known.pop(context_id).end(self._machine)

    async def serve(self, request: web.Request) -> web.WebSocketResponse:
        """Run the code of the first message and send its events as they occur."""
        socket = web.WebSocketResponse(max_msg_size=0)
        await socket.prepare(request)
        message = await socket.receive()
        try:
            asked: Any = json.loads(message.data) if message.type is WSMsgType.TEXT else None
            context = self._context(asked)
        except (ValueError, Refused) as error:
            await socket.close(code=1008, message=str(error).encode()[:120])
            return socket
        timeout_s = asked.get("timeout", DEFAULT_S)
        async with context.lock:
            running = asyncio.ensure_future(self._run(socket, context, asked))
            done, _ = await asyncio.wait((running,), timeout=timeout_s or None)
            if not done:
                running.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await running
                await context.end(self._machine)
                await socket.close(code=CLOSE_TIMED_OUT, message=b"Execution timeout")
        await socket.close()
        return socket

    def _context(self, asked: Any) -> Context:
        if not isinstance(asked, dict) or not isinstance(asked.get("code"), str):
            raise Refused(400, "code is required")
        context_id = asked.get("contextId")
        if context_id is None:
            return self._default
        if context_id not in self.known:
            raise Refused(404, "context not found")
        return self.known[context_id]

    async def _run(self, socket: web.WebSocketResponse, context: Context, asked: dict[str, Any]) -> None:
        await context.send(self._machine, self._env, {"code": asked["code"], "envs": asked.get("envs")})
        while line := await context.event():
            await socket.send_str(line.decode().rstrip("\n"))
            if json.loads(line).get("type") == "control":
                return
        await socket.close(code=1011, message=b"interpreter process ended")


def _close(into: asyncio.WriteTransport, out: asyncio.ReadTransport, _: object) -> None:
    drop(into)
    out.close()
