"""The listening unix socket of one kernel channel."""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING

import pytest

from daytona_kernel_interp.transport.local_listener import LocalListener

if TYPE_CHECKING:
    from pathlib import Path


async def test_each_connection_is_handed_over(tmp_path: Path) -> None:
    """The callback receives every accepted socket, non-blocking, with the bytes of the client."""
    path = tmp_path / "1-1"
    accepted: asyncio.Queue[socket.socket] = asyncio.Queue()
    listener = LocalListener(path, accepted.put_nowait)
    clients = [socket.socket(socket.AF_UNIX) for _ in range(2)]
    for number, client in enumerate(clients):
        client.connect(str(path))
        client.sendall(b"%d" % number)
    connections = [await accepted.get() for _ in clients]
    assert [await asyncio.get_running_loop().sock_recv(one, 10) for one in connections] == [b"0", b"1"]
    for one in (*clients, *connections):
        one.close()
    listener.close()


async def test_closing_deletes_the_path(tmp_path: Path) -> None:
    """After closing, nothing listens and the path is free for the next listener; closing twice is harmless."""
    path = tmp_path / "1-1"
    listener = LocalListener(path, lambda connection: connection.close())
    listener.close()
    listener.close()
    assert not path.exists()
    LocalListener(path, lambda connection: connection.close()).close()


async def test_a_path_in_use_is_an_error(tmp_path: Path) -> None:
    """A path that cannot be bound raises OSError and leaves no socket open (the suite fails on a ResourceWarning)."""
    path = tmp_path / "1-1"
    path.touch()
    with pytest.raises(OSError, match="in use"):
        LocalListener(path, lambda connection: connection.close())
