"""The source of classes of cells, which ``inspect`` finds for functions only.

``inspect`` takes the file of a class from its module, and the module of the cells has no file.
"""

from __future__ import annotations

import functools
import inspect
import linecache
import re


def find_classes_of_cells() -> None:
    """Let ``inspect.getfile``, and with it ``inspect.getsource``, find the cell that defines a class."""
    getfile = inspect.getfile

    @functools.wraps(getfile)
    def getfile_of_cells(object: object) -> str:
        try:
            return getfile(object)  # type: ignore[arg-type]
        except (OSError, TypeError):
            if not (isinstance(object, type) and object.__module__ == "__main__"):
                raise
            file = _file_of(object)
            if file is None:
                raise
            return file

    inspect.getfile = getfile_of_cells


def _file_of(cls: type) -> str | None:
    """Return the name of the cell of a class: of one of its methods, or else the last one that has such a class."""
    for member in vars(cls).values():
        code = getattr(getattr(member, "__func__", member), "__code__", None)
        if code is not None and _defines(code.co_filename, cls.__name__):
            return str(code.co_filename)
    for file in reversed(list(linecache.cache)):
        if _defines(file, cls.__name__):
            return file
    return None


def _defines(file: str, name: str) -> bool:
    entry = linecache.cache.get(file)
    if entry is None or len(entry) != 4 or entry[1] is not None:  # a cell has no time of change
        return False
    return re.search(rf"^\s*class {re.escape(name)}\b", "".join(entry[2]), re.MULTILINE) is not None
