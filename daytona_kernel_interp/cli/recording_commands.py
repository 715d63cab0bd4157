"""``daytona-kernel replay``, ``diff`` and ``export``: recorded sessions."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import KernelError, RecordingError, SandboxFailed
from .terminal import (
    FAILED,
    PROGRAM,
    CommandError,
    add_sandbox_option,
    complete_files,
    require_sandbox,
    sentence,
    write,
)

if TYPE_CHECKING:
    from .terminal import Commands


def add_commands(commands: Commands) -> None:
    """Add ``replay``, ``diff`` and ``export``."""
    replay = commands.add_parser("replay", help="run a recorded session again and report what differs")
    _add_replay_options(replay)
    replay.set_defaults(command=_replay)

    compare = commands.add_parser("diff", help="show where two recorded sessions differ")
    complete_files(
        compare.add_argument("a", type=Path, metavar="A.ipynb"), compare.add_argument("b", type=Path, metavar="B.ipynb")
    )
    compare.add_argument("--tolerant", action="store_true", help="as for replay")
    compare.set_defaults(command=_diff)

    export = commands.add_parser("export", help="write a recorded session as an HTML page or as lines of JSON")
    complete_files(
        export.add_argument(
            "notebook", type=Path, metavar="RUN.ipynb", help="a recording, written by KernelInterpreter(record=...)"
        ),
        export.add_argument("-o", "--output", type=Path, metavar="PATH", help="output file (else beside the notebook)"),
    )
    kind = export.add_mutually_exclusive_group(required=True)
    kind.add_argument("--html", action="store_const", const=".html", dest="kind", help="one self-contained page")
    kind.add_argument(
        "--jsonl", action="store_const", const=".jsonl", dest="kind", help="the lines that the visualizer of rlm reads"
    )
    export.set_defaults(command=_export)


def _add_replay_options(parser: argparse.ArgumentParser) -> None:
    complete_files(parser.add_argument("run", type=Path, metavar="RUN.ipynb"))
    add_sandbox_option(parser)
    parser.add_argument("--until", type=int, metavar="N", help="stop before step N (from 0)")
    parser.add_argument(
        "--edit", action="append", default=[], type=_parse_edit, metavar="N=FILE", help="run the code in FILE as step N"
    )
    parser.add_argument("--run-died", action="store_true", help="also run a step whose kernel died")
    parser.add_argument("--plain", action="store_true", help="the notebook is not a recording: run its code cells")
    parser.add_argument(
        "--tolerant", action="store_true", help="ignore times, addresses, temporary paths, ids, and close floats"
    )
    parser.add_argument("--floats", type=float, metavar="REL", help="with --tolerant: relative difference (1e-6)")
    parser.add_argument(
        "--figures", choices=("exact", "pixels", "size"), help="with --tolerant: how figures are compared (size)"
    )


def _parse_edit(text: str) -> tuple[int, Path]:
    """Parse ``N=FILE``."""
    number, equals, path = text.partition("=")
    if not (equals and number.isdecimal() and path):
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form N=FILE")
    return int(number), Path(path)


def _replay(options: argparse.Namespace) -> int:
    from ..interpreter.interpreter import CodeInterpreterError
    from ..playback.compare import Tolerance
    from ..playback.replay import replay

    limits = {name: getattr(options, name) for name in ("floats", "figures") if getattr(options, name) is not None}
    if limits and not options.tolerant:
        raise CommandError(f"--{next(iter(limits))} is an option of --tolerant: give both.")
    try:
        tolerance = Tolerance(**limits) if options.tolerant else None
        edits = {step: path.read_text(encoding="utf-8") for step, path in options.edit}
        report = replay(
            options.run,
            sandbox=options.sandbox,
            until=options.until,
            edits=edits,
            tolerance=tolerance,
            run_died=options.run_died,
            plain=options.plain,
        )
    except SandboxFailed as error:
        require_sandbox(options.sandbox)  # the same refusal in the command line's words
        raise CommandError(sentence(error)) from error
    except (RecordingError, ValueError) as error:
        raise CommandError(sentence(error)) from error
    except OSError as error:
        raise CommandError(f"{error.filename} cannot be read: {error.strerror}.") from error
    except (KernelError, CodeInterpreterError) as error:
        raise CommandError(str(error), FAILED) from error
    with report:
        print(report)
    return 0 if report.ok else FAILED


def _diff(options: argparse.Namespace) -> int:
    from ..playback.diff import diff

    try:
        found = diff(options.a, options.b, tolerance=options.tolerant)
    except RecordingError as error:
        raise CommandError(str(error)) from error
    print(found)
    return 0 if found.same else FAILED


def _export(options: argparse.Namespace) -> int:
    from ..recording.recording import Recording

    notebook: Path = options.notebook
    target: Path = options.output or notebook.with_suffix(options.kind)
    if target.exists() and notebook.exists() and target.samefile(notebook):
        raise CommandError(f"{target} is the recording itself: name another file with -o.")
    try:
        recording = Recording.load(notebook)
        if options.kind == ".html":
            recording.to_html(target, title=notebook.name)
        else:
            recording.to_jsonl(target)
    except (RecordingError, ImportError) as error:
        raise CommandError(str(error)) from error
    except OSError as error:
        raise CommandError(f"{target} cannot be written: {error.strerror}.") from error
    for problem in recording.problems:
        write(sys.stderr, f"{PROGRAM}: {problem}\n")
    write(sys.stdout, f"{target}\n")
    return 0
