"""Outgoing connections of a sandbox in a network namespace: an HTTP proxy on its loopback, served from outside.

The namespace has no other network access, so a sandbox with ``network_block_all`` has no proxy. The proxy does not
connect to the loopback of this machine: in a sandbox, ``localhost`` is the sandbox.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import socket
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from .processes import Machine

_HEAD_BYTES = 64 << 10
_PIECE_BYTES = 256 << 10
_DIAL_S = 30.0


class _Refused(Exception):
    """The error for a request whose response is only a status line."""


async def open_way_out(machine: Machine) -> int:
    """Serve a proxy in the machine's namespace while the machine runs, and return its port."""
    port, listener = await machine.listen()
    server = await asyncio.start_server(_serve, sock=listener, limit=_HEAD_BYTES)
    machine.gone.add_done_callback(lambda _: server.close())
    return port


def variables(port: int) -> dict[str, str]:
    """Return the environment variables that configure a proxy on this port."""
    url, ours = f"http://127.0.0.1:{port}", "localhost,127.0.0.1,::1"
    names = {"http_proxy": url, "https_proxy": url, "no_proxy": ours}
    return names | {name.upper(): value for name, value in names.items()}


async def _serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            host, port, first = _target(head)
            out_reader, out_writer = await asyncio.wait_for(_dial(host, port), _DIAL_S)
        except _Refused as error:
            writer.write(f"HTTP/1.1 {error}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".encode())
        except (OSError, asyncio.TimeoutError):
            writer.write(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        else:
            if first is None:
                writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
            else:
                out_writer.write(first)
            await asyncio.gather(_copy(reader, out_writer), _copy(out_reader, writer), return_exceptions=True)
    writer.close()


def _target(head: str) -> tuple[str, int, bytes | None]:
    """Return the target of a request and the bytes to send first, which are None for CONNECT."""
    try:
        method, target, _ = head.partition("\r\n")[0].split(" ")
        url = urlsplit(f"//{target}" if method == "CONNECT" else target)
        host, port = url.hostname, url.port or 80
    except ValueError:
        raise _Refused("400 Bad Request") from None
    if not host or (method != "CONNECT" and url.scheme != "http"):
        raise _Refused("400 Bad Request")
    if method == "CONNECT":
        return host, port, None
    path = (url.path or "/") + (f"?{url.query}" if url.query else "")
    lines = [line for line in head.split("\r\n")[1:] if line and not line.lower().startswith(("proxy-", "connection:"))]
    return host, port, "\r\n".join([f"{method} {path} HTTP/1.1", *lines, "Connection: close", "", ""]).encode("latin-1")


async def _dial(host: str, port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    address = str(found[0][4][0])
    # Connect to the address that was checked: a second lookup of the name may return another one.
    if not _may_reach(address):
        raise _Refused("403 Forbidden")
    return await asyncio.open_connection(address, port)


def _may_reach(address: str) -> bool:
    known = ipaddress.ip_address(address)
    known = getattr(known, "ipv4_mapped", None) or known
    return not (known.is_loopback or known.is_unspecified or known.is_link_local or known.is_multicast)


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(_PIECE_BYTES):
            writer.write(data)
            await writer.drain()
    finally:
        writer.close()
