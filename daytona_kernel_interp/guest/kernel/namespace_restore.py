"""Restores what code in cells may break and the next cell needs. Runs before and after each cell."""

from __future__ import annotations

import builtins
import os
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import MutableMapping, Sequence

    from .output import CellStream


class NamespaceRestorer:
    """Restores streams, file descriptors, builtins and IPython's names to their state before the first cell.

    A name that code may use for itself, such as ``In`` or ``exit``, is restored only if it was deleted.
    """

    def __init__(self, shell: Any, streams: Sequence[CellStream]) -> None:
        self._shell, self._streams, self._module = shell, streams, shell.user_module
        self._sys, self._os = sys, os  # code can remove them from sys.modules and from this module
        self._builtins, self._saved_builtins = vars(builtins), dict(vars(builtins))
        # Copies keep a writer of the pipe behind 1 and 2 open, so that its reader sees no end when code closes them.
        self._fds = {fd: (os.dup(fd), self._identity(fd)) for fd in (1, 2)}

    def restore(self) -> None:
        """Restore everything but the file descriptors."""
        self._builtins.update(self._saved_builtins)  # first, because the rest needs them
        self._sys.stdout, self._sys.stderr = self._streams
        for stream in self._streams:
            for method in ("write", "flush", "close"):
                stream.__dict__.pop(method, None)
        self._shell.user_module, self._shell.user_ns = self._module, vars(self._module)
        self._restore_names(self._shell.user_ns)

    def restore_descriptors(self) -> None:
        """Connect 1 and 2 with their pipes again, for child processes. Needed before a cell only."""
        for fd, (kept, identity) in self._fds.items():
            if self._identity(fd) != identity:
                self._os.dup2(kept, fd)

    def _identity(self, fd: int) -> tuple[int, int] | None:
        try:
            found = self._os.fstat(fd)
        except OSError:
            return None
        return found.st_dev, found.st_ino

    def _restore_names(self, namespace: MutableMapping[str, object]) -> None:
        history = self._shell.history_manager
        # IPython reads these in every cell.
        namespace.update(_ih=history.input_hist_parsed, _oh=history.output_hist, _dh=history.dir_hist)
        for name, value in (
            ("In", history.input_hist_parsed),
            ("Out", history.output_hist),
            ("get_ipython", self._shell.get_ipython),
            ("exit", self._shell.exiter),
            ("quit", self._shell.exiter),
            ("__name__", "__main__"),
        ):
            namespace.setdefault(name, value)
