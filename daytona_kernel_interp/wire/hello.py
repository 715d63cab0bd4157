"""The two hellos that open an attachment of a stream.

The host sends its hello as headers of the WebSocket upgrade (never in the URL, which proxies log):

* ``X-Kernel-Secret``: the relay's secret, in ASCII.
* ``X-Kernel-Hello``: JSON with ``version`` (int), ``stream`` (32 hex digits, chosen at random by the host),
  ``kernel`` (the kernel's id, or empty for the channel ``relay``), ``window`` (bytes the host may have unacked).

The channel is the last part of the path: ``/v1/{shell,iopub,stdin,control,hb,relay}``. The relay answers
with one HELLO frame whose payload is JSON: ``version``, ``boot`` (a random id of this relay process),
``window``. Either side ends the attachment when the versions differ.
"""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass
from enum import IntEnum
from typing import Any

from .errors import RemoteProtocolError
from .frames import WIRE_VERSION

SECRET_HEADER = "X-Kernel-Secret"
HELLO_HEADER = "X-Kernel-Hello"
PATH_PREFIX = f"/v{WIRE_VERSION}/"

KERNEL_CHANNELS = ("shell", "iopub", "stdin", "control", "hb")
RELAY_CHANNEL = "relay"

MAX_STREAMS = 64  # per relay; a kernel needs five, every further Jupyter client four or five more
_MAX_HELLO_CHARS = 4096
_STREAM_ID = re.compile(r"[0-9a-f]{32}")


class Close(IntEnum):
    """WebSocket close codes of ours, in the range RFC 6455 §7.4.2 leaves to applications."""

    BAD_HELLO = 4400
    BAD_SECRET = 4401
    UNKNOWN_STREAM = 4404
    TOO_MANY_STREAMS = 4429
    PORT_REFUSED = 4502


@dataclass(frozen=True)
class HostHello:
    """What the host says of the stream that it attaches."""

    stream: str
    kernel: str
    window: int
    version: int = WIRE_VERSION

    def to_header(self) -> str:
        """Return the value of the ``X-Kernel-Hello`` header."""
        return json.dumps(asdict(self))


@dataclass(frozen=True)
class RelayHello:
    """What the relay answers."""

    boot: str
    window: int
    version: int = WIRE_VERSION

    def to_payload(self) -> bytes:
        """Return the payload of the HELLO frame."""
        return json.dumps(asdict(self)).encode("ascii")


def close_reason(error: Exception) -> str:
    """Return an error's text as a close reason, of which RFC 6455 §5.5 allows 123 bytes."""
    return str(error).encode("ascii", "replace")[:123].decode("ascii")


def parse_host_hello(header: str | None) -> HostHello:
    """Return the hello in an ``X-Kernel-Hello`` header.

    Raises:
        RemoteProtocolError: If it is missing, malformed or of another version.
    """
    fields = _parse(header or "")
    stream, kernel, window = fields.get("stream"), fields.get("kernel"), fields.get("window")
    if not (isinstance(stream, str) and _STREAM_ID.fullmatch(stream)):
        raise RemoteProtocolError("hello without a stream id of 32 hex digits")
    if not isinstance(kernel, str) or type(window) is not int or window < 1:
        raise RemoteProtocolError("hello without a kernel id and a window")
    return HostHello(stream=stream, kernel=kernel, window=window)


def parse_relay_hello(payload: bytes) -> RelayHello:
    """Return the hello in a HELLO frame.

    Raises:
        RemoteProtocolError: If it is malformed or of another version.
    """
    fields = _parse(payload.decode("ascii", errors="replace"))
    boot, window = fields.get("boot"), fields.get("window")
    if not isinstance(boot, str) or type(window) is not int or window < 1:
        raise RemoteProtocolError("the relay's hello names no boot id and no window")
    return RelayHello(boot=boot, window=window)


def _parse(text: str) -> dict[str, Any]:
    if len(text) > _MAX_HELLO_CHARS:
        raise RemoteProtocolError(f"a hello has at most {_MAX_HELLO_CHARS} characters")
    try:
        fields = json.loads(text)
    except (ValueError, RecursionError):
        raise RemoteProtocolError("the hello is not JSON") from None
    if not isinstance(fields, dict):
        raise RemoteProtocolError("the hello is not a JSON object")
    version = fields.get("version")
    if type(version) is not int or version != WIRE_VERSION:
        raise RemoteProtocolError(
            f"the peer speaks wire version {repr(version)[:20]}, this side {WIRE_VERSION}: "
            "install the same daytona_kernel_interp on both sides"
        )
    return fields
