"""``DaytonaSandbox``: a sandbox at Daytona.

Only this package imports Daytona's SDK, and only when a sandbox is started or listed: the import takes seconds, and a
description of a sandbox has to be cheap to make, to copy and to pickle. What belongs here is all that knows Daytona's
API, its toolbox and its images. How a relay works inside the sandbox is ``guest``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ...config import DAYTONA_BUILD_S, START_S, daytona_snapshot
from ...wire.keepalive import RESUME_LIFETIME_S
from ..option_checks import check_flag, check_seconds, check_text, check_texts, check_whole, refuse_options

if TYPE_CHECKING:
    from collections.abc import Callable

    from daytona import (
        CreateSandboxFromImageParams,
        CreateSandboxFromSnapshotParams,
        Image,
        Resources,
        VolumeMount,
    )

    from .sandbox import RunningDaytonaSandbox
    from .snapshot_image import KernelImage

_DAY_MINUTES = 24 * 60
_SPARE_MINUTES = 5  # between the relay's end and the sandbox's, where no option sets the second
_RESOURCES = ("cpu", "memory", "disk", "gpu")
_SDK_OPTIONS = (
    *("snapshot", "image", "resources", "target", "env_vars", "volumes", "labels", "network_block_all"),
    *("network_allow_list", "domain_allow_list", "auto_stop_interval", "ttl_minutes"),
)

# Names that earlier versions, Daytona's SDK or its guide to DSPy's RLM have, and what to pass instead.
REPLACED_OPTIONS: Mapping[str, str] = {
    "cpu": 'pass resources={"cpu": ...}',
    "memory": 'pass resources={"memory": ...}, in GiB',
    "disk": 'pass resources={"disk": ...}, in GiB',
    "region": "pass target=",
    "env": "pass env_vars=",
    "auto_stop": "pass auto_stop_interval=, in minutes",
    "ttl": "pass ttl_minutes=",
    "sandbox_params": "pass its entries as options, or an object of Daytona's SDK as params=",
    "max_retries": "a cell is never sent again; resume_lifetime= is how long a lost connection is resumed",
    "timeout": "pass start_timeout=, in seconds; execution_timeout= of KernelInterpreter is a cell's limit",
    "api_key": "set DAYTONA_API_KEY in the environment or in .env",
    "api_url": "set DAYTONA_API_URL in the environment or in .env",
    "auto_delete_interval": "the sandbox is deleted unless keep=True; any other interval goes into params=",
    "ephemeral": "the sandbox is deleted when it stops, unless keep=True",
    **dict.fromkeys(
        (
            *("name", "language", "os_user", "public", "auto_pause_interval", "auto_archive_interval"),
            *("queue_timeout", "secrets", "outbound_proxy_url", "linked_sandbox"),
        ),
        "set it in an object of Daytona's SDK and pass that as params=",
    ),
}


@refuse_options(REPLACED_OPTIONS)
@dataclass(frozen=True)
class DaytonaSandbox:
    """Run the kernel in a sandbox at Daytona, with the key and the address that Daytona's SDK finds in the environment.

    Options that the SDK has, have its names and units. The sandbox is deleted at shutdown. If this process is killed,
    the sandbox stops by itself after ``auto_stop_interval`` minutes without a host, and is deleted with that.

    Attributes:
        snapshot: Name of the snapshot to start from. None: ``DAYTONA_KERNEL_SNAPSHOT``, else Daytona's default.
        image: ``KernelImage()``, the name of another image, or a ``daytona.Image``, to build and start from instead of
            a snapshot. The first build takes minutes.
        resources: ``{"cpu": 2, "memory": 4, "disk": 10}`` (cores and GiB) or a ``daytona.Resources``; with an image
            only, because a snapshot has its own.
        target: The region in which the sandbox runs. None: the organisation's default.
        env_vars: Variables of every process in the sandbox. They do not show in ``repr``.
        volumes: The mount path of each volume by its name or id, or a list of ``daytona.VolumeMount``.
        labels: Labels in addition to those of this package.
        network_block_all: Block the sandbox's network. Its image then needs ipykernel and websockets.
        network_allow_list: The only networks that can be reached, as CIDRs separated by commas.
        domain_allow_list: The only domains that can be reached, separated by commas.
        auto_stop_interval: Minutes without a host after which the sandbox stops; longer than ``resume_lifetime``. None:
            5 minutes longer.
        ttl_minutes: Minutes after its creation when the sandbox is deleted in any state; 0: never. None: a day, unless
            it is kept. It limits a sandbox whose start never ended or whose host hangs.
        params: ``CreateSandboxFromSnapshotParams`` or ``CreateSandboxFromImageParams`` of the SDK, instead of all
            options above. What it leaves open is set as described above; labels are added to its own.
        keep: Stop the sandbox at shutdown, and when its host is gone, instead of deleting it.
        resume_lifetime: Seconds that relay and kernels live on without a host, for :meth:`KernelInterpreter.attach`.
        start_timeout: Seconds that a start may take, from the request to a relay that listens. None: 60, or 900 with an
            image.
        python: The interpreter in the sandbox that runs relay and kernel. None: ``python3``, else ``python``.
        port: The relay's port, 3000 to 9999. None: a free one.
        upload: Whether to upload the part of this package that runs in the sandbox. None: where it is missing.
        resolve: Returns the address of a preview's host name, or None for the usual lookup; for tests.
    """

    snapshot: str | None = None
    image: KernelImage | Image | str | None = None
    resources: Mapping[str, int] | Resources | None = None
    target: str | None = None
    env_vars: Mapping[str, str] = field(default_factory=dict, repr=False)
    volumes: Mapping[str, str] | Sequence[VolumeMount] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    network_block_all: bool = False
    network_allow_list: str | None = None
    domain_allow_list: str | None = None
    auto_stop_interval: int | None = None
    ttl_minutes: int | None = None
    params: CreateSandboxFromSnapshotParams | CreateSandboxFromImageParams | None = field(default=None, repr=False)
    keep: bool = False
    resume_lifetime: float = RESUME_LIFETIME_S
    start_timeout: float | None = None
    python: str | None = None
    port: int | None = None
    upload: bool | None = None
    resolve: Callable[[str], str | None] | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        self._check_each()
        self._check_objects()
        if self.params is not None:
            self._check_params()
        elif self.snapshot is not None and self.image is not None:
            raise ValueError("a sandbox starts from a snapshot or from an image: give one of them")
        elif self.image is None and self.resources is not None:
            raise ValueError("resources come with the snapshot: give an image to choose them")
        for name in ("auto_stop_interval", "ttl_minutes"):
            minutes = self.sdk_option(name)
            if minutes is None or (minutes == 0 and name == "ttl_minutes"):
                continue
            if minutes * 60 <= self.resume_lifetime:
                raise ValueError(
                    f"{name} of {minutes} minutes must be longer than resume_lifetime ({self.resume_lifetime:g} s): "
                    "the sandbox would end before another process may attach to its session"
                )

    def _check_each(self) -> None:
        """Check every option that has a plain value on its own: at once, not in the middle of a start."""
        for name in ("snapshot", "target", "network_allow_list", "domain_allow_list", "python"):
            if getattr(self, name) is not None:
                check_text(name, getattr(self, name))
        for name in ("env_vars", "labels"):
            check_texts(name, getattr(self, name))
        for name in ("network_block_all", "keep", "upload"):
            if getattr(self, name) is not None or name != "upload":
                check_flag(name, getattr(self, name))
        for name, least, most in (("auto_stop_interval", 1, None), ("ttl_minutes", 0, None), ("port", 3000, 9999)):
            if getattr(self, name) is not None:
                check_whole(name, getattr(self, name), least, most)
        for name in ("resume_lifetime", "start_timeout"):
            if getattr(self, name) is not None or name == "resume_lifetime":
                check_seconds(name, getattr(self, name))

    def _check_objects(self) -> None:
        """Check the options that may be objects of the SDK, without importing it."""
        if isinstance(self.volumes, Mapping):
            check_texts("volumes", self.volumes)
        elif isinstance(self.volumes, str) or not all(hasattr(mount, "mount_path") for mount in self.volumes):
            raise TypeError("volumes must be a mapping of texts or a list of daytona.VolumeMount")
        if not (self.image is None or isinstance(self.image, str) or hasattr(self.image, "dockerfile")):
            raise TypeError(
                f"image must be KernelImage(), the name of an image, or a daytona.Image, not {self.image!r}"
            )
        if isinstance(self.resources, Mapping):
            for name, amount in self.resources.items():
                if name not in _RESOURCES:
                    raise ValueError(f"resources may have {', '.join(_RESOURCES)}, not {name!r}")
                check_whole(name, amount, 1)
        elif self.resources is not None and not hasattr(self.resources, "cpu"):
            raise TypeError(f"resources must be a mapping or a daytona.Resources, not {self.resources!r}")
        if self.resolve is not None and not callable(self.resolve):
            raise TypeError(f"resolve must be a function, not {self.resolve!r}")

    def _check_params(self) -> None:
        if not hasattr(self.params, "auto_stop_interval") or not hasattr(self.params, "model_copy"):
            raise TypeError(
                "params must be a CreateSandboxFromSnapshotParams or a CreateSandboxFromImageParams of Daytona's SDK, "
                f"not {type(self.params).__name__}"
            )
        if beside := [name for name in _SDK_OPTIONS if getattr(self, name)]:
            raise ValueError(f"{' and '.join(beside)} must be set in params, not in addition to it")
        if self.keep and self.sdk_option("auto_delete_interval") == 0:
            raise ValueError("keep=True contradicts params, by which the sandbox is deleted when it stops")

    def sdk_option(self, name: str) -> Any:
        """Return an option of the SDK, from ``params`` if that is given; None where neither sets it."""
        return getattr(self if self.params is None else self.params, name, None)

    @property
    def source_image(self) -> Any:
        """The image to build and start from, or None if the sandbox starts from a snapshot."""
        return self.sdk_option("image")

    @property
    def snapshot_name(self) -> str | None:
        """The snapshot to start from; None: Daytona's default."""
        return self.sdk_option("snapshot") or daytona_snapshot()

    @property
    def effective_auto_stop_interval(self) -> int:
        """Minutes without a host after which the sandbox stops."""
        return self.sdk_option("auto_stop_interval") or math.ceil(self.resume_lifetime / 60) + _SPARE_MINUTES

    @property
    def effective_ttl_minutes(self) -> int:
        """Minutes after its creation when the sandbox is deleted in any state; 0: never."""
        minutes = self.sdk_option("ttl_minutes")
        if minutes is not None:
            return int(minutes)
        return 0 if self.keep else max(_DAY_MINUTES, self.effective_auto_stop_interval)

    @property
    def effective_start_timeout(self) -> float:
        """Seconds that a start may take."""
        return self.start_timeout or (START_S if self.source_image is None else DAYTONA_BUILD_S)

    async def start(self) -> RunningDaytonaSandbox:
        """Create the sandbox and start the relay in it.

        Raises:
            SandboxFailed: If a step of that failed; the sandbox is deleted.
        """
        from .create import start

        return await start(self)
