"""The parser: each command has its function, and the completion scripts complete commands, options and files."""

from __future__ import annotations

import argparse
import importlib
import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest

from daytona_kernel_interp.cli import command_line, main

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def functions(parser: argparse.ArgumentParser) -> Iterator[str]:
    """Yield the functions of all commands below ``parser``."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                if (name := command.get_default("command")) is not None:
                    yield name
                yield from functions(command)


def test_every_command_has_its_function() -> None:
    """The names in the parser are those of functions in the modules of the package."""
    names = list(functions(command_line.build_parser()))
    assert len(names) == 17
    for name in names:
        module, _, function = name.partition(".")
        assert callable(getattr(importlib.import_module(f"daytona_kernel_interp.cli.{module}"), function)), name


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_names_every_command_and_the_shell_accepts_it(
    shell: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The script comes from the parser; where the shell is installed, it parses the script without an error."""
    assert main(["completion", shell]) == 0
    script = capsys.readouterr().out
    for word in ("exec", "console", "attach", "doctor", "uninstall", "older-than"):
        assert word in script
    if shutil.which(shell) is not None:
        file = tmp_path / "script"
        file.write_text(script)
        subprocess.run([shell, "-n", str(file)], check=True, timeout=30)


@pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed")
@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["daytona-kernel", "ex"], {"exec", "export"}),
        (["daytona-kernel", "image", ""], {"build", "files"}),
        (["daytona-kernel", "gc", "--ol"], {"--older-than"}),
        (["daytona-kernel", "run", "--sandbox", ""], {"local", "daytona"}),
        (["daytona-kernel", "diff", "run"], {"run.ipynb"}),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bash_completes(
    words: list[str], expected: set[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """bash proposes commands, their commands, options, choices and files."""
    assert main(["completion", "bash"]) == 0
    (tmp_path / "run.ipynb").touch()
    typed = " ".join(f"'{word}'" for word in words)
    ask = f"""
    COMP_WORDS=({typed}); COMP_CWORD={len(words) - 1}
    "$(complete -p daytona-kernel | sed 's/.*-F \\([^ ]*\\) .*/\\1/')" daytona-kernel '{words[-1]}' '{words[-2]}'
    printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    bash = ["bash", "--norc", "-c", capsys.readouterr().out + ask]
    found = subprocess.run(bash, cwd=tmp_path, capture_output=True, text=True, check=True, timeout=30)
    assert {line.strip() for line in found.stdout.splitlines()} == expected


def test_an_unknown_shell_is_bad_input(capsys: pytest.CaptureFixture[str]) -> None:
    """It is refused with the shells that there are."""
    with pytest.raises(SystemExit) as end:
        main(["completion", "powershell"])
    assert end.value.code == 2
    assert "fish" in capsys.readouterr().err
