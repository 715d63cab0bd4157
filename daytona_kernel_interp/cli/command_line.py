"""The command line ``daytona-kernel``.

Commands import what they need when they run, so that ``--help`` answers at once.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TextIO

from .. import __version__
from . import export_command as exporting
from . import install_commands as installing
from .playback_commands import add_commands as add_transcript_commands

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..client.outputs import Output
    from ..sandboxes.daytona.orphans import ManagedSandbox
    from ..sandboxes.daytona.snapshot_image import KernelImage

PROGRAM = "daytona-kernel"
FAILED, BAD_INPUT, INTERRUPTED = 1, 2, 130

# Runs first, so that the code finds what `python` would give it, and sys.exit() ends it without IPython's advice.
_SCRIPT_SETUP = """
import sys as _sys, warnings as _warnings
_sys.argv[:] = _argv
_warnings.filterwarnings("ignore", "To exit: use", UserWarning)
del _argv, _sys, _warnings
"""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(BAD_INPUT, f"{self.prog}: {message}\n")


class _InputError(Exception):
    """What the user gave cannot be used; the message is one sentence."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command that ``argv`` names and return the exit code: 0, 1 (it failed), 2 (bad input) or 130 (Ctrl-C)."""
    options = _parser().parse_args(argv)
    os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # else litellm fetches its price list at import
    try:
        return int(options.command(options))
    except (_InputError, installing.InstallError) as error:
        return _fail(str(error), BAD_INPUT)
    except KeyboardInterrupt:
        return INTERRUPTED


def _parser() -> _Parser:
    parser = _Parser(prog=PROGRAM, description="Python cells in a real IPython kernel, inside a sandbox.")
    parser.add_argument("--version", action="version", version=f"{PROGRAM} {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    _add_run_commands(commands)
    _add_session_commands(commands)

    doctor = commands.add_parser("doctor", help="check the way from the key to a cell in a sandbox at Daytona")
    doctor.add_argument("--snapshot", metavar="NAME", help="start from this one")
    doctor.set_defaults(command=_run_doctor)

    add_transcript_commands(commands)

    image = commands.add_parser("image", help="the sandbox's image: a snapshot of it at Daytona, or its recipe")
    _add_image_commands(image.add_subparsers(metavar="COMMAND", required=True))

    export = commands.add_parser("export", help="show a recorded session as a page, or hand it to another program")
    exporting.add_options(export)
    export.set_defaults(command=_export)

    installing.add_commands(commands)
    return parser


def _add_run_commands(commands: Any) -> None:
    demo = commands.add_parser("demo", help="watch an RLM work on a long text; needs no key")
    demo.add_argument(
        "--model", nargs="?", const="", metavar="NAME", help="ask this model, not a script; the key is read from .env"
    )
    demo.add_argument("--file", type=Path, metavar="PATH", help="the text to work on (with --model)")
    demo.add_argument("--question", metavar="TEXT", help="what to ask about it (with --model)")
    demo.add_argument(
        "--output", type=Path, default=Path("demo-output"), metavar="FOLDER", help="where figures go (%(default)s)"
    )
    demo.add_argument("--record", type=Path, metavar="PATH", help="a notebook that the session is recorded in")
    demo.set_defaults(command=_demo)

    run = commands.add_parser("run", help="run a script in a fresh kernel")
    _add_kernel_options(run)
    run.add_argument("script", type=Path, metavar="SCRIPT.py")
    run.add_argument("arguments", nargs=argparse.REMAINDER, metavar="...", help="what the script finds in sys.argv")
    run.set_defaults(command=_run)

    execute = commands.add_parser("exec", help="run code in a kernel and show its last expression")
    _add_kernel_options(execute)
    execute.add_argument("--session", metavar="ID", help="the kernel of a running session; else a fresh one")
    execute.add_argument("code", metavar="CODE", help="the code; - reads it from standard input")
    execute.set_defaults(command=_exec)


def _add_session_commands(commands: Any) -> None:
    listing = commands.add_parser("ls", help="list the sessions on this machine and, with a key, sandboxes at Daytona")
    listing.set_defaults(command=_list)

    collect = commands.add_parser("gc", help="delete sandboxes at Daytona whose process is gone; asks first")
    collect.add_argument(
        "--older-than", type=_hours, default=1.0, metavar="HOURS", help="also those idle for longer (%(default)g)"
    )
    collect.add_argument("--all-owners", action="store_true", help="also those of other machines and users")
    collect.add_argument("--kept", action="store_true", help="also those that were made to be kept")
    collect.add_argument("--yes", action="store_true", help="do not ask")
    collect.set_defaults(command=_collect_garbage)

    attach = commands.add_parser("attach", help="type cells into a running session; one without a host is taken up")
    attach.add_argument("session", nargs="?", metavar="SESSION", help="see ls; else the newest")
    attach.set_defaults(command=_attach)

    inspect = commands.add_parser("inspect", help="show what is in a running session and what it runs")
    inspect.add_argument("session", nargs="?", metavar="SESSION", help="see ls; else the newest")
    inspect.add_argument("name", nargs="?", metavar="NAME", help="one variable, with its own text")
    inspect.add_argument("--private", action="store_true", help="also variables of names that begin with an underscore")
    inspect.set_defaults(command=_inspect)


def _add_image_commands(commands: Any) -> None:
    build = commands.add_parser("build", help="make a snapshot of the image at Daytona; takes minutes")
    build.add_argument("--name", metavar="NAME", help="the snapshot's (else one that says version and contents)")
    for what, unit in (("cpu", "cores"), ("memory", "GiB"), ("disk", "GiB")):
        build.add_argument(f"--{what}", type=int, metavar="N", help=f"{unit} of each sandbox (else Daytona's default)")
    build.add_argument("--region", metavar="NAME", help="where it is to be used (else the organisation's default)")
    build.set_defaults(command=_build_image)
    files = commands.add_parser("files", help="write what `docker build` needs into a folder")
    files.add_argument("folder", type=Path, metavar="FOLDER")
    files.set_defaults(command=_write_image)
    for parser in (build, files):
        parser.add_argument("--package", action="append", default=[], metavar="NAME", help="install this one besides")
        parser.add_argument("--no-data", action="store_true", help="leave out the data-science set")


def _add_kernel_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--sandbox",
        choices=("local", "daytona"),
        help="where the kernel runs (else DAYTONA_KERNEL_SANDBOX decides); local: on this machine, without isolation",
    )
    parser.add_argument("--timeout", type=_seconds, metavar="SECONDS", help="interrupt the code after this time")


def _seconds(text: str) -> float:
    with contextlib.suppress(ValueError):
        seconds = float(text)
        if 0 < seconds < float("inf"):
            return seconds
    raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds")


def _hours(text: str) -> float:
    return _seconds(text)


# --- commands -----------------------------------------------------------------------------------------


def _demo(options: argparse.Namespace) -> int:
    from .. import demo

    try:
        demo.run(demo.DemoOptions(options.model, options.file, options.question, options.output, options.record))
    except demo.InvalidDemoOptions as error:
        raise _InputError(str(error)) from error
    except demo.DemoFailed as error:
        return _fail(str(error), FAILED)
    return 0


def _run(options: argparse.Namespace) -> int:
    code = _read_script(options.script)
    argv = [str(options.script), *options.arguments]
    return _execute(options, code, {"_argv": argv, "__file__": str(options.script.absolute())}, show_value=False)


def _exec(options: argparse.Namespace) -> int:
    code = sys.stdin.read() if options.code == "-" else options.code
    if options.session is not None:
        return _execute_in_session(options, code)
    return _execute(options, code, {"_argv": ["-c"]}, show_value=True)


def _read_script(path: Path) -> str:
    import tokenize

    try:
        with tokenize.open(path) as file:  # as Python reads it: UTF-8, or what the file declares
            return file.read()
    except OSError as error:
        raise _InputError(f"{path} cannot be read: {error.strerror}.") from error
    except (SyntaxError, UnicodeDecodeError) as error:
        raise _InputError(f"{path} is not a Python script: {error}.") from error


def _list(options: argparse.Namespace) -> int:
    import datetime

    from ..config import daytona_credential
    from ..monitor.shared_client import list_sessions

    listed = list_sessions()
    if not listed:
        _write(sys.stderr, "No sessions on this machine.\n")
    else:
        _write(sys.stdout, f"{'SESSION':10}{'HOST':16}{'SANDBOX':10}STARTED\n")
    for session in listed:
        host = "gone" if session.host is None else f"process {session.host}"
        started = datetime.datetime.fromtimestamp(session.started).isoformat(" ", "seconds")
        _write(sys.stdout, f"{session.id:10}{host:16}{session.sandbox:10}{started}\n")
    if daytona_credential() is None:
        return 0
    return _show_sandboxes(_find_orphaned())


def _collect_garbage(options: argparse.Namespace) -> int:
    from ..errors import SandboxFailed
    from ..runtime.event_loop import io_loop
    from ..sandboxes.daytona import orphans as lost
    from ..session.session_file import forget_sandboxes

    def find() -> list[ManagedSandbox]:
        older_than_s, others, include_kept = options.older_than * 3600, options.all_owners, options.kept
        return [
            each for each in _find_orphaned() if each.is_orphaned(older_than_s, all_owners=others, kept=include_kept)
        ]

    found = find()
    if not found:
        _write(sys.stderr, "No sandbox at Daytona is lost.\n")
        return 0
    _show_sandboxes(found)
    if not options.yes:
        if not sys.stdin.isatty():
            raise _InputError("nobody can be asked here whether to delete them: give --yes.")
        _write(sys.stderr, f"Delete {len(found)}? [y/N] ")
        if sys.stdin.readline().strip().lower() not in ("y", "yes"):
            return 0
        shown = {sandbox.id for sandbox in found}  # one may have been taken up meanwhile
        found = [sandbox for sandbox in find() if sandbox.id in shown]
    try:
        io_loop().run(lost.delete_sandboxes([sandbox.id for sandbox in found]))
    except SandboxFailed as error:
        return _fail(f"{error}.", FAILED)
    forget_sandboxes({sandbox.id for sandbox in found})
    _write(sys.stderr, f"Deleted {len(found)}.\n")
    return 0


def _run_doctor(options: argparse.Namespace) -> int:
    from ..sandboxes.daytona import DaytonaSandbox
    from . import doctor

    failed = False
    for check in doctor.run_checks(DaytonaSandbox(snapshot=options.snapshot)):
        took = f"{check.took_s * 1000:.0f} ms" if check.took_s else ""
        _write(sys.stdout, f"{'ok' if not check.advice else 'FAILED':8}{check.name:10}{took:>10}  {check.result}\n")
        if check.advice:
            failed = True
            _write(sys.stdout, f"{'':30}{check.advice}\n")
    return FAILED if failed else 0


def _build_image(options: argparse.Namespace) -> int:
    from ..config import SNAPSHOT_VARIABLE
    from ..errors import SandboxFailed
    from ..runtime.event_loop import io_loop
    from ..sandboxes.daytona.snapshot_build import build_snapshot
    from .progress import Progress

    image = _image(options)
    name = options.name or image.name()
    resources = {what: getattr(options, what) for what in ("cpu", "memory", "disk", "region")}
    try:
        with Progress(f"building the snapshot {name}", sys.stderr) as shown:
            shown.line(f"{shown.task}; a first build takes minutes")
            fresh = io_loop().run(build_snapshot(image, name, shown.line, **resources))
    except SandboxFailed as error:
        return _fail(f"{error}", FAILED)
    _write(sys.stderr, f"{'It is built' if fresh else 'It was there already'}. To use it:\n")
    _write(sys.stdout, f"export {SNAPSHOT_VARIABLE}={name}\n")
    return 0


def _write_image(options: argparse.Namespace) -> int:
    from ..errors import SandboxFailed
    from ..sandboxes.daytona.snapshot_image import write_context

    try:
        write_context(options.folder, _image(options))
    except (OSError, SandboxFailed) as error:
        raise _InputError(f"{options.folder} was not filled: {error}.") from error
    _write(sys.stdout, f"docker build -t daytona-kernel {options.folder}\n")
    return 0


def _image(options: argparse.Namespace) -> KernelImage:
    from ..sandboxes.daytona.snapshot_image import KernelImage

    try:
        return KernelImage(packages=tuple(options.package), data=not options.no_data)
    except (TypeError, ValueError) as error:
        raise _InputError(f"{error}.") from error


def _find_orphaned() -> list[ManagedSandbox]:
    from ..errors import SandboxFailed
    from ..runtime.event_loop import io_loop
    from ..sandboxes.daytona import orphans as lost
    from ..session.session_file import list_records

    in_use = {str(record.sandbox.get("id")) for record in list_records() if record.host_lives}
    try:
        return io_loop().run(lost.find_sandboxes(in_use))
    except SandboxFailed as error:
        raise _InputError(str(error).rstrip(".") + ".") from error


def _show_sandboxes(found: list[ManagedSandbox]) -> int:
    if not found:
        _write(sys.stderr, "No sandboxes at Daytona.\n")
        return 0
    _write(sys.stdout, f"{'SANDBOX AT DAYTONA':40}{'STATE':12}{'MADE BY':30}IDLE\n")
    for sandbox in found:
        owner = sandbox.owner + (", gone" if not sandbox.host_lives else "") + (", kept" if sandbox.kept else "")
        idle = "" if sandbox.idle_s is None else f"{sandbox.idle_s / 60:.0f} min"
        _write(sys.stdout, f"{sandbox.id:40}{sandbox.state:12}{owner:30}{idle}\n")
    return 0


def _execute_in_session(options: argparse.Namespace, code: str) -> int:
    from ..errors import SessionNotFound
    from ..monitor.shared_client import CellFailed, open_session

    if options.sandbox is not None:
        raise _InputError("--sandbox is for a fresh kernel, --session names a running one: give one of them.")
    try:
        with open_session(options.session, lambda output: _show(output, show_value=True)) as session:
            submitted = session.run(code, options.timeout)
    except SessionNotFound as error:
        raise _InputError(f"{error}.") from error
    except CellFailed as failed:
        return _report(failed.outputs, failed)
    if submitted is not None:
        _write(sys.stdout, f"{submitted!r}\n")
    return 0


def _inspect(options: argparse.Namespace) -> int:
    from ..errors import KernelError
    from ..monitor.live import live

    try:
        _write(sys.stdout, f"{live(options.session).inspect(options.name, private=options.private)}\n")
    except (KernelError, NameError) as error:
        raise _InputError(f"{str(error).rstrip('.')}.") from error
    return 0


def _attach(options: argparse.Namespace) -> int:
    from ..errors import SessionNotFound
    from ..monitor.shared_client import CellFailed, open_session
    from ..session.session_file import list_records
    from .console import Console, open_jupyter_console

    if options.session is None:
        known = list_records()
        if not known:
            raise _InputError("No session is alive on this machine.")
        options.session = known[0].id
    try:
        if sys.stdin.isatty() and (code := open_jupyter_console(options.session)) is not None:
            return code
        with open_session(options.session, lambda output: _show(output, show_value=True)) as session:
            try:
                session.last_cell()
            except CellFailed as failed:
                _report(failed.outputs, failed)
            console = Console(session.run, lambda failed: _report(failed.outputs, failed))
            console.interact(f"Session {options.session}. Ctrl-D leaves it as it is.", exitmsg="")
    except SessionNotFound as error:
        raise _InputError(f"{error}.") from error
    return 0


def _export(options: argparse.Namespace) -> int:
    try:
        target, problems = exporting.export(options.notebook, options.kind, options.output)
    except exporting.ExportError as error:
        raise _InputError(str(error)) from error
    for problem in problems:
        _write(sys.stderr, f"{PROGRAM}: {problem}\n")
    _write(sys.stdout, f"{target}\n")
    return 0


# --- one kernel ---------------------------------------------------------------------------------------


def _execute(options: argparse.Namespace, code: str, variables: dict[str, Any], *, show_value: bool) -> int:
    """Run ``code`` in a kernel of its own, with ``variables`` set, and return the exit code."""
    from .. import KernelInterpreter
    from ..errors import KernelError
    from ..interpreter.interpreter import CodeInterpreterError, FinalOutput  # DSPy's own
    from ..sandboxes.select import select_sandbox
    from .progress import show_start_progress

    try:
        sandbox = select_sandbox(options.sandbox)
    except KernelError as error:
        raise _InputError(str(error)) from error
    interpreter = KernelInterpreter(sandbox=sandbox, max_output_chars=None)
    with interpreter:
        try:
            with show_start_progress(sys.stderr):
                interpreter.execute(_SCRIPT_SETUP, variables)
            interpreter.execution_timeout = options.timeout
            interpreter.on_output = lambda output: _show(output, show_value)
            result = interpreter.execute(code)
        except (CodeInterpreterError, SyntaxError) as error:
            return _report(interpreter.outputs, error)
    if isinstance(result, FinalOutput):
        _write(sys.stdout, f"{result.output['output']!r}\n")
    return 0


def _show(output: Output, show_value: bool) -> None:
    """Write an output as it arrives. Errors are left to :func:`_report`, which knows how the cell ended."""
    from ..client.outputs import DisplayData, ExecuteResult, StreamText

    match output:
        case StreamText(name=name, text=text):
            _write(sys.stderr if name == "stderr" else sys.stdout, text)
        case ExecuteResult(data=data) if show_value:
            _write(sys.stdout, f"{data.get('text/plain', '')}\n")
        case DisplayData(data=data):
            _write(sys.stdout, f"{data.get('text/plain', '')}\n")


def _report(outputs: list[Output], error: Exception) -> int:
    """Write why the cell failed and return the exit code; what it printed was shown already."""
    from ..client.outputs import CellError

    found = next((output for output in outputs if isinstance(output, CellError)), None)
    if found is not None and found.name == "SystemExit":
        return _exit_code(found.message)
    reason = str(error).partition("\nOutput before the error:\n")[0].replace("; variables kept", "", 1)
    if found is not None and found.traceback and (isinstance(error, SyntaxError) or reason.startswith(found.summary)):
        reason = found.traceback  # it ends with the summary
    _write(sys.stderr, f"{reason.rstrip()}\n")
    return FAILED


def _exit_code(argument: str) -> int:
    """Return what ``sys.exit(argument)`` means to the shell; a text is written and counts as failure."""
    if argument in ("", "None"):
        return 0
    with contextlib.suppress(ValueError):
        return int(argument) & 0xFF
    _write(sys.stderr, f"{argument}\n")
    return FAILED


def _write(file: TextIO, text: str) -> None:
    try:
        file.write(text)
        file.flush()
    except BrokenPipeError:  # the reader, such as `head`, has enough; the code still runs to its end
        with open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), file.fileno())


def _fail(message: str, code: int) -> int:
    _write(sys.stderr, f"{PROGRAM}: {message}\n")
    return code


if __name__ == "__main__":
    sys.exit(main())
