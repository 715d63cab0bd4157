"""What the relay server asks of kernel processes.

``kernel_processes.KernelProcesses`` implements it with processes of this machine. The server imports this module only,
so that a simulation can pass it an implementation of its own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from ...wire.journal import JournalRecord


class KernelStartFailed(Exception):
    """The kernel process ended before it served."""


class NoSuchKernel(Exception):
    """The kernel was not started, or has ended."""


class KernelJournal(Protocol):
    """The journal of one kernel; see ``journal_reader``."""

    def read(self, after: str | None, cell: str | None) -> Iterator[bytes]:
        """Yield encoded records from after the message ``after``, or else from the start of ``cell``."""

    def pending(self) -> list[JournalRecord]:
        """Return the text that a dead kernel had printed and not published."""


class KernelControl(Protocol):
    """The kernels of one relay, by the ids that hosts choose for them."""

    on_exit: Callable[[dict[str, object]], None]
    """Called with the event of each kernel that ends."""

    async def start(self, kernel_id: str, key: str, *, personal: bool = False) -> int:
        """Start a kernel with ``key`` as its session key, and return its process id.

        Raises:
            KernelStartFailed: If it ended before it served.
            ValueError: If the id is invalid.
        """

    async def port(self, kernel_id: str, channel: str) -> int:
        """Return the local port of one of a kernel's channels; wait for a kernel that is about to start.

        Raises:
            NoSuchKernel: If it did not start, or has ended.
        """

    def signal(self, kernel_id: str, number: int) -> None:
        """Send a signal to a kernel's process group; do nothing if the kernel has ended."""

    def list_kernels(self) -> Mapping[str, Mapping[str, object]]:
        """Return for each kernel whether it is ``alive``, and its exit event if it is not."""

    def journal(self, kernel_id: str) -> KernelJournal:
        """Return a kernel's journal; one that does not exist reads as empty.

        Raises:
            ValueError: If the id is invalid.
        """

    async def process_status(self, kernel_id: str) -> Mapping[str, object]:
        """Return what is known of a kernel without asking it; see ``wire.inspect_messages``.

        Raises:
            NoSuchKernel: If it has ended.
        """
