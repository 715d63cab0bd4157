"""The commands of ``daytona-kernel`` with their options, and :func:`main`.

A command names the function that carries it out as ``module.function``. The module is imported when the command runs,
so that ``--help`` answers at once.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import shtab

from .. import __version__
from ..errors import KernelError, RecordingError, SessionNotFound
from .terminal import BAD_INPUT, FAILED, INTERRUPTED, PROGRAM, CommandError, seconds, sentence, step_and_file, write

if TYPE_CHECKING:
    from collections.abc import Sequence

_SHELLS = ("bash", "zsh", "fish")


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(BAD_INPUT, f"{self.prog}: {message}\n")

    def add_path(self, *names: str, **options: Any) -> None:
        """Add an argument that names a file or a folder, which a shell can complete."""
        self.add_argument(*names, type=Path, **options).complete = shtab.FILE  # type: ignore[attr-defined]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command that ``argv`` names and return the exit code.

    0: success. 1: the command failed. 2: bad or missing input. 130: interrupted by Ctrl-C.
    """
    options = build_parser().parse_args(argv)
    if options.command is None:
        write(sys.stderr, options.parser.format_help())
        return BAD_INPUT
    os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # else litellm fetches its price list at import
    module, _, function = options.command.partition(".")
    try:
        return int(getattr(importlib.import_module(f".{module}", __package__), function)(options))
    except CommandError as error:
        code, text = error.exit_code, str(error)
    except (SessionNotFound, RecordingError) as error:
        code, text = BAD_INPUT, sentence(error)
    except KernelError as error:
        code, text = FAILED, str(error)
    except KeyboardInterrupt:
        return INTERRUPTED
    write(sys.stderr, f"{PROGRAM}: {text}\n")
    return code


def print_completion(options: argparse.Namespace) -> int:
    """Print the script that completes commands in a shell. It is static: completion does not start Python."""
    write(sys.stdout, shtab.complete(build_parser(), options.shell))
    return 0


def build_parser() -> argparse.ArgumentParser:
    """Return the parser with all commands."""
    parser = _Parser(prog=PROGRAM, description="Python cells in a real IPython kernel, inside a sandbox.")
    parser.add_argument("--version", action="version", version=f"{PROGRAM} {__version__}")
    commands = _Commands(parser)
    _add_code_commands(commands)
    _add_session_commands(commands)
    _add_recording_commands(commands)
    _add_daytona_commands(commands)
    _add_kernel_commands(commands)
    completion = commands.add(
        "completion", "command_line.print_completion", "print a script that completes commands in a shell"
    )
    completion.add_argument("shell", choices=_SHELLS, metavar="SHELL", help=f"one of {', '.join(_SHELLS)}")
    return parser


class _Commands:
    """The commands of a parser, which prints its help where none is given."""

    def __init__(self, parser: _Parser) -> None:
        parser.set_defaults(command=None, parser=parser)
        self._parsers = parser.add_subparsers(metavar="COMMAND")

    def add(self, name: str, function: str, help: str) -> _Parser:
        """Add the command that ``function`` carries out, and return its parser."""
        parser = self._parsers.add_parser(name, help=help)
        parser.set_defaults(command=function)
        return parser


def _add_sandbox_option(parser: _Parser) -> None:
    parser.add_argument(
        "--sandbox",
        choices=("local", "daytona"),
        help="where the kernel runs (else DAYTONA_KERNEL_SANDBOX decides); local: on this machine, without isolation",
    )


def _add_code_commands(commands: _Commands) -> None:
    demo = commands.add("demo", "run_commands.run_demo", "watch an RLM work on a long text; needs no key")
    demo.add_argument(
        "--model", nargs="?", const="", metavar="NAME", help="ask this model, not a script; the key is read from .env"
    )
    demo.add_path("--file", metavar="PATH", help="the text to work on (with --model)")
    demo.add_path("--record", metavar="PATH", help="record the session in this notebook")
    demo.add_path("--output", default=Path("demo-output"), metavar="FOLDER", help="where figures go (%(default)s)")
    demo.add_argument("--question", metavar="TEXT", help="what to ask about it (with --model)")

    run = commands.add("run", "run_commands.run_script", "run a script in a fresh kernel")
    execute = commands.add("exec", "run_commands.run_code", "run code in a kernel and show its last expression")
    for parser in (run, execute):
        _add_sandbox_option(parser)
        parser.add_argument("--timeout", type=seconds, metavar="SECONDS", help="interrupt the code after this time")
    run.add_path("script", metavar="SCRIPT.py")
    run.add_argument("arguments", nargs=argparse.REMAINDER, metavar="...", help="what the script finds in sys.argv")
    execute.add_argument(
        "--session",
        nargs="?",
        const="",
        metavar="ID",
        help="the kernel of a running session, else a fresh one; without ID: the only session on this machine",
    )
    execute.add_argument("code", nargs="?", metavar="CODE", help="the code; - reads it from standard input")


def _add_session_commands(commands: _Commands) -> None:
    commands.add(
        "ls",
        "session_commands.list_all",
        "list the sessions on this machine and, with a key, sandboxes at Daytona",
    )
    inspect = commands.add(
        "inspect", "session_commands.inspect", "show the variables of a running session and its running cell"
    )
    inspect.add_argument("session", nargs="?", metavar="SESSION", help="see ls; else the newest")
    inspect.add_argument("name", nargs="?", metavar="NAME", help="show this variable alone, by its own repr")
    inspect.add_argument("--private", action="store_true", help="also show names that begin with an underscore")
    console = commands.add("console", "console.open_console", "open a prompt in a running session, whose host keeps it")
    console.add_argument("session", nargs="?", metavar="SESSION", help="see ls; else the only one with a host")
    attach = commands.add("attach", "console.attach", "take over a session whose host is gone, and open a prompt in it")
    attach.add_argument("session", nargs="?", metavar="SESSION", help="see ls; else the only one without a host")


def _add_recording_commands(commands: _Commands) -> None:
    replay = commands.add("replay", "recording_commands.replay", "run a recorded session again and report what differs")
    replay.add_path("run", metavar="RUN.ipynb")
    _add_sandbox_option(replay)
    replay.add_argument("--until", type=int, metavar="N", help="stop before step N (from 0)")
    replay.add_argument(
        "--edit",
        action="append",
        default=[],
        type=step_and_file,
        metavar="N=FILE",
        help="run the code in FILE as step N",
    )
    replay.add_argument("--run-died", action="store_true", help="also run a step whose kernel died")
    replay.add_argument("--plain", action="store_true", help="the notebook is not a recording: run its code cells")
    replay.add_argument(
        "--tolerant", action="store_true", help="ignore times, addresses, temporary paths, ids, and close floats"
    )
    replay.add_argument("--floats", type=float, metavar="REL", help="with --tolerant: relative difference (1e-6)")
    replay.add_argument(
        "--figures", choices=("exact", "pixels", "size"), help="with --tolerant: how figures are compared (size)"
    )

    compare = commands.add("diff", "recording_commands.compare", "show where two recorded sessions differ")
    compare.add_path("a", metavar="A.ipynb")
    compare.add_path("b", metavar="B.ipynb")
    compare.add_argument("--tolerant", action="store_true", help="as for replay")

    export = commands.add(
        "export", "recording_commands.export", "write a recorded session as an HTML page or as lines of JSON"
    )
    export.add_path("notebook", metavar="RUN.ipynb", help="a recording, written by KernelInterpreter(record=...)")
    export.add_path("-o", "--output", metavar="PATH", help="output file (else beside the notebook)")
    kind = export.add_mutually_exclusive_group(required=True)
    kind.add_argument("--html", action="store_const", const=".html", dest="kind", help="one self-contained page")
    kind.add_argument(
        "--jsonl", action="store_const", const=".jsonl", dest="kind", help="the lines that the visualizer of rlm reads"
    )


def _add_daytona_commands(commands: _Commands) -> None:
    doctor = commands.add("doctor", "doctor.run", "check each step from the key to a cell in a sandbox at Daytona")
    doctor.add_argument("--snapshot", metavar="NAME", help="start from this snapshot")

    collect = commands.add(
        "gc", "session_commands.collect_garbage", "delete sandboxes at Daytona whose process is gone; asks first"
    )
    collect.add_argument(
        "--older-than", type=seconds, default=1.0, metavar="HOURS", help="also those idle for longer (%(default)g)"
    )
    collect.add_argument("--all-owners", action="store_true", help="also those of other machines and users")
    collect.add_argument("--kept", action="store_true", help="also those created with keep=True")
    collect.add_argument("--yes", action="store_true", help="do not ask")

    image = _Commands(commands.add("image", "", "the sandbox's image: a snapshot of it at Daytona, or its build files"))
    build = image.add("build", "session_commands.build_image", "make a snapshot of the image at Daytona; takes minutes")
    build.add_argument("--name", metavar="NAME", help="name of the snapshot (else one made of version and contents)")
    for what, unit in (("cpu", "cores"), ("memory", "GiB"), ("disk", "GiB")):
        build.add_argument(f"--{what}", type=int, metavar="N", help=f"{unit} of each sandbox (else Daytona's default)")
    build.add_argument("--region", metavar="NAME", help="region of the snapshot (else the organization's default)")
    files = image.add(
        "files", "session_commands.write_image", "write the files that `docker build` needs into a folder"
    )
    files.add_path("folder", metavar="FOLDER")
    for parser in (build, files):
        parser.add_argument("--package", action="append", default=[], metavar="NAME", help="also install this package")
        parser.add_argument("--no-data", action="store_true", help="leave out the data-science packages")


def _add_kernel_commands(commands: _Commands) -> None:
    install = commands.add(
        "install",
        "kernel_commands.install",
        "add Python (Daytona) and Python (local sandbox) to Jupyter's list of kernels",
    )
    uninstall = commands.add("uninstall", "kernel_commands.uninstall", "remove these kernels from Jupyter's list")
    for parser in (install, uninstall):
        where = parser.add_mutually_exclusive_group()
        where.add_argument("--user", action="store_true", help="for this user, in all environments")
        where.add_argument("--sys-prefix", action="store_true", help="for this Python's environment (the default)")
        where.add_argument("--prefix", metavar="FOLDER", help="below FOLDER/share/jupyter")
        parser.add_argument("--sandbox", choices=("daytona", "local"), help="only the kernel of this sandbox")
        parser.add_argument("--name", metavar="NAME", help="the kernel's name in programs (with --sandbox)")
    install.add_argument("--display-name", metavar="TEXT", help="the name that the list shows (with --sandbox)")
    install.add_argument(
        *("-o", "--option"),
        dest="options",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="an option of the sandbox, such as snapshot=mine or keep=true; may be repeated (with --sandbox)",
    )
    uninstall.set_defaults(display_name=None, options=[])
