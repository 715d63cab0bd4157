"""``daytona-kernel replay`` and ``daytona-kernel diff``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from ..errors import KernelError, RecordingError, SandboxFailed

FAILED, BAD_INPUT = 1, 2


def add_commands(commands: Any) -> None:
    """Add both commands to the parser of the command line."""
    replay = commands.add_parser("replay", help="run a recorded session again and tell what came out otherwise")
    _add_replay_options(replay)
    replay.set_defaults(command=_replay)

    compare = commands.add_parser("diff", help="show where two recorded sessions part")
    compare.add_argument("a", type=Path, metavar="A.ipynb")
    compare.add_argument("b", type=Path, metavar="B.ipynb")
    compare.add_argument("--tolerant", action="store_true", help="as for replay")
    compare.set_defaults(command=_diff)


def _add_replay_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", type=Path, metavar="RUN.ipynb")
    parser.add_argument(
        "--sandbox",
        choices=("local", "daytona"),
        help="where its code runs (else DAYTONA_KERNEL_SANDBOX decides); local: on this machine, without isolation",
    )
    parser.add_argument("--until", type=int, metavar="N", help="stop before step N (from 0)")
    parser.add_argument(
        "--edit", action="append", default=[], type=_parse_edit, metavar="N=FILE", help="run the code in FILE as step N"
    )
    parser.add_argument("--run-died", action="store_true", help="also run a step that cost its kernel")
    parser.add_argument("--plain", action="store_true", help="a notebook that is no recording: run its code cells")
    parser.add_argument(
        "--tolerant", action="store_true", help="times, addresses, temporary paths, ids, close floats may differ"
    )
    parser.add_argument("--floats", type=float, metavar="REL", help="with --tolerant: how close floats are (1e-6)")
    parser.add_argument(
        "--figures", choices=("exact", "pixels", "size"), help="with --tolerant: what counts of a figure (size)"
    )


def _parse_edit(text: str) -> tuple[int, Path]:
    number, equals, path = text.partition("=")
    if not (equals and number.isdecimal() and path):
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form N=FILE")
    return int(number), Path(path)


def _replay(options: argparse.Namespace) -> int:
    from ..interpreter.interpreter import CodeInterpreterError
    from ..playback.compare import Tolerance
    from ..playback.replay import replay

    given = {name: getattr(options, name) for name in ("floats", "figures") if getattr(options, name) is not None}
    if given and not options.tolerant:
        return _fail(f"--{next(iter(given))} says how tolerant --tolerant is: give that too.", BAD_INPUT)
    try:
        report = replay(
            options.run,
            sandbox=options.sandbox,
            until=options.until,
            edits={step: path.read_text(encoding="utf-8") for step, path in options.edit},
            tolerance=Tolerance(**given) if options.tolerant else None,
            run_died=options.run_died,
            plain=options.plain,
        )
    except (RecordingError, SandboxFailed, ValueError) as error:
        return _fail(f"{str(error).rstrip('.')}.", BAD_INPUT)
    except OSError as error:
        return _fail(f"{error.filename} cannot be read: {error.strerror}.", BAD_INPUT)
    except (KernelError, CodeInterpreterError) as error:
        return _fail(str(error), FAILED)
    with report:
        print(report)
    return 0 if report.ok else FAILED


def _diff(options: argparse.Namespace) -> int:
    from ..playback.diff import diff

    try:
        found = diff(options.a, options.b, tolerance=options.tolerant)
        print(found)
    except RecordingError as error:
        return _fail(str(error), BAD_INPUT)
    return 0 if found.same else FAILED


def _fail(sentence: str, code: int) -> int:
    print(f"daytona-kernel: {sentence}", file=sys.stderr)
    return code
