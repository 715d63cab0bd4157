"""Kernelspecs: the files by which Jupyter programs find the package's kernels, and the sandbox options in them."""

from __future__ import annotations

import json
import os
import shutil
import sys
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..sandboxes.daytona import REPLACED_OPTIONS, DaytonaSandbox
from ..sandboxes.local import LocalSandbox
from ..sandboxes.option_checks import unknown_option

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ..sandboxes.base import Sandbox

PROVISIONER = "daytona-kernel"  # name of the provisioner's entry point
_SANDBOXES: dict[str, type[DaytonaSandbox] | type[LocalSandbox]] = {"daytona": DaytonaSandbox, "local": LocalSandbox}
_SANDBOX_PHRASES = {"daytona": "a sandbox at Daytona", "local": "the local sandbox"}
_NOT_IN_FILES = ("resolve", "params")  # JSON cannot express them


def _is_texts(value: Any) -> bool:
    return isinstance(value, dict) and all(type(text) is str for text in value.values())


def _is_whole_numbers(value: Any) -> bool:
    return isinstance(value, dict) and all(type(number) is int for number in value.values())


# What a field's annotation takes, in words and as a check.
_KINDS: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "str": ("a text", lambda value: type(value) is str),
    "str | os.PathLike[str]": ("a text", lambda value: type(value) is str),
    "KernelImage | Image | str": ("a text", lambda value: type(value) is str),
    "int": ("a whole number", lambda value: type(value) is int),
    "float": ("a number", lambda value: type(value) in (int, float)),
    "bool": ("true or false", lambda value: type(value) is bool),
    "Mapping[str, str]": ("names with a text each", _is_texts),
    "Mapping[str, str] | Sequence[VolumeMount]": ("names with a text each", _is_texts),
    "Mapping[str, int] | Resources": ("names with a whole number each", _is_whole_numbers),
}


class InvalidOption(ValueError):
    """An unknown option of a kernel, or an invalid value; the message is one sentence."""


def describe(options: Mapping[str, Any], *, env: Mapping[str, str] | None = None, cwd: str | None = None) -> Sandbox:
    """Return the sandbox that a kernelspec's options describe.

    Args:
        options: The options in the kernelspec; ``sandbox`` names the kind.
        env: The kernelspec's environment variables. They override those in the options.
        cwd: The notebook's folder, where a local sandbox works unless its options name another folder.

    Raises:
        InvalidOption: If an option is unknown or a value is invalid.
    """
    given = dict(options)
    where = given.pop("sandbox", None)
    if not isinstance(where, str) or where not in _SANDBOXES:
        raise InvalidOption(
            f'a kernel\'s option "sandbox" is "daytona" or "local", not {json.dumps(where, default=repr)}'
        )
    made = _SANDBOXES[where]
    takes = {each.name: str(each.type) for each in fields(made) if each.name not in _NOT_IN_FILES}
    for name, value in given.items():
        if name not in takes:
            hints = REPLACED_OPTIONS if where == "daytona" else {}
            raise InvalidOption(unknown_option(f"a kernel in {_SANDBOX_PHRASES[where]} has", name, list(takes), hints))
        words, fits = _KINDS[takes[name].removesuffix(" | None")]
        if not (fits(value) or (value is None and takes[name].endswith(" | None"))):
            raise InvalidOption(f"a kernel's option {name!r} is {words}, not {json.dumps(value, default=repr)}")
    if env:
        variables = "env" if where == "local" else "env_vars"
        given[variables] = {**given.get(variables, {}), **env}
    if where == "local" and cwd is not None:
        given.setdefault("cwd", os.fspath(cwd))
    try:
        return made(**given)
    except (TypeError, ValueError) as error:
        raise InvalidOption(f"a kernel's options do not fit: {error}") from error


@dataclass(frozen=True)
class Kernelspec:
    """One entry in Jupyter's list of kernels."""

    name: str
    display_name: str
    options: Mapping[str, Any] = field(repr=False)

    def as_json(self) -> dict[str, Any]:
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
