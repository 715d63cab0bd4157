"""Names of websockets that ``transport.websocket`` uses beyond its documented API: each must exist."""

from __future__ import annotations

import inspect
import re

import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.asyncio.connection import Connection
from websockets.asyncio.server import ServerConnection
from websockets.frames import Frame
from websockets.protocol import Protocol
from websockets.version import version as websockets_version

pytestmark = pytest.mark.python

METHODS = [
    *((owner, name) for owner in (ClientConnection, ServerConnection) for name in ("process_event", "data_received")),
    (Connection, "connection_lost"),
    (Connection, "resume_writing"),
    (connect, "process_redirect"),
    (Protocol, "send_binary"),
    (Protocol, "data_to_send"),
    (Protocol, "state"),
]
# Set by the constructor or by asyncio's connection_made, so the classes do not have them.
ATTRIBUTES = [
    *((Connection, name) for name in ("protocol", "transport", "loop", "paused")),
    *((Protocol, name) for name in ("close_rcvd", "close_sent")),
]


@pytest.mark.parametrize(("owner", "name"), METHODS, ids=lambda value: getattr(value, "__name__", value))
def test_the_class_has_the_name(owner: type, name: str) -> None:
    """An upgrade that removes a name fails here, with the name."""
    assert callable(getattr(owner, name, None)) or isinstance(getattr(owner, name, None), property), (
        f"{owner.__name__} of websockets {websockets_version} has no {name}"
    )


@pytest.mark.parametrize(("owner", "name"), ATTRIBUTES, ids=lambda value: getattr(value, "__name__", value))
def test_the_class_sets_the_attribute(owner: type, name: str) -> None:
    """An upgrade that removes an attribute of the instances fails here, with the name."""
    assert re.search(rf"\bself\.{name}\b[^=\n]*=[^=]", inspect.getsource(owner)), (
        f"{owner.__name__} of websockets {websockets_version} sets no {name}"
    )


@pytest.mark.parametrize("name", ["opcode", "data", "fin"])
def test_a_frame_has_the_field(name: str) -> None:
    """An upgrade that removes a field of a frame fails here, with the name."""
    assert name in Frame.__dataclass_fields__, f"Frame of websockets {websockets_version} has no {name}"
