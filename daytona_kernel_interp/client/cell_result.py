"""The public result of one cell: what ``KernelInterpreter.run`` and ``live().run`` return."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from .outputs import StreamText

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .outputs import CellError, Output


@dataclass(frozen=True)
class CellResult:
    """What one cell did, as typed values.

    Attributes:
        outputs: Everything the cell showed, in order.
        value: The value of the last expression (``0`` stays ``0``). None if there was no value, or if JSON cannot
            carry it; its repr is then in ``outputs``.
        error: The exception that ended the cell, or None. A cell that was interrupted by ``execution_timeout`` has
            an error named ``TimeoutError``.
        submission: The names and values of the output fields passed to SUBMIT, or None.
        duration_s: Seconds from the request to the end of the cell.
    """

    outputs: tuple[Output, ...]
    value: object
    error: CellError | None
    submission: Mapping[str, object] | None
    duration_s: float

    @property
    def text(self) -> str:
        """The text written to ``stdout`` and ``stderr``."""
        return "".join(output.text for output in self.outputs if isinstance(output, StreamText))
