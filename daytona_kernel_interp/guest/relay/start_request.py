"""The start request: what a relay needs to know before it serves.

It is one JSON object on one line. Each way to start a relay delivers this line, or builds the same object:

``python -m daytona_kernel_interp.guest.relay``
    reads it from standard input (``LocalSandbox``, and relays that are uploaded to Daytona).
``python -m daytona_kernel_interp.guest.relay.entrypoint``
    builds it from environment variables if they have a token (a container), and otherwise reads it from a Unix socket
    (the image's relay in a Daytona sandbox, which has to be warm before its host exists).
"""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

LOOPBACK = "127.0.0.1"
MIN_SECRET_CHARS = 16  # on an address that other machines reach, where the secret alone protects the kernels


@dataclass(frozen=True)
class StartRequest:
    """What a relay serves, and for how long.

    Attributes:
        secret: Every connection to the relay must present it.
        port: The port to listen on; 0: a free one.
        folder: The folder for journals, connection files and kernel states.
        cwd: The kernels' working folder.
        lifetime_s: Seconds without a host after which the relay ends, and its kernels with it.
        remove: Whether the relay deletes ``folder`` when it ends.
        host: The address to listen on.
        environment: Variables for kernels in whose environment they are not set.
    """

    secret: str = field(repr=False)
    port: int
    folder: Path
    cwd: Path
    lifetime_s: float
    remove: bool = False
    host: str = LOOPBACK
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        if not self.secret:
            raise ValueError("a relay needs a token, and this one is empty")
        if not _is_loopback(self.host) and len(self.secret) < MIN_SECRET_CHARS:
            raise ValueError(
                f"a relay that listens on {self.host} needs a token of {MIN_SECRET_CHARS} characters or more, "
                f"and this one has {len(self.secret)}"
            )


def parse_start_request(line: bytes | str, **fixed: object) -> StartRequest:
    """Return the start request in a line of JSON; ``fixed`` has the fields that the relay decides itself.

    Raises:
        ValueError: If the line is not a start request; the text names the field.
    """
    value = json.loads(line)
    if not isinstance(value, dict):
        raise ValueError("a start request is a JSON object")
    fields: dict[str, object] = {"remove": False, "host": LOOPBACK, "environment": {}, **value, **fixed}
    environment = fields["environment"]
    if not isinstance(environment, Mapping):
        raise ValueError("environment in a start request is an object of names and texts")
    try:
        return StartRequest(
            secret=str(fields["secret"]),
            port=int(str(fields["port"])),
            folder=Path(str(fields["folder"])),
            cwd=Path(str(fields["cwd"])),
            lifetime_s=float(str(fields["lifetime_s"])),
            remove=bool(fields["remove"]),
            host=str(fields["host"]),
            environment={str(name): str(text) for name, text in environment.items()},
        )
    except KeyError as error:
        raise ValueError(f"a start request without {error}") from None


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
