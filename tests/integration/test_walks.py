"""The walks in ``docs/architecture.md`` are the files through which control passes."""

from __future__ import annotations

import re
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import daytona_kernel_interp
from daytona_kernel_interp import KernelInterpreter
from daytona_kernel_interp.runtime.event_loop import io_loop

if TYPE_CHECKING:
    from types import FrameType

PACKAGE = Path(daytona_kernel_interp.__file__).parent
DOCUMENT = Path(__file__).parents[2] / "docs" / "architecture.md"
LIMITS = {"A cell": 7, "Bytes": 6, "A tool call": 8, "SUBMIT": 8}


def walks() -> dict[str, list[str]]:
    """Return the numbered lists of the section "Walks", by the first words of their captions."""
    section = DOCUMENT.read_text(encoding="utf-8").partition("\n## Walks\n")[2].partition("\n## ")[0]
    parts = re.findall(r"^([A-Z][^,\n]*),[^\n]*:\n\n((?:\d+\. `[^`]+`\n)+)", section, re.MULTILINE)
    return {caption: re.findall(r"`([^`]+)`", files) for caption, files in parts}


class Profile:
    """Records which files of the package are entered by calls, on every thread, from when it is started."""

    def __init__(self) -> None:
        self.entered: list[str] = []
        self._names: dict[str, str | None] = {}

    def __enter__(self) -> Profile:
        threading.setprofile(self._on_event)
        sys.setprofile(self._on_event)
        # The I/O loop's thread runs already: it starts its own profile.
        io_loop().submit(self._on_loop(True)).result()
        return self

    def __exit__(self, *exc_info: object) -> None:
        sys.setprofile(None)
        threading.setprofile(None)
        io_loop().submit(self._on_loop(False)).result()

    async def _on_loop(self, on: bool) -> None:
        sys.setprofile(self._on_event if on else None)

    def _on_event(self, frame: FrameType, event: str, argument: object) -> None:
        if event != "call":
            return
        name = frame.f_code.co_filename
        if name not in self._names:
            path = Path(name)
            inside = path.is_relative_to(PACKAGE)
            self._names[name] = path.relative_to(PACKAGE).as_posix() if inside else None
        file = self._names[name]
        if file is not None:
            self.entered.append(file)


@pytest.fixture(scope="module")
def entered() -> set[str]:
    """Return the files that a cell with a tool call and a SUBMIT enters on the host."""

    def double(number: int) -> int:
        return 2 * number

    with KernelInterpreter({"double": double}, sandbox="local") as interpreter:
        interpreter.execute("0")
        with Profile() as profile:
            interpreter.execute("SUBMIT(double(number))", {"number": 21})
    return set(profile.entered)


def test_there_are_four_walks() -> None:
    """Each walk of the document has at most as many files as it may have, and names no file twice."""
    found = walks()
    assert set(found) == set(LIMITS)
    for caption, files in found.items():
        assert len(files) <= LIMITS[caption], caption
        assert len(files) == len(set(files)), caption
        assert all((PACKAGE / file).is_file() for file in files), caption


@pytest.mark.parametrize("caption", LIMITS)
def test_every_file_of_a_walk_is_entered(caption: str, entered: set[str]) -> None:
    """A cell with a tool call and a SUBMIT enters each listed file."""
    assert set(walks()[caption]) <= entered


def test_a_cell_leaves_the_host_by_the_listed_files_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """At jupyter_client's send, the frames on the stack and before are in the walk's order, no file entered twice."""
    import traceback

    from daytona_kernel_interp.client.channels import Channels

    files = walks()["A cell"]
    stacks: list[list[str]] = []
    send = Channels.send

    def spy(self: Channels, *args: object) -> None:
        stacks.append([frame.filename for frame in traceback.extract_stack()])
        send(self, *args)  # type: ignore[arg-type]

    with KernelInterpreter(sandbox="local") as interpreter:
        interpreter.execute("0")
        monkeypatch.setattr(Channels, "send", spy)
        interpreter.execute("1")
    inside = [Path(name) for name in stacks[-1] if Path(name).is_relative_to(PACKAGE)]
    order = list(dict.fromkeys(path.relative_to(PACKAGE).as_posix() for path in inside))
    on_loop = [file for file in files if file in order]
    assert order == on_loop, "the I/O loop's frames enter the walk's files in order"
    runs = [key for key, before in zip(inside, [None, *inside], strict=False) if key != before]
    assert len(runs) == len(set(runs)), "no file is entered twice"
    assert files[-1] == "client/channels.py"
