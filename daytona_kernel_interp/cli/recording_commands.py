"""``daytona-kernel replay``, ``diff`` and ``export``: recorded sessions."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from ..errors import SandboxFailed
from ..interpreter.interpreter import CodeInterpreterError
from ..playback.compare import Tolerance
from ..playback.diff import diff
from ..playback.replay import replay as replay_recording
from ..recording.recording import Recording
from .terminal import FAILED, PROGRAM, CommandError, require_sandbox, sentence, write

if TYPE_CHECKING:
    import argparse
    from pathlib import Path


def replay(options: argparse.Namespace) -> int:
    """Run a recorded session again and print what differs."""
    limits = {name: getattr(options, name) for name in ("floats", "figures") if getattr(options, name) is not None}
    if limits and not options.tolerant:
        raise CommandError(f"--{next(iter(limits))} is an option of --tolerant: give both.")
    try:
        tolerance = Tolerance(**limits) if options.tolerant else None
        edits = {step: path.read_text(encoding="utf-8") for step, path in options.edit}
        report = replay_recording(
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
    except ValueError as error:
        raise CommandError(sentence(error)) from error
    except OSError as error:
        raise CommandError(f"{error.filename} cannot be read: {error.strerror}.") from error
    except CodeInterpreterError as error:
        raise CommandError(str(error), FAILED) from error
    with report:
        write(sys.stdout, f"{report}\n")
    return 0 if report.ok else FAILED


def compare(options: argparse.Namespace) -> int:
    """Print where two recorded sessions differ."""
    found = diff(options.a, options.b, tolerance=options.tolerant)
    write(sys.stdout, f"{found}\n")
    return 0 if found.same else FAILED


def export(options: argparse.Namespace) -> int:
    """Write a recorded session in another format."""
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
    except ImportError as error:
        raise CommandError(str(error)) from error
    except OSError as error:
        raise CommandError(f"{target} cannot be written: {error.strerror}.") from error
    for problem in recording.problems:
        write(sys.stderr, f"{PROGRAM}: {problem}\n")
    write(sys.stdout, f"{target}\n")
    return 0
