"""Kernelspecs: the files that are written, invalid options, and the command line's messages."""

from __future__ import annotations

import importlib.metadata
import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from daytona_kernel_interp import DaytonaSandbox, LocalSandbox
from daytona_kernel_interp.cli import command_line as cli
from daytona_kernel_interp.jupyter.kernelspec import KERNELSPECS, InvalidOption, describe, install
from daytona_kernel_interp.jupyter.provisioner import SandboxProvisioner

if TYPE_CHECKING:
    from pathlib import Path


def test_options_are_the_sandboxes_own(tmp_path: Path) -> None:
    """Each option with a JSON form is an option of the sandbox; the kernelspec's ``env`` overrides the option."""
    found = describe({"sandbox": "daytona", "snapshot": "s", "keep": True, "resume_lifetime": 60}, env={"A": "1"})
    assert found == DaytonaSandbox(snapshot="s", keep=True, resume_lifetime=60, env_vars={"A": "1"})
    assert describe({"sandbox": "local"}, cwd=str(tmp_path)) == LocalSandbox(cwd=str(tmp_path))
    assert describe({"sandbox": "local", "cwd": "/x"}, cwd=str(tmp_path)) == LocalSandbox(cwd="/x")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({}, 'a kernel\'s option "sandbox" is "daytona" or "local", not null'),
        ({"sandbox": ["daytona"]}, 'not \\["daytona"\\]'),
        ({"sandbox": "local", "snapshot": "s"}, "has no option 'snapshot'; it has cwd, "),
        ({"sandbox": "daytona", "resolve": 1}, "resolve must be a function, not 1"),
        ({"sandbox": "daytona", "keep": 1}, "a kernel's options are invalid: keep must be True or False, not 1"),
        ({"sandbox": "daytona", "auto_stop_interval": True}, "auto_stop_interval must be a whole number, not True"),
        ({"sandbox": "daytona", "env_vars": {"A": 1}}, "env_vars must have texts as names and as values"),
        (
            {"sandbox": "daytona", "resources": {"cpu": 2}},
            "a kernel's options are invalid: resources come with the snapshot",
        ),
        ({"sandbox": "daytona", "resources": {"cpu": "2"}}, "cpu must be a whole number, not '2'"),
        # names that kernelspecs of version 0.1 may have
        ({"sandbox": "daytona", "cpu": 2}, "has no option 'cpu': pass resources="),
        ({"sandbox": "daytona", "auto_stop": 20}, "has no option 'auto_stop': pass auto_stop_interval=, in minutes"),
        ({"sandbox": "daytona", "env": {"A": "1"}}, "has no option 'env': pass env_vars="),
    ],
)
def test_what_no_kernel_has_is_one_sentence(options: dict[str, Any], says: str) -> None:
    """The error names the option, its type and the given value."""
    with pytest.raises(InvalidOption, match=says) as caught:
        describe(options)
    assert "\n" not in str(caught.value)


def test_what_installed_kernelspecs_name(tmp_path: Path) -> None:
    """The command of each version's kernelspecs prints one sentence; their provisioner is registered by its name."""
    written = install(KERNELSPECS[0], tmp_path) / "kernel.json"
    argv = json.loads(written.read_text())["argv"]
    assert argv == [sys.executable, "-m", "daytona_kernel_interp.provisioner", "{connection_file}"]
    ended = subprocess.run([*argv[:3], "connection.json"], capture_output=True, text=True, timeout=60, check=False)
    assert (ended.returncode, ended.stdout, ended.stderr.count("\n")) == (1, "", 1)
    assert ended.stderr.startswith("daytona-kernel: this kernel is started by a kernel provisioner of jupyter_client")
    (entry,) = importlib.metadata.entry_points(group="jupyter_client.kernel_provisioners", name="daytona-kernel")
    assert entry.load() is SandboxProvisioner


def test_install_and_uninstall(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Both kernels, or one with options, are installed and removed; other kernelspecs stay."""
    kernels = tmp_path / "share" / "jupyter" / "kernels"
    place = ["--prefix", str(tmp_path)]
    assert cli.main(["install", *place]) == 0
    assert "Python (Daytona)" in capsys.readouterr().out
    named = ["--sandbox", "daytona", "--name", "big"]
    assert cli.main(["install", *place, *named, "--display-name", "Big", "-o", "snapshot=s", "-o", "keep=true"]) == 0
    spec = json.loads((kernels / "big" / "kernel.json").read_text())
    assert (spec["display_name"], spec["metadata"]["kernel_provisioner"]) == (
        "Big",
        {"provisioner_name": "daytona-kernel", "config": {"sandbox": "daytona", "snapshot": "s", "keep": True}},
    )
    (kernels / "daytona" / "kernel.json").write_text("{}")
    assert cli.main(["uninstall", *place]) == 0
    assert cli.main(["uninstall", *place, *named]) == 0
    assert [path.name for path in kernels.iterdir()] == ["daytona"]
    capsys.readouterr()
    assert cli.main(["uninstall", *place]) == 0
    assert capsys.readouterr().err == f"No kernel of this package is in {kernels}.\n"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--name", "x"], "names and options apply to one kernel: select it with --sandbox daytona or local.\n"),
        (["--sandbox", "local", "-o", "keep"], "'keep' is not an option: give NAME=VALUE, such as keep=true.\n"),
        (["--sandbox", "local", "--name", "a b"], "'a b' is not a kernel name: "),
        (
            ["--sandbox", "local", "-o", "keep=true"],
            "LocalSandbox has no option 'keep'; it has ",
        ),
        (["--prefix", "/dev/null"], "cannot be written: Not a directory; try --user or --prefix.\n"),
    ],
)
def test_bad_input(arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Bad input means one sentence and exit code 2; nothing is written."""
    assert cli.main(["install", *arguments]) == 2
    error = capsys.readouterr().err
    assert says in error
    assert error.count("\n") == 1
