"""The command line: its output, its exit codes, and that nothing is left running."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from daytona_kernel_interp.cli import command_line as cli

COMMAND = [sys.executable, "-m", "daytona_kernel_interp"]
LOCAL = ["--sandbox", "local"]
RECORDING = Path(__file__).parent / "golden" / "recording-v1.ipynb"


def test_help_imports_neither_dspy_nor_a_kernel() -> None:
    """``--help`` imports no slow library."""
    code = (
        "import sys; from daytona_kernel_interp import cli\n"
        "try: cli.main(['--help'])\n"
        "finally: print(sorted({'dspy', 'daytona', 'zmq', 'litellm', 'asyncio'} & set(sys.modules)))"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "exec" in told
    assert told.splitlines()[-1] == "[]"


def test_exec_streams_and_shows_the_last_expression(capfd: pytest.CaptureFixture[str]) -> None:
    """``exec`` writes stdout and stderr to their streams, then the repr of the last expression."""
    code = "import sys; print('out'); print('err', file=sys.stderr); ['x'] * 2"
    assert cli.main(["exec", *LOCAL, code]) == 0
    assert capfd.readouterr() == ("out\n['x', 'x']\n", "err\n")


def test_exec_reads_standard_input(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """``exec -`` runs the code on standard input, in the sandbox that the environment names."""
    monkeypatch.setenv("DAYTONA_KERNEL_SANDBOX", "local")
    monkeypatch.setattr(sys, "stdin", io.StringIO("x = 20\nx + 1\n"))
    assert cli.main(["exec", "-"]) == 0
    assert capfd.readouterr().out == "21\n"


def test_exec_shows_a_submitted_answer(capfd: pytest.CaptureFixture[str]) -> None:
    """The argument of SUBMIT is shown like a last expression."""
    assert cli.main(["exec", *LOCAL, "SUBMIT({'a': 1})"]) == 0
    assert capfd.readouterr() == ("{'a': 1}\n", "")


def test_exec_fails_with_the_traceback(capfd: pytest.CaptureFixture[str]) -> None:
    """An exception means exit code 1; earlier output appears once, the traceback on stderr."""
    assert cli.main(["exec", *LOCAL, "print('before')\n1 / 0"]) == 1
    out, err = capfd.readouterr()
    assert out == "before\n"
    assert err.startswith("Traceback (most recent call last)")
    assert err.endswith("ZeroDivisionError: division by zero\n")


def test_exec_tells_where_the_syntax_is_wrong(capfd: pytest.CaptureFixture[str]) -> None:
    """Code that does not compile means exit code 1 and the faulty line."""
    assert cli.main(["exec", *LOCAL, "x = = 1"]) == 1
    out, err = capfd.readouterr()
    assert out == ""
    assert "    x = = 1\n" in err
    assert err.endswith("SyntaxError: invalid syntax\n")


def test_a_timeout_interrupts(capfd: pytest.CaptureFixture[str]) -> None:
    """``--timeout`` interrupts the code, with exit code 1 and the reason."""
    assert cli.main(["exec", *LOCAL, "--timeout", "0.2", "while True: pass"]) == 1
    assert capfd.readouterr().err.startswith(
        "TimeoutError: the cell was interrupted after execution_timeout=0.2 s; variables kept\n"
    )


def test_a_kernel_that_dies_is_told(capfd: pytest.CaptureFixture[str]) -> None:
    """Code that ends its own process means exit code 1; the message has the exit code of the process."""
    assert (
        cli.main(["exec", *LOCAL, "import os; print('before', flush=True); os.write(2, b'last\\n'); os._exit(7)"]) == 1
    )
    out, err = capfd.readouterr()
    assert out == "before\n"
    assert err.splitlines()[-3:] == [
        "KernelDied: the kernel's process ended (exit code 7); all variables are lost",
        "Last output of the kernel's process:",
        "last",
    ]


@pytest.mark.parametrize(
    ("argument", "code", "stderr"),
    [("3", 3, ""), ("'too bad'", 1, "too bad\n"), ("'3'", 1, "3\n"), ("[4]", 1, "[4]\n")],
)
def test_sys_exit_gives_the_exit_code(argument: str, code: int, stderr: str, capfd: pytest.CaptureFixture[str]) -> None:
    """``sys.exit`` means to the shell what it means under ``python``."""
    assert cli.main(["exec", *LOCAL, "import os; print('before', flush=True); os._exit(7)"]) == 1
    failure = "KernelDied: the kernel's process ended (exit code 7); all variables are lost\n"
    assert capfd.readouterr() == ("before\n", failure)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["exec"], "no code was given: CODE, or - to read it from standard input."),
        (["exec", *LOCAL, "-"], "standard input has no code."),
        (["exec", "--session"], "no code was given"),
        (["exec", "--session", "0badcafe"], "no code was given"),
        (["exec", "--timeout", "soon", "1"], "'soon' is not a positive number"),
        (["exec", "--timeout", "0", "1"], "'0' is not a positive number"),
        (["exec", "--sandbox", "nowhere", "1"], "invalid choice: 'nowhere'"),
        (["exec", "1"], "No sandbox was chosen: "),
        (["replay", str(RECORDING)], "With --sandbox local the code runs on this machine as you, without isolation."),
        (["doctor"], "No key for Daytona: set DAYTONA_API_KEY, in the environment or in .env."),
        (["gc"], "No key for Daytona"),
        (["image", "build"], "No key for Daytona"),
        (["run", "no-such-file.py"], "no-such-file.py cannot be read: No such file or directory"),
        (["run", os.devnull + "/x"], "cannot be read: Not a directory"),
    ],
)
def test_bad_input_gets_one_sentence(
    arguments: list[str],
    sentence: str,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Bad or missing input means exit code 2 and one line that says what is wrong."""
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    try:
        code: object = cli.main(arguments)
    except SystemExit as end:  # argparse's way
        code = end.code
    out, err = capfd.readouterr()
    assert (code, out) == (2, "")
    assert sentence in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(("arguments", "listed"), [([], "exec"), (["image"], "build")])
def test_without_a_command_usage_and_commands_are_printed(
    arguments: list[str], listed: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """A missing command is missing input: exit code 2, and the help on stderr."""
    assert cli.main(arguments) == 2
    out, err = capfd.readouterr()
    assert out == ""
    assert err.startswith(f"usage: {' '.join(['daytona-kernel', *arguments])} [-h]")
    assert f"    {listed}  " in err


def test_a_binary_is_no_script(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """A file that is not Python text is refused before a kernel is started."""
    script = tmp_path / "script.py"
    script.write_bytes(b"\xff\xfe\x00")
    assert cli.main(["run", *LOCAL, str(script)]) == 2
    assert "is not a Python script" in capfd.readouterr().err


def test_ctrl_c_ends_everything(tmp_path: Path) -> None:
    """Ctrl-C means exit code 130 without a traceback, and the kernel's process is gone."""
    script = tmp_path / "script.py"
    script.write_text("import os, threading\nprint(os.getpid(), flush=True)\nthreading.Event().wait()\n")
    with subprocess.Popen(
        [*COMMAND, "run", *LOCAL, str(script)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        kernel = int(process.stdout.readline())
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=100)
    assert (process.returncode, err) == (130, "")
    with pytest.raises(ProcessLookupError):
        os.kill(kernel, 0)


def test_a_reader_that_has_enough_does_no_harm() -> None:
    """A closed pipe, as behind ``| head -1``, causes no traceback; the code still runs to its end."""
    with subprocess.Popen(
        [*COMMAND, "exec", *LOCAL, "for i in range(20000): print(i)\nimport sys; sys.exit(5)"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == "0\n"
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 5
