"""Tests of ``client.channels``: iopub messages are held back while the journal is read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from daytona_kernel_interp.client.channels import Channels
from daytona_kernel_interp.tunnel.local_endpoints import write_connection_file

if TYPE_CHECKING:
    from pathlib import Path


def message(name: str) -> dict[str, Any]:
    return {"header": {"msg_id": name}, "parent_header": {}, "msg_type": "stream"}


async def test_what_the_journal_told_is_not_told_again(tmp_path: Path) -> None:
    """Held back and late iopub messages do not repeat those of the journal; each comes once, in order."""
    taken: list[str] = []
    connection_file = write_connection_file(tmp_path, "k", "key")
    channels = Channels(
        connection_file, None, lambda _: None, lambda each: taken.append(each["header"]["msg_id"]), lambda _: None
    )
    try:
        channels.hold_iopub()
        for name in ("told", "held"):
            channels.receive_iopub(message(name))
        assert taken == []
        channels.release_iopub({"told", "told and on its way"})
        for name in ("told and on its way", "new"):
            channels.receive_iopub(message(name))
        assert taken == ["held", "new"]
        assert channels._known_ids == set()
    finally:
        await channels.aclose()
