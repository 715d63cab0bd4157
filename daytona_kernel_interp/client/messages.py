"""Parse and limit the Jupyter messages that a kernel sends."""

from __future__ import annotations

import hmac
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jupyter_client.session import Session

_SIGNED = (
    4  # header, parent header, metadata and content; buffers are not (Jupyter messaging spec, "The Wire Protocol")
)

_SLACK_BYTES = 16 << 20  # above the largest value: JSON parts, the code, a figure


def max_message_bytes(max_value_bytes: int | None) -> int | None:
    """Return the size limit in bytes of a kernel's messages, given the limit of its values; None means no limit."""
    return None if max_value_bytes is None else max_value_bytes + _SLACK_BYTES


def parse(session: Session, parts: Sequence[bytes]) -> dict[str, Any]:
    """Return the message in ``parts``, the frames after the delimiter (the signature comes first).

    ``Session.deserialize`` does the same and also parses two dates per message, which takes as long as everything else
    it does; the dates are not used here.

    Raises:
        ValueError: If the signature is wrong or the parts are no message.
    """
    signature, signed, buffers = parts[0], list(parts[1 : 1 + _SIGNED]), parts[1 + _SIGNED :]
    if len(signed) != _SIGNED or not hmac.compare_digest(session.sign(signed), signature):
        raise ValueError("it is not signed with the session's key")
    header, parent, metadata, content = (session.unpack(part) for part in signed)
    if not all(isinstance(part, dict) for part in (header, parent, metadata, content)):
        raise ValueError("its parts are not JSON objects")
    if not all(isinstance(header.get(name), str) for name in ("msg_id", "msg_type")):
        raise ValueError("its header has no id or no type")
    return {
        **{"header": header, "msg_id": header["msg_id"], "msg_type": header["msg_type"], "parent_header": parent},
        **{"metadata": metadata, "content": content, "buffers": [memoryview(buffer) for buffer in buffers]},
    }
