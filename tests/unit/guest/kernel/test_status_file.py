"""``guest/board.py``: what a kernel leaves for its relay, and what others may have made of it."""

from __future__ import annotations

import os
import zlib
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daytona_kernel_interp.guest.kernel.status_file import StatusFile, read_status
from daytona_kernel_interp.guest.relay.resource_usage import resource_usage
from tests import examples

if TYPE_CHECKING:
    from pathlib import Path


def test_what_is_written_is_read(tmp_path: Path) -> None:
    """Each slot has what was written last, also where that is shorter than what was there before."""
    board = StatusFile(tmp_path / "board")
    assert read_status(tmp_path / "board") == ({}, {})
    board.write_running({"code": "x" * 1000})
    board.write_running({"code": "y"})
    board.write_summary({"variables": [["é\ud800"] * 500]})
    board.write_summary({"variables": [1]})
    running, summary = read_status(tmp_path / "board")
    assert (running["running"], summary["summary"]) == ({"code": "y"}, {"variables": [1]})
    assert summary["at"] >= running["at"] > 0
    board.write_running(None)
    assert read_status(tmp_path / "board")[0]["running"] is None


def test_no_board_is_no_harm(tmp_path: Path) -> None:
    """Neither a folder that is gone, nor one that cannot be written, nor a link to somewhere raises."""
    StatusFile(tmp_path / "nowhere" / "board").write_running({"code": "x"})
    assert read_status(tmp_path / "nowhere" / "board") == ({}, {})
    (tmp_path / "link").symlink_to("/etc/passwd")
    assert read_status(tmp_path / "link") == ({}, {})
    os.mkfifo(tmp_path / "fifo")
    assert read_status(tmp_path / "fifo") == ({}, {})
    StatusFile(tmp_path / "large").write_running({"code": "x" * 100_000})
    assert read_status(tmp_path / "large") == ({}, {})


@examples.at_most(60)
@given(data=st.binary(max_size=200), checked=st.booleans())
def test_whatever_stands_there(tmp_path_factory: pytest.TempPathFactory, data: bytes, checked: bool) -> None:
    """Bytes of any kind are an object or nothing, with a right checksum too."""
    path = tmp_path_factory.mktemp("b") / "board"
    path.write_bytes(b"%08x %s\n" % (zlib.crc32(data), data) if checked else data)
    running, summary = read_status(path)
    assert isinstance(running, dict)
    assert summary == {}


@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="no /proc")
def test_what_a_process_uses() -> None:
    """Seconds of processor time and bytes of memory of this very process; nothing of one that is gone."""
    used = resource_usage(os.getpid())
    assert used is not None
    assert 0 < used[0] < 10_000
    assert used[1] > 1 << 20
    assert resource_usage(0) is None
