"""Jupyter's own programs, started as users start them, on kernels in sandboxes."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import nbformat
import pexpect  # type: ignore[import-untyped]
import pytest
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, DeadKernelError

from tests.integration.daytona_service import until
from tests.integration.jupyter_programs import DAYTONA, LOCAL, Server, install, notebook, shown, talk, written

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from daytona_kernel_interp.testing import DaytonaEmulator
    from tests.integration.daytona_service import Service

CELLS = (
    "x = 1\nimport os; print(os.getcwd())",
    "%matplotlib inline\nimport matplotlib.pyplot as plt; plt.plot([1, 2]);",
    "x + 41",
)
PROMPT = r"In \[\d+\]: "


@pytest.fixture(scope="module", autouse=True)
def _kernelspecs() -> None:
    install(LOCAL, sandbox="local")
    install(DAYTONA, sandbox="daytona")


# --- programs that run a notebook -------------------------------------------------------------------------


@pytest.mark.slow
def test_nbconvert_and_papermill_execute_a_notebook(tmp_path: Path) -> None:
    """Folder, figures and values are as with any other kernel."""
    nbformat.write(notebook(LOCAL, *CELLS), tmp_path / "in.ipynb")
    programs = [
        ("nbconvert", "--to", "notebook", "--execute", "in.ipynb", "--output", "nbconvert.ipynb"),
        ("papermill", "in.ipynb", "papermill.ipynb", "--no-progress-bar"),
    ]
    running = {
        name: subprocess.Popen(
            [sys.executable, "-m", name, *arguments], cwd=tmp_path, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL
        )
        for name, *arguments in programs
    }
    said = {name: program.communicate(timeout=100)[1].decode() for name, program in running.items()}
    for name, program in running.items():
        assert program.returncode == 0, said[name]
        assert shown(written(tmp_path / f"{name}.ipynb")) == [f"{tmp_path}\n", "image/png", "42"]


def test_nbclient_loads_no_dspy(tmp_path: Path) -> None:
    """A program that runs a notebook in a sandbox imports neither dspy nor litellm."""
    program = f"""
import sys, nbclient
from tests.integration.jupyter_programs import notebook, shown
made = notebook({LOCAL!r}, "6 * 7")
nbclient.NotebookClient(made).execute()
print(shown(made), sorted({{"dspy", "litellm", "daytona", "openai"}} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=100, check=True)
    assert done.stdout == "['42'] []\n"


def test_nbclient_at_daytona(daytona: Service) -> None:
    """A notebook runs in a sandbox at Daytona; after an error the sandbox is deleted, too."""
    made = notebook(DAYTONA, *CELLS)
    NotebookClient(made).execute()
    folder, *rest = shown(made)
    assert (folder.startswith("/"), rest) == (True, ["image/png", "42"])
    assert daytona.nothing_left()
    with pytest.raises(CellExecutionError, match="ZeroDivisionError"):
        NotebookClient(notebook(DAYTONA, "1 / 0")).execute()


def test_nbclient_says_that_the_kernel_died(caplog: pytest.LogCaptureFixture) -> None:
    """The program raises its own error, and its log says how the kernel ended."""
    code = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
    with pytest.raises(DeadKernelError):
        NotebookClient(notebook(LOCAL, code)).execute()
    assert "The kernel's process ended (signal SIGKILL); all variables are lost." in caplog.text


# --- the console ------------------------------------------------------------------------------------------


@contextlib.contextmanager
def console(*arguments: str) -> Iterator[Any]:
    command = ["-m", "jupyter_console", "--simple-prompt", *arguments]
    child = pexpect.spawn(
        sys.executable, command, encoding="utf-8", timeout=30, env={**os.environ, "TERM": "dumb"}, echo=False
    )
    try:
        child.expect(PROMPT)
        yield child
        child.expect(pexpect.EOF)
    finally:
        child.close(force=True)


def test_a_console_with_a_kernel_of_its_own() -> None:
    """``jupyter console --kernel`` shows values, reads input, debugs, and ends with ``exit``."""
    with console("--kernel", LOCAL) as child:
        for typed, expected in (
            ("6 * 7", r"Out\[1\]: 42"),
            ("input('who? ')", r"who\? "),
            ("me", "'me'"),
            ("1 / 0", "division by zero"),
            ("%debug", "ipdb> "),
        ):
            child.sendline(typed)
            child.expect(expected)
        for _ in range(3):  # what is typed while the console opens the debugger's prompt may be lost
            child.sendline("p 40 + 3")
            if child.expect(["43", pexpect.TIMEOUT], timeout=8) == 0:
                break
        else:
            pytest.fail("the debugger does not answer")
        child.sendline("q")
        child.expect(PROMPT)
        child.sendline("exit")
    assert child.exitstatus == 0


def test_a_console_joins_a_kernel_that_runs() -> None:
    """``jupyter console --existing`` shares the variables of the first client and leaves the kernel running."""
    with talk(LOCAL) as first:
        first.run("shared = [1]")
        with console("--existing", first.manager.connection_file) as child:
            child.sendline("shared.append(2); shared")
            child.expect(r"\[1, 2\]")
            child.expect(PROMPT)
            child.sendline("exit(keep_kernel=True)")
        assert first.value("shared") == "[1, 2]"


# --- the server -------------------------------------------------------------------------------------------


@pytest.fixture
def server(daytona: Service, emulator: DaytonaEmulator, tmp_path: Path) -> Iterator[Server]:
    made = Server(tmp_path, emulator.environment())
    yield made
    made.close()


def test_a_server_has_its_kernels_in_sandboxes(server: Server, daytona: Service) -> None:
    """A server runs, interrupts, restarts, lists and shuts down two kernels, one of them at Daytona."""
    specs = server.ask("GET", "kernelspecs")["kernelspecs"]
    assert {LOCAL, DAYTONA} <= set(specs)
    here, there = server.start(LOCAL), server.start(DAYTONA)
    assert {kernel["name"] for kernel in server.ask("GET", "kernels")} == {LOCAL, DAYTONA}
    for page in (here, there):
        assert page.value("x = 41\nx + 1") == "42"
        request = page.send("print('begun', flush=True)\nwhile True: pass")
        page.until(request, "stream")
        page.interrupt()
        assert page.until(request, "error")["ename"] == "KeyboardInterrupt"
        assert page.value("x") == "41"
    pids = [page.value("import os; os.getpid(), os.getppid()") for page in (here, there)]
    (sandbox,) = daytona.sandboxes
    for page, pid in zip((here, there), pids, strict=True):
        page.restart()
        assert page.value("'x' in globals()") == "False"
        assert page.value("import os; os.getpid(), os.getppid()").split(",")[1] == pid.split(",")[1]
    assert [found["id"] for found in daytona.sandboxes] == [sandbox["id"]]
    for page in (here, there):
        page.close()
        server.ask("DELETE", f"kernels/{page.kernel}")
    assert server.ask("GET", "kernels") == []
    assert daytona.nothing_left()


def test_a_server_tells_of_a_bad_option_and_of_a_death(server: Server) -> None:
    """The server's log has one sentence for each; Jupyter restarts a kernel that died."""
    with pytest.raises(OSError, match="HTTP Error 500"):
        server.start(install("misspelt", sandbox="daytona", snapshott="x"))
    server.wait_for(
        re.compile(
            rb"a kernel.s options are invalid: DaytonaSandbox has no option 'snapshott'; did you mean .snapshot."
        )
    )
    page = server.start(LOCAL)
    pid = page.value("import os; os.getpid()")
    page.send("os.kill(os.getpid(), 9)")
    server.wait_for(re.compile(rb"The kernel's process ended \(signal SIGKILL\); all variables are lost\."))
    server.wait_for(re.compile(rb"restarting kernel"))

    def another_answers() -> bool:
        with contextlib.suppress(TimeoutError):  # what is sent while there is no kernel may be lost, as Jupyter has it
            found = page.until(page.send("import os; os.getpid()"), "execute_result", 1.0)
            return bool(found["data"]["text/plain"] != pid)
        return False

    assert until(another_answers, "the kernel that follows")
    page.close()
