"""Kernelspecs: the files by which Jupyter programs find the package's kernels, and the sandbox options in them."""

from __future__ import annotations

import json
import os
import shutil
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..sandboxes.daytona import DaytonaSandbox
from ..sandboxes.local import LocalSandbox

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ..sandboxes.base import Sandbox

PROVISIONER = "daytona-kernel"  # name of the provisioner's entry point
_SANDBOXES: dict[str, type[DaytonaSandbox] | type[LocalSandbox]] = {"daytona": DaytonaSandbox, "local": LocalSandbox}


class InvalidOption(ValueError):
    """An unknown option of a kernel, or an invalid value; the message is one sentence."""


def describe(options: Mapping[str, object], *, env: Mapping[str, str] | None = None, cwd: str | None = None) -> Sandbox:
    """Return the sandbox that a kernelspec's options describe.

    Args:
        options: The options in the kernelspec; ``sandbox`` names the kind.
        env: The kernelspec's environment variables. They override those in the options.
        cwd: The notebook's folder, where a local sandbox works unless its options name another folder.

    Raises:
        InvalidOption: If an option is unknown or a value is invalid.
    """
    given: dict[str, Any] = dict(options)  # the description checks the types
    where = given.pop("sandbox", None)
    if not isinstance(where, str) or where not in _SANDBOXES:
        raise InvalidOption(
            f'a kernel\'s option "sandbox" is "daytona" or "local", not {json.dumps(where, default=repr)}'
        )
    try:
        if env:
            variables = "env" if where == "local" else "env_vars"
            given[variables] = {**given.get(variables, {}), **env}
        if where == "local" and cwd is not None:
            given.setdefault("cwd", os.fspath(cwd))
        return _SANDBOXES[where](**given)
    except (TypeError, ValueError) as error:  # each description checks its own options
        raise InvalidOption(f"a kernel's options are invalid: {error}") from error


@dataclass(frozen=True)
class Kernelspec:
    """One entry in Jupyter's list of kernels."""

    name: str
    display_name: str
    options: Mapping[str, object] = field(repr=False)

    def as_json(self) -> dict[str, object]:
        """Return the contents of ``kernel.json``.

        Only programs that know no provisioners run ``argv``; it prints a sentence that says so.
        """
        return {
            "argv": [sys.executable, "-m", "daytona_kernel_interp.provisioner", "{connection_file}"],
            "display_name": self.display_name,
            "language": "python",
            "interrupt_mode": "signal",  # sent by the relay: it also reaches a kernel that reads no messages
            "metadata": {
                "kernel_provisioner": {"provisioner_name": PROVISIONER, "config": dict(self.options)},
            },
        }


KERNELSPECS = (
    Kernelspec("daytona", "Python (Daytona)", {"sandbox": "daytona"}),
    Kernelspec("local-sandbox", "Python (local sandbox)", {"sandbox": "local"}),
)


def folder(*, user: bool, prefix: str | None) -> Path:
    """Return the folder of kernelspecs: the user's, one below ``prefix``, or that of this Python's environment.

    The last is the best place: only programs of an environment that has this package can start its kernels.
    """
    if user:
        from jupyter_core.paths import jupyter_data_dir

        return Path(jupyter_data_dir()) / "kernels"
    return Path(prefix or sys.prefix) / "share" / "jupyter" / "kernels"


def install(spec: Kernelspec, into: Path) -> Path:
    """Write a kernelspec, replacing one of the same name, and return its folder.

    Raises:
        InvalidOption: If its options do not describe a sandbox.
        OSError: If it cannot be written.
    """
    describe(spec.options)
    target = into / spec.name
    target.mkdir(parents=True, exist_ok=True)
    (target / "kernel.json").write_text(json.dumps(spec.as_json(), indent=1) + "\n", encoding="utf-8")
    return target


def uninstall(name: str, from_: Path) -> bool:
    """Delete a kernelspec that names this package's provisioner, and return whether there was one."""
    target = from_ / name
    try:
        spec = json.loads((target / "kernel.json").read_text(encoding="utf-8"))
        if spec["metadata"]["kernel_provisioner"]["provisioner_name"] != PROVISIONER:
            return False
    except (OSError, ValueError, KeyError, TypeError):
        return False
    shutil.rmtree(target)
    return True
