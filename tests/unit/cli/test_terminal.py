"""What the commands share: argument types, checks of sandbox and key, and output."""

from __future__ import annotations

import argparse
import os
import sys

import pytest

from daytona_kernel_interp.cli import recording_commands, terminal
from daytona_kernel_interp.cli.progress import Progress
from daytona_kernel_interp.cli.run_commands import report_error, report_failure
from daytona_kernel_interp.client.outputs import CellError, DisplayData, ExecuteResult, StreamText
from daytona_kernel_interp.errors import KernelDied


@pytest.mark.parametrize("text", ["0", "-1", "inf", "nan", "soon", ""])
def test_what_is_not_a_positive_number(text: str) -> None:
    """It is refused with what was given."""
    with pytest.raises(argparse.ArgumentTypeError, match="is not a positive number"):
        terminal.seconds(text)
    assert terminal.seconds("0.5") == 0.5


def test_a_sandbox_is_chosen_by_option_environment_or_key(monkeypatch: pytest.MonkeyPatch) -> None:
    """Any of the three will do; without any, one sentence names them."""
    monkeypatch.setenv("PYTHON_DOTENV_DISABLED", "1")
    for name in ("DAYTONA_KERNEL_SANDBOX", "DAYTONA_API_KEY", "DAYTONA_JWT_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    terminal.require_sandbox("local")
    with pytest.raises(terminal.CommandError, match=r"No sandbox was chosen: .*--sandbox local") as refused:
        terminal.require_sandbox(None)
    assert refused.value.exit_code == 2
    with pytest.raises(terminal.CommandError, match="No key for Daytona"):
        terminal.require_daytona_key()
    monkeypatch.setenv("DAYTONA_KERNEL_SANDBOX", "local")
    terminal.require_sandbox(None)
    monkeypatch.delenv("DAYTONA_KERNEL_SANDBOX")
    monkeypatch.setenv("DAYTONA_API_KEY", "dtn_x")
    terminal.require_sandbox(None)
    terminal.require_daytona_key()


def test_outputs_go_where_they_belong(capsys: pytest.CaptureFixture[str]) -> None:
    """Streams keep their stream; displays and values are written as text; errors are left to the command."""
    for output in (
        StreamText("stdout", "out\n"),
        StreamText("stderr", "err\n"),
        DisplayData({"text/plain": "shown"}, {}),
        ExecuteResult({"text/plain": "1"}, {}),
        CellError("ValueError", "no", "Traceback"),
    ):
        terminal.write_output(output)
    assert capsys.readouterr() == ("out\nshown\n1\n", "err\n")
    terminal.write_output(ExecuteResult({"text/plain": "1"}, {}), show_value=False)
    assert capsys.readouterr() == ("", "")


def test_a_closed_pipe_is_ignored() -> None:
    """What is written after the reader has left goes nowhere, and raises nothing."""
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "w") as file:
        terminal.write(file, "lost")
        terminal.write(file, "lost")


@pytest.mark.parametrize(
    ("text", "expected"), [("0badcafe", True), ("0BADCAFE", False), ("badcafe", False), ("x", False)]
)
def test_the_form_of_a_sessions_id(text: str, expected: bool) -> None:
    """Eight hexadecimal digits."""
    assert terminal.is_session_id(text) is expected


def test_a_sentence_has_one_full_stop() -> None:
    """Whether or not the error's text has one."""
    assert terminal.sentence(ValueError("no")) == terminal.sentence("no.") == "no."


HOSTILE = "\x1b]52;c;eA==\x07 \x9b2J \x1bP\x1b\\ \u202e\r\x08"


def test_what_a_command_writes_cannot_control_the_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tables, reports, errors and log lines come from sandboxes and recordings; the program's own output is its own."""
    terminal.write_output(StreamText("stdout", HOSTILE))
    assert capsys.readouterr().out == HOSTILE
    terminal.write(sys.stdout, HOSTILE)
    report_error(CellError("ValueError", HOSTILE, f"Traceback {HOSTILE}"))
    report_failure(KernelDied(HOSTILE, stderr=HOSTILE))
    with Progress(HOSTILE, sys.stdout) as progress:
        progress.line(HOSTILE)
    monkeypatch.setattr(recording_commands, "diff", lambda *args, **options: _Difference())
    assert recording_commands.compare(argparse.Namespace(a="a", b="b", tolerant=None)) == 1
    written = "".join(capsys.readouterr())
    assert written.count("52;c;eA==") == 7
    assert written.replace("\n", "").isprintable()


class _Difference:
    """A difference between two recordings of a stranger."""

    same = False

    def __str__(self) -> str:
        return HOSTILE
