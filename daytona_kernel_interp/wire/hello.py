"""The two hello messages that open an attachment of a stream.

The host sends its hello as headers of the WebSocket upgrade (never in the URL, which proxies log):

* ``X-Kernel-Secret``: the relay's secret, in ASCII.
* ``X-Kernel-Hello``: JSON with the fields of :class:`HostHello`.

The channel is the last part of the path: ``/v2/{shell,iopub,stdin,control,hb,journal,relay}``. The relay answers with
one HELLO frame: its ``ack`` is the offset below which it has received the host's bytes, its payload JSON with the
fields of :class:`RelayHello`. Either side ends the attachment when the versions differ.

Each dial of a stream has a generation: 1 for the first, one higher for each further dial. The relay accepts only a
higher generation than it has seen, so of two sockets that arrive out of order the one dialled later carries the
stream. The stream's own random secret, created by the host, is required for every further attachment.
"""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass, field
from enum import IntEnum
from typing import Any

from .frames import WIRE_VERSION
from .protocol_errors import RemoteProtocolError

SECRET_HEADER = "X-Kernel-Secret"
HELLO_HEADER = "X-Kernel-Hello"
PATH_PREFIX = f"/v{WIRE_VERSION}/"
WRONG_SECRET = "wrong relay secret\n"  # the body of the relay's own 401
NO_SUCH_CHANNEL = "no such channel\n"  # body of the relay's 404: the response is its own, not a proxy's

KERNEL_CHANNELS = ("shell", "iopub", "stdin", "control", "hb")
JOURNAL_CHANNEL = "journal"  # one kernel's journal, see `journal.py`; the host sends its request as one JSON line
RELAY_CHANNEL = "relay"  # the control stream, see `comm.py`
CHANNELS = (*KERNEL_CHANNELS, JOURNAL_CHANNEL, RELAY_CHANNEL)

MAX_STREAMS = 64  # per relay; a kernel needs five, every further Jupyter client four or five more
_MAX_HELLO_CHARS = 4096
_MAX_OFFSET = 2**63
_STREAM_ID = re.compile(r"[0-9a-f]{32}")
_RESUME_SECRET = re.compile(r"[0-9a-f]{64}")


class CloseCode(IntEnum):
    """The link's WebSocket close codes, in the range that RFC 6455 §7.4.2 reserves for applications.

    After 1006, 1001, 1011 to 1013 and timeouts the host dials again; after one of these codes it does not.
    """

    SUPERSEDED = 4001  # replaced by a later attachment or by another host
    BAD_HELLO = 4400  # or a bad frame
    BAD_SECRET = 4401
    UNKNOWN_STREAM = 4404  # the relay was restarted, the stream expired, or the kernel does not exist
    STALE_GENERATION = 4409
    WINDOW_OVERRUN = 4413
    TOO_MANY_STREAMS = 4429
    PORT_REFUSED = 4502


@dataclass(frozen=True)
class HostHello:
    """The host's hello: the stream to attach and its state at the host."""

    stream: str  # 32 random hex digits, chosen by the host; not secret
    resume: str = field(repr=False)  # 64 hex digits, the stream's secret
    kernel: str  # the kernel's id, or empty for the channel ``relay``
    window: int  # most unacked bytes of the host
    generation: int = 1  # of this attachment
    received: int = 0  # offset below which the relay's bytes were received
    known: bool = False  # whether the relay is known to have the stream
    version: int = WIRE_VERSION

    def to_header(self) -> str:
        """Return the value of the ``X-Kernel-Hello`` header."""
        return json.dumps(asdict(self))


@dataclass(frozen=True)
class RelayHello:
    """The relay's hello."""

    boot: str  # a random id of this relay process
    window: int
    version: int = WIRE_VERSION

    def to_payload(self) -> bytes:
        """Return the payload of the HELLO frame."""
        return json.dumps(asdict(self)).encode("ascii")


def close_reason(error: Exception | str) -> str:
    """Return an error's text as a close reason, cut to the 123 bytes that RFC 6455 §5.5 allows."""
    return str(error).encode("ascii", "replace")[:123].decode("ascii")


def parse_host_hello(header: str | None) -> HostHello:
    """Return the hello in an ``X-Kernel-Hello`` header.

    Raises:
        RemoteProtocolError: If the hello is missing, malformed or of another version.
    """
    given = _parse(header or "")
    fields: dict[str, Any] = {name: given.get(name) for name in HostHello.__annotations__}
    hello = HostHello(**fields)
    if not (isinstance(hello.stream, str) and _STREAM_ID.fullmatch(hello.stream)):
        raise RemoteProtocolError("hello without a stream id of 32 hex digits")
    if not (isinstance(hello.resume, str) and _RESUME_SECRET.fullmatch(hello.resume)):
        raise RemoteProtocolError("hello without a resume secret of 64 hex digits")
    if not isinstance(hello.kernel, str):
        raise RemoteProtocolError("hello without a kernel id")
    if type(hello.known) is not bool:
        raise RemoteProtocolError("hello without the field that says whether the stream is known")
    for name, least in (("window", 1), ("generation", 1), ("received", 0)):
        _count(given, name, least)
    return hello


def parse_relay_hello(payload: bytes) -> RelayHello:
    """Return the hello in a HELLO frame.

    Raises:
        RemoteProtocolError: If the hello is malformed or of another version.
    """
    fields = _parse(payload.decode("ascii", errors="replace"))
    boot = fields.get("boot")
    if not isinstance(boot, str):
        raise RemoteProtocolError("the relay's hello has no boot id")
    return RelayHello(boot=boot, window=_count(fields, "window", 1))


def _count(fields: dict[str, Any], name: str, least: int) -> int:
    value = fields.get(name)
    if type(value) is not int or not least <= value <= _MAX_OFFSET:
        raise RemoteProtocolError(f"hello whose {name} is no number from {least}")
    return value


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
