"""What the command line prints and returns where no kernel and no sandbox is needed."""

from __future__ import annotations

import contextlib
import io
import os
import re
from typing import TYPE_CHECKING
from unittest import mock

from daytona_kernel_interp.cli import main

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PROGRAM = "daytona-kernel"
WIDTH = "400"  # no line is wrapped: where argparse breaks usage lines depends on the Python version

BAD_INPUT: tuple[list[str], ...] = (
    [],
    ["nonsense"],
    ["--nonsense"],
    ["exec"],
    ["exec", "-"],
    ["exec", "--session"],
    ["exec", "--session", "x"],
    ["exec", "--timeout", "soon", "1"],
    ["exec", "--timeout", "0", "1"],
    ["exec", "--sandbox", "nowhere", "1"],
    ["exec", "1"],
    ["exec", "--session", "nothing", "1"],
    ["exec", "--session", "0badcafe", "--sandbox", "local", "1"],
    ["run"],
    ["run", "missing.py"],
    ["run", "."],
    ["demo", "--file", "missing.txt"],
    ["demo", "--question", "why"],
    ["demo", "--model", "--file", "missing.txt"],
    ["ls"],
    ["gc"],
    ["gc", "--older-than", "long"],
    ["attach"],
    ["attach", "nothing"],
    ["console"],
    ["console", "nothing"],
    ["inspect"],
    ["inspect", "nothing"],
    ["inspect", "0badcafe"],
    ["doctor"],
    ["replay"],
    ["replay", "missing.ipynb"],
    ["replay", "missing.ipynb", "--floats", "1"],
    ["replay", "missing.ipynb", "--tolerant", "--floats", "-1"],
    ["replay", "missing.ipynb", "--edit", "0"],
    ["replay", "missing.ipynb", "--edit", "0=missing.py"],
    ["replay", "text.ipynb"],
    ["diff", "missing.ipynb"],
    ["diff", "missing.ipynb", "missing.ipynb"],
    ["diff", "text.ipynb", "text.ipynb"],
    ["image"],
    ["image", "build"],
    ["image", "build", "--package", "-x"],
    ["image", "files", "text.ipynb"],
    ["image", "files", "new", "--package", "two words"],
    ["export"],
    ["export", "missing.ipynb"],
    ["export", "--html", "missing.ipynb"],
    ["export", "--jsonl", "text.ipynb"],
    ["export", "--html", "text.ipynb", "-o", "text.ipynb"],
    ["install", "--name", "x"],
    ["install", "--sandbox", "local", "-o", "keep"],
    ["install", "--sandbox", "local", "--name", "a b"],
    ["install", "--sandbox", "local", "-o", "keep=true"],
    ["install", "--prefix", "/dev/null"],
    ["uninstall", "--prefix", "nowhere"],
    ["completion"],
    ["completion", "powershell"],
)


def help_texts(folder: Path) -> str:
    """Return ``--help`` of the program and of each command."""
    return "".join(_helps([], folder))


def bad_input(folder: Path) -> str:
    """Return exit code and output for arguments that cannot be used."""
    texts = []
    for arguments in BAD_INPUT:
        code, out, err = _run(arguments, folder)
        texts.append(
            f"$ {' '.join([PROGRAM, *arguments])}\n{_marked('out', out)}{_marked('err', _joined(err))}exit {code}\n\n"
        )
    return "".join(texts)


def _helps(command: list[str], folder: Path) -> Iterator[str]:
    code, out, err = _run([*command, "--help"], folder)
    assert (code, err) == (0, "")
    yield f"$ {' '.join([PROGRAM, *command])} --help\n{_joined(out)}\n"
    listed = re.search(r"^  COMMAND\n((?: {4}.*\n)+)", out, re.MULTILINE)
    for name in re.findall(r"^ {4}(\S+)", listed[1], re.MULTILINE) if listed else ():
        yield from _helps([*command, name], folder)


def _joined(text: str) -> str:
    """Return a help text without the column where help starts and repeated metavars: Python's versions differ there."""
    joined = re.sub(r"(?<=\S)(\n {8,}| {3,})(?=\S)", "  ", text)
    return re.sub(r"^(  -\w) [^,\n]+, --", r"\1, --", joined, flags=re.MULTILINE)


def _run(arguments: list[str], folder: Path) -> tuple[object, str, str]:
    """Run a command in ``folder``, without keys and without any session, and return exit code and output."""
    (folder / "text.ipynb").write_text("no JSON", encoding="utf-8")
    out, err = io.StringIO(), io.StringIO()
    own = {"COLUMNS": WIDTH, "JUPYTER_RUNTIME_DIR": str(folder / "runtime")}
    with (
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        _working_in(folder),
        mock.patch.dict("os.environ", own),
        mock.patch("sys.stdin", io.StringIO()),
    ):
        try:
            code: object = main(arguments)
        except SystemExit as end:  # argparse's way
            code = end.code
    return code, _masked(out.getvalue(), folder), _masked(err.getvalue(), folder)


def _masked(text: str, folder: Path) -> str:
    """Return ``text`` without what depends on the machine, on Python's version or on the package's contents."""
    text = re.sub(r"\(choose from [^)]*\)", lambda found: found[0].replace("'", ""), text)
    text = re.sub(r"(daytona-kernel-[\d.]+)-[0-9a-f]{8}\b", r"\1-CONTENTS", text)
    return text.replace(str(folder), "FOLDER")


@contextlib.contextmanager
def _working_in(folder: Path) -> Iterator[None]:
    before = os.getcwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def _marked(stream: str, text: str) -> str:
    return "".join(f"{stream}: {line}\n" for line in text.splitlines())
