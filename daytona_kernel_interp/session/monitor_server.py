"""The monitor server of a session: a unix socket for other processes of the same user.

Requests and replies are JSON objects, one per line. The reply to ``{"op": "look", "name": str or null}`` is the result
of ``KernelDriver.inspect``. The reply to ``{"op": "follow", "since": int}`` has ``look``, ``steps`` and ``change`` (see
:class:`..client.cell_history.CellHistory`). The reply to a failed request is ``{"error": text}``, with ``class`` for an
error of :mod:`..errors`. No request changes the session.

The socket is beside the kernel's local endpoints, in a folder that other users cannot enter. The host process also
sends requests to the relay here, because a relay accepts one host only.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import KernelError

if TYPE_CHECKING:
    from ..client.kernel_driver import KernelDriver

log = logging.getLogger(__name__)

SOCKET_NAME = "live"
MAX_REQUEST_BYTES = 64 * 1024
_MAX_CLIENTS = 32


class MonitorServer:
    """The server for the observers of one session. It runs on the I/O loop."""

    def __init__(self, kernel: KernelDriver) -> None:
        self._kernel = kernel
        self._server: asyncio.Server | None = None
        self._serving: dict[asyncio.Task[None], None] = {}

    async def open(self) -> None:
        """Listen on the socket; if that fails, the session works without observers."""
        path = Path(self._kernel.connection_file).parent / SOCKET_NAME
        try:
            self._server = await asyncio.start_unix_server(self._accept, path, limit=MAX_REQUEST_BYTES)
        except OSError as error:
            log.warning("other processes cannot inspect the session: %s", error)

    async def aclose(self) -> None:
        """Close all connections. Further calls do nothing."""
        server, self._server = self._server, None
        if server is not None:
            server.close()
        for task in list(self._serving):
            task.cancel()
        await asyncio.gather(*self._serving, return_exceptions=True)

    async def follow(self, since: int) -> dict[str, Any]:
        """Return the variables of the kernel, its running cell, and the steps that changed after ``since``.

        Raises:
            KernelError: As for :meth:`KernelDriver.inspect`.
        """
        inspection = await self._kernel.inspect()
        return {"look": inspection, **self._kernel.cell_history.changes_since(since, asyncio.get_running_loop().time())}

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(self._serving) >= _MAX_CLIENTS:
            writer.close()
            return
        task = asyncio.create_task(self._serve(reader, writer))
        self._serving[task] = None
        task.add_done_callback(lambda task: self._serving.pop(task, None))

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while line := await reader.readline():
                writer.write(json.dumps(await self._answer(line)).encode("ascii") + b"\n")
                await writer.drain()
        except (OSError, ValueError):  # disconnected, or a line above the limit
            pass
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    async def _answer(self, line: bytes) -> dict[str, Any]:
        try:
            request = json.loads(line)
            match request:
                case {"op": "look"}:
                    name = request.get("name")
                    return await self._kernel.inspect(name if isinstance(name, str) else None)
                case {"op": "follow", "since": int(since)}:
                    return await self.follow(since)
            return {"error": "not a valid request"}
        except KernelError as error:
            return {"error": f"{type(error).__name__}: {error}", "class": type(error).__name__}
