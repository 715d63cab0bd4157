"""Images and snapshots: the settings of a Dockerfile for a sandbox, and the build log."""

from __future__ import annotations

import asyncio
import json
import re
import shlex
import uuid
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from .model import CONTAINER, Refused

if TYPE_CHECKING:
    from pathlib import Path

    from .clock import Clock

DEFAULT_SNAPSHOT = "daytona-small"
DEFAULT_IMAGE = "daytonaio/sandbox:0.8.0"
_SIZES = {"daytona-small": (1, 1, 3), "daytona-medium": (2, 4, 8), "daytona-large": (4, 8, 10)}
_REFUSED_TAGS = ("latest", "lts", "stable")


@dataclass(eq=False)
class Image:
    """The settings of an image for the processes of a sandbox. ``log`` grows during the build."""

    dockerfile: str = ""
    workdir: str = ""
    entrypoint: str = ""
    env: dict[str, str] = field(default_factory=dict)
    files: Path | None = None  # the initial home folder
    log: list[str] = field(default_factory=list)
    error: str | None = None
    finished: asyncio.Event = field(default_factory=asyncio.Event)
    steps: tuple[str, ...] = ()


@dataclass(eq=False)
class Snapshot:
    """A named image as the API describes it."""

    name: str
    image: Image
    created_at: float
    organization: str | None = None  # None: owned by the service, public
    image_name: str = DEFAULT_IMAGE
    cpu: int = 1
    mem: int = 1
    disk: int = 3
    gpu: int = 0
    state: str = "active"
    entrypoint: list[str] | None = None
    sandbox_class: str = CONTAINER
    source_sandbox_id: str | None = None
    id: str = field(default_factory=lambda: str(uuid.uuid4()))


class Images:
    """The snapshots of a service, and its builder."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.fails: list[str] = []  # a build fails if its Dockerfile contains one of these texts
        self._snapshots: list[Snapshot] = []
        for name, (cpu, mem, disk) in _SIZES.items():
            image = Image()
            image.finished.set()
            self._snapshots.append(Snapshot(name, image, clock.now(), cpu=cpu, mem=mem, disk=disk))

    def of(self, organization: str) -> list[Snapshot]:
        """Return the snapshots that an organisation may use."""
        return [known for known in self._snapshots if known.organization in (None, organization)]

    def find(self, organization: str, id_or_name: str) -> Snapshot:
        """Return a snapshot by id or name.

        Raises:
            Refused: If there is none.
        """
        for known in self.of(organization):
            if id_or_name in (known.id, known.name):
                return known
        raise Refused(404, f"Snapshot with ID or name {id_or_name} not found")

    def usable(self, organization: str, id_or_name: str) -> Snapshot:
        """Return an active snapshot for a new sandbox.

        Raises:
            Refused: If the snapshot does not exist or is not active.
        """
        try:
            found = self.find(organization, id_or_name)
        except Refused:
            raise Refused(400, f"Snapshot {id_or_name} not found. Did you add it through the dashboard?") from None
        if found.state != "active":
            raise Refused(400, f"Snapshot {id_or_name} is {found.state}")
        return found

    def add(self, snapshot: Snapshot) -> None:
        """Add a snapshot.

        Raises:
            Refused: If its name is in use, or its image has a mutable tag.
        """
        if any(known.name == snapshot.name for known in self.of(snapshot.organization or "")):
            raise Refused(409, f"Snapshot with name {snapshot.name!r} already exists for this organization")
        check_tag(snapshot.image_name)
        self._snapshots.append(snapshot)

    def remove(self, snapshot: Snapshot) -> None:
        """Remove a snapshot.

        Raises:
            Refused: If it is the service's own.
        """
        if snapshot.organization is None:
            raise Refused(403, "You cannot delete a general snapshot")
        self._snapshots.remove(snapshot)

    async def build(self, snapshot: Snapshot) -> None:
        """Build a snapshot's image and make it active."""
        snapshot.state = "active" if await self.built(snapshot.image) else "build_failed"

    async def built(self, image: Image) -> bool:
        """Build an image; return whether it succeeded. ``RUN`` and ``COPY`` are only logged: there is no container."""
        if image.finished.is_set():
            return image.error is None
        for number, step in enumerate(image.steps, 1):
            image.log.append(f"Step {number}/{len(image.steps)} : {step}\n")
            if any(text in step for text in self.fails):
                image.error = f"The command '{step}' returned a non-zero code: 1"
                break
            if step.split(" ", 1)[0].upper() in ("RUN", "COPY", "ADD"):
                image.log.append(" ---> left out: the emulator runs on this machine's own Python\n")
            await asyncio.sleep(0)
        image.log.append(f"{image.error or 'Successfully built'}\n")
        image.finished.set()
        return image.error is None


def check_tag(image_name: str) -> None:
    """Raise Refused if an image has a mutable tag or no tag."""
    name, _, tag = image_name.rpartition("/")[2].partition(":")
    if "@" not in name and (not tag or tag in _REFUSED_TAGS):
        raise Refused(400, f"Images with tag {tag or 'latest'!r} are not allowed")


def image_from_dockerfile(text: str) -> Image:
    """Return the image with the settings of a Dockerfile.

    Raises:
        Refused: If it does not begin with FROM.
    """
    steps = tuple(
        line.strip()
        for line in re.sub(r"\\\r?\n", " ", text).splitlines()
        if line.strip() and not line.lstrip().startswith("#")
    )
    if not any(step.upper().startswith("FROM ") for step in steps):
        raise Refused(400, "Invalid Dockerfile: no FROM instruction")
    image = Image(dockerfile=text, steps=steps)
    for step in steps:
        word, _, rest = step.partition(" ")
        if word.upper() == "ENV":
            image.env.update(_variables(rest))
        elif word.upper() == "WORKDIR":
            image.workdir = rest.strip().strip("/")
        elif word.upper() == "ENTRYPOINT":
            image.entrypoint = _command(rest)
    return image


def entrypoint_command(arguments: Any) -> str:
    """Return the shell command for an entrypoint that is a list of arguments."""
    return shlex.join(str(argument) for argument in arguments or ())


def _variables(text: str) -> dict[str, str]:
    words = shlex.split(text)
    if words and "=" not in words[0]:
        return {words[0]: " ".join(words[1:])}
    return dict(word.partition("=")[::2] for word in words if "=" in word)


def _command(text: str) -> str:
    try:
        arguments = json.loads(text)
    except ValueError:
        return text.strip()
    return entrypoint_command(arguments)
