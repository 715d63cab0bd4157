"""Names of preview hosts: ``*.localhost`` does not resolve everywhere, so the emulator brings a resolver.

A resolver is a plain callable from a host name to an address, or to None if the name is not its own.
:data:`NAMES_VARIABLE` hands the same to child processes as ``.DOMAIN=ADDRESS``, several joined by commas; there,
:func:`resolver` makes a resolver of it, and :func:`resolving` lets every client in the process use it.
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeAlias

NAMES_VARIABLE = "DAYTONA_KERNEL_NAMES"

Resolver: TypeAlias = Callable[[str], str | None]

_lock = threading.Lock()
_resolvers: list[Resolver] = []
_getaddrinfo = socket.getaddrinfo


def resolver(environ: Mapping[str, str] | None = None) -> Resolver:
    """Return the resolver that :data:`NAMES_VARIABLE` describes; without it, one that knows no name.

    Raises:
        ValueError: If the variable is not of the form ``.DOMAIN=ADDRESS,…``.
    """
    text = (os.environ if environ is None else environ).get(NAMES_VARIABLE, "")
    domains: dict[str, str] = {}
    for item in filter(None, text.split(",")):
        domain, equals, address = item.partition("=")
        if not domain.startswith(".") or not equals:
            raise ValueError(f"{NAMES_VARIABLE} is a list of .DOMAIN=ADDRESS, and {item!r} is none")
        domains[domain] = str(ipaddress.ip_address(address))
    return lambda host: next((address for domain, address in domains.items() if _below(host, domain)), None)


@contextlib.contextmanager
def resolving(resolve: Resolver) -> Iterator[None]:
    """Let ``socket.getaddrinfo``, and so every client in this process, ask ``resolve`` first while this is open."""
    with _lock:
        _resolvers.append(resolve)
        socket.getaddrinfo = _ask_resolvers
    try:
        yield
    finally:
        with _lock:
            _resolvers.remove(resolve)
            if not _resolvers and socket.getaddrinfo is _ask_resolvers:
                socket.getaddrinfo = _getaddrinfo


def _below(host: str, domain: str) -> bool:
    return host.lower().rstrip(".").endswith(domain)


def _ask_resolvers(host: Any, *arguments: Any, **options: Any) -> Any:
    text = host.decode("ascii", "replace") if isinstance(host, bytes) else host
    if isinstance(text, str):
        for resolve in list(_resolvers):
            if (address := resolve(text)) is not None:
                return _getaddrinfo(address, *arguments, **options)
    return _getaddrinfo(host, *arguments, **options)
