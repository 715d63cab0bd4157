"""Resolver for the names of preview hosts, because ``*.localhost`` does not resolve on every system.

A resolver is a callable that returns the address of a host name, or None for other names. Child processes receive its
data in the environment variable :data:`NAMES_VARIABLE` as ``.DOMAIN=ADDRESS``, joined by commas. :func:`resolver`
returns a resolver for it, and :func:`resolving` installs a resolver for all clients of the process.
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
    """Return the resolver that :data:`NAMES_VARIABLE` describes; without it, one that resolves no name.

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
    """Make ``socket.getaddrinfo``, and so all clients in this process, use ``resolve`` first within the block."""
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
