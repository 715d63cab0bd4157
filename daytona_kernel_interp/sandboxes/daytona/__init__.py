"""``DaytonaSandbox``: a sandbox at Daytona. Only this package imports Daytona's SDK, and only when one is started."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ...config import DAYTONA_BUILD_S, START_S, daytona_snapshot
from ...wire.keepalive import RESUME_LIFETIME_S

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from .sandbox import RunningDaytonaSandbox

_DAY_MINUTES = 24 * 60
_SPARE_MINUTES = 5  # between the relay's end and the sandbox's, where nobody says otherwise


@dataclass(frozen=True)
class DaytonaSandbox:
    """Run the kernel in a sandbox at Daytona, with the key and the address that Daytona's SDK finds in the environment.

    The sandbox is deleted at shutdown. Should this process be killed, the sandbox stops by itself after ``auto_stop``
    minutes without a host, and is deleted with that.

    Attributes:
        snapshot: Name of the snapshot to start from. None: ``DAYTONA_KERNEL_SNAPSHOT``, else Daytona's default one.
        image: ``KernelImage()``, the name of another image, or a ``daytona.Image``, to build and start from instead of
            a snapshot. The first build takes minutes.
        cpu: Cores; with an image only, as a snapshot has its own. Memory and disk likewise.
        memory: GiB of memory.
        disk: GiB of disk.
        region: Where it runs; None: the organisation's default.
        env: Variables of every process in the sandbox. They do not show in ``repr``.
        volumes: Names or ids of volumes, with the path to mount each at.
        labels: Labels besides our own.
        network_block_all: No way out of the sandbox. Its image needs ipykernel and websockets then.
        network_allow_list: The only networks to be reached, as CIDRs joined by commas.
        domain_allow_list: The only names to be reached, joined by commas.
        auto_stop: Minutes without a host after which the sandbox stops; longer than ``resume_lifetime``. None: 5 more.
        ttl: Minutes after which it is deleted, whatever it does; 0: never. None: a day, unless it is kept. It is what
            ends a sandbox that never started, or whose host hangs.
        keep: Stop the sandbox at shutdown, and when its host is gone, instead of deleting it.
        resume_lifetime: Seconds that relay and kernels live on without a host, for :meth:`KernelInterpreter.attach`.
        start_timeout: Seconds from nothing to a started sandbox with a relay in it. None: 60, or 900 with an image.
        python: The interpreter in the sandbox that runs relay and kernel. None: ``python3``, else ``python``.
        port: The relay's port, 3000 to 9999. None: a free one.
        upload: Whether the part of this package that runs in the sandbox is uploaded. None: where it is not there.
        resolve: Gives the address of a preview's host, or None for the usual way; for tests.
    """

    snapshot: str | None = None
    image: Any = None
    cpu: int | None = None
    memory: int | None = None
    disk: int | None = None
    region: str | None = None
    env: Mapping[str, str] = field(default_factory=dict, repr=False)
    volumes: Mapping[str, str] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    network_block_all: bool = False
    network_allow_list: str | None = None
    domain_allow_list: str | None = None
    auto_stop: int | None = None
    ttl: int | None = None
    keep: bool = False
    resume_lifetime: float = RESUME_LIFETIME_S
    start_timeout: float | None = None
    python: str | None = None
    port: int | None = None
    upload: bool | None = None
    resolve: Callable[[str], str | None] | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        self._check_kinds()
        if self.snapshot is not None and self.image is not None:
            raise ValueError("a sandbox starts from a snapshot or from an image: give one of them")
        if self.image is None and (self.cpu, self.memory, self.disk) != (None, None, None):
            raise ValueError("cpu, memory and disk come with the snapshot; give an image to choose them")
        if not 0 < self.resume_lifetime < math.inf:
            raise ValueError(f"resume_lifetime is a number of seconds, not {self.resume_lifetime!r}")
        for name, minutes in (("auto_stop", self.auto_stop), ("ttl", self.ttl)):
            if (minutes or name == "auto_stop") and minutes is not None and minutes * 60 <= self.resume_lifetime:
                raise ValueError(
                    f"{name} of {minutes} minutes is not longer than resume_lifetime ({self.resume_lifetime:g} s): "
                    "the sandbox would end before its session may be taken up"
                )
        if self.port is not None and not 3000 <= self.port <= 9999:
            raise ValueError(f"port is one from 3000 to 9999, not {self.port}")

    def _check_kinds(self) -> None:
        """Refuse now what the SDK would refuse at the start, in words of its own."""
        for name in ("env", "labels", "volumes"):
            if not all(isinstance(part, str) for pair in getattr(self, name).items() for part in pair):
                raise ValueError(f"{name} has texts as names and as values")
        for name in ("cpu", "memory", "disk", "auto_stop", "ttl", "port"):
            given, least = getattr(self, name), 0 if name == "ttl" else 1
            if given is not None and (type(given) is not int or given < least):
                raise ValueError(f"{name} is a whole number, {least} or more, not {given!r}")
        if not (self.image is None or isinstance(self.image, str) or hasattr(self.image, "dockerfile")):
            raise ValueError(f"image is KernelImage(), the name of an image, or a daytona.Image, not {self.image!r}")

    @property
    def auto_stop_minutes(self) -> int:
        """After how many minutes without a host the sandbox stops."""
        return self.auto_stop or math.ceil(self.resume_lifetime / 60) + _SPARE_MINUTES

    @property
    def ttl_minutes(self) -> int:
        """After how many minutes it is deleted, whatever it does; 0: never."""
        if self.ttl is not None:
            return self.ttl
        return 0 if self.keep else max(_DAY_MINUTES, self.auto_stop_minutes)

    @property
    def start_timeout_s(self) -> float:
        """What a start may take."""
        return self.start_timeout or (START_S if self.image is None else DAYTONA_BUILD_S)

    @property
    def snapshot_name(self) -> str | None:
        """The snapshot to start from; None: Daytona's default."""
        return self.snapshot or daytona_snapshot()

    async def start(self) -> RunningDaytonaSandbox:
        """Create the sandbox and start the relay in it.

        Raises:
            SandboxFailed: If one of that did not work; the sandbox is deleted.
        """
        from .create import start

        return await start(self)
