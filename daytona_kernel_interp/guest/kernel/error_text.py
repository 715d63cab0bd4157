"""The text of an exception in a cell: Python's own, with the names of cells and without frames that are not the code's.

Python's format has the ``^^^^`` markers, notes, groups and suggestions, and repeats no line a thousand times. IPython's
plain one, which stands for the same lines, has none of these.
"""

from __future__ import annotations

import codeop
import re
import traceback
from pathlib import Path
from typing import TYPE_CHECKING

import IPython

if TYPE_CHECKING:
    import types
    from collections.abc import Callable, Iterator

# IPython compiles cells by the module codeop.
_HIDDEN = (str(Path(__file__).parent), str(Path(IPython.__file__).parent), codeop.__file__)
_FILE = re.compile(r'File "([^"\n]+)"')
_COLOURS = re.compile(r"\x1b\[[0-9;:?]*[ -/]*[@-~]")
# Of a longer traceback, the frames that are kept, with the lines about the exception.
_FIRST_BLOCKS, _LAST_BLOCKS = 6, 10
_FEW_BLOCKS = 3  # of each end, if these are longer than the next limit
_LONG_CHARS = 3_500  # a shorter traceback is kept as it is


def without_colours(text: str) -> str:
    """Return a text without the control sequences of a terminal."""
    return _COLOURS.sub("", text) if "\x1b" in text else text


def hide_frames(error: BaseException | None) -> None:
    """Remove the frames of IPython and of this package from the tracebacks of an exception and of its causes."""
    for one in _chain(error):
        one.__traceback__ = visible_frames(one.__traceback__)


def visible_frames(tb: types.TracebackType | None) -> types.TracebackType | None:
    """Return a traceback without the frames of IPython and of this package."""
    kept = []
    while tb is not None:
        if not tb.tb_frame.f_code.co_filename.startswith(_HIDDEN):
            kept.append(tb)
        tb = tb.tb_next
    following = None
    for entry in reversed(kept):
        entry.tb_next = following
        following = entry
    return following


def format_error(
    etype: type[BaseException],
    value: BaseException,
    tb: types.TracebackType | None,
    cell_name: Callable[[str], str | None],
) -> str:
    """Return the traceback of an exception. ``cell_name`` gives the name of the cell that a file stands for, if any."""
    hide_frames(value)
    blocks = list(traceback.TracebackException(etype, value, visible_frames(tb), compact=True).format())
    names = {f"{type(one).__module__}.{type(one).__qualname__}": type(one).__name__ for one in _chain(value)}
    for number, block in enumerate(blocks):
        for full, name in names.items():
            if block.startswith(full):  # the type's name alone, as everywhere else
                blocks[number] = name + block[len(full) :]
    first, last = _FIRST_BLOCKS, _LAST_BLOCKS
    if sum(map(len, blocks[:first] + blocks[-last:])) > _LONG_CHARS:
        first = last = _FEW_BLOCKS
    if len(blocks) > first + last and sum(map(len, blocks)) > _LONG_CHARS:
        blocks[first:-last] = [f"  [... {len(blocks) - first - last:,} frames left out ...]\n"]

    def named(match: re.Match[str]) -> str:
        return cell_name(match[1]) or match[0]

    return without_colours(_FILE.sub(named, "".join(blocks)))


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an exception and those that it came from."""
    seen: set[int] = set()
    waiting = [error]
    while waiting:
        one = waiting.pop()
        if one is not None and id(one) not in seen:
            seen.add(id(one))
            yield one
            waiting += [one.__cause__, one.__context__, *getattr(one, "exceptions", ())]
