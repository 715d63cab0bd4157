"""A listening unix socket that hands over each connection at once."""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

_BACKLOG = 16


class LocalListener:
    """Accepts connections at a path until it is closed. Lives on the event loop.

    asyncio's own server and an awaited ``sock_accept`` can both lose a connection that arrives while they are being
    closed, so the socket is read by a callback.
    """

    def __init__(self, path: Path, on_connection: Callable[[socket.socket], None]) -> None:
        """Bind to ``path`` and listen; ``on_connection`` gets each accepted, non-blocking socket and owns it.

        Raises:
            OSError: If the path cannot be bound.
        """
        self._path, self._on_connection = path, on_connection
        self._loop = asyncio.get_running_loop()
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.setblocking(False)
        try:
            self._socket.bind(str(path))
            self._socket.listen(_BACKLOG)
        except OSError:
            self._socket.close()
            raise
        self._loop.add_reader(self._socket, self._accept)

    def close(self) -> None:
        """Stop listening and delete the socket's file. A second call does nothing."""
        if self._socket.fileno() < 0:
            return
        self._loop.remove_reader(self._socket)
        self._path.unlink(missing_ok=True)
        self._socket.close()

    def _accept(self) -> None:
        try:
            connection, _ = self._socket.accept()
        except OSError:
            return  # the client has closed the connection again
        connection.setblocking(False)
        self._on_connection(connection)
