"""Starts and ends of sessions: shutdown, a lost reference, a fork, Ctrl-C and the program's end leave no trace."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import textwrap
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest
from dspy.primitives.code_interpreter import CodeInterpreterError

from daytona_kernel_interp import KernelInterpreter, LocalSandbox
from daytona_kernel_interp.interpreter.dspy_compat import REOPENS, CodeExecutionError
from daytona_kernel_interp.runtime.event_loop import io_loop

if TYPE_CHECKING:
    from collections.abc import Iterator

# Marked individually: the end of a program does not depend on DSPy's version, and each such test takes seconds.
dspy_contract = pytest.mark.dspy

PROJECT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def interp() -> Iterator[KernelInterpreter]:
    with KernelInterpreter(sandbox="local") as interpreter:
        yield interpreter


def relay_pid(interpreter: KernelInterpreter) -> int:
    return int(interpreter.execute("import os; os.getppid()"))


def assert_gone(*pids: int) -> None:
    processes = [psutil.Process(pid) for pid in pids if psutil.pid_exists(pid)]
    _, alive = psutil.wait_procs(processes, timeout=10)
    assert not alive


@dspy_contract
def test_without_a_choice_the_error_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without key and sandbox, the error names the key, sandbox="local" and its meaning."""
    for name in ("DAYTONA_API_KEY", "DAYTONA_KERNEL_SANDBOX"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(CodeInterpreterError) as caught:
        KernelInterpreter().execute("1")
    for words in ("DAYTONA_API_KEY", 'sandbox="local"', "without isolation"):
        assert words in str(caught.value)


@pytest.mark.parametrize("sandbox", ["nowhere", 5, LocalSandbox])
def test_an_unknown_sandbox_is_refused(sandbox: Any) -> None:
    """The constructor's error names the argument and the valid values."""
    with pytest.raises((TypeError, ValueError), match=r"sandbox .*'local'"):
        KernelInterpreter(sandbox=sandbox)


def test_an_unknown_sandbox_of_the_environment_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """The start, which reads the environment, raises the error."""
    monkeypatch.setenv("DAYTONA_KERNEL_SANDBOX", "nowhere")
    with pytest.raises(CodeInterpreterError, match=r"There is no sandbox 'nowhere'.*LocalSandbox"):
        KernelInterpreter().start()


def test_the_environment_can_choose(monkeypatch: pytest.MonkeyPatch) -> None:
    """DAYTONA_KERNEL_SANDBOX=local is the same as the argument."""
    monkeypatch.setenv("DAYTONA_KERNEL_SANDBOX", "local")
    with KernelInterpreter() as interpreter:
        assert interpreter("1 + 1") == 2


@dspy_contract
def test_shutdown_ends_everything() -> None:
    """All processes have ended, and a second shutdown does nothing."""
    interpreter = KernelInterpreter(sandbox="local")
    interpreter.shutdown()  # before start: legal
    interpreter = KernelInterpreter(sandbox="local")
    interpreter.start()
    interpreter.start()
    pids = [relay_pid(interpreter), int(interpreter.execute("os.getpid()"))]
    interpreter.shutdown()
    interpreter.shutdown()
    assert_gone(*pids)


@dspy_contract
@pytest.mark.skipif(REOPENS, reason="DSPy before 3.3 uses an interpreter again after its shutdown")
async def test_after_shutdown_the_session_is_over() -> None:
    """From DSPy 3.3 on, start and execute raise DSPy's terminal class after a shutdown."""
    interpreter = KernelInterpreter(sandbox="local")
    interpreter.shutdown()
    for call in (interpreter.start, lambda: interpreter.execute("1")):
        with pytest.raises(CodeInterpreterError, match=r"it was shut down\. Create a new one\.") as caught:
            call()
        assert not isinstance(caught.value, CodeExecutionError)
    with pytest.raises(CodeInterpreterError, match="was shut down"):
        await interpreter.aexecute("1")


@dspy_contract
@pytest.mark.skipif(not REOPENS, reason="from DSPy 3.3 on a session that was shut down stays so")
def test_before_dspy_3_3_a_new_session_opens(caplog: pytest.LogCaptureFixture) -> None:
    """After a shutdown, also with a dead kernel, start and execute open a new session and log that."""
    with KernelInterpreter(sandbox="local") as interpreter:
        interpreter.execute("kept = 1")
        interpreter.shutdown()
        caplog.set_level("INFO", logger="daytona_kernel_interp")
        assert interpreter.execute("'kept' in globals()") == "False"
        assert "opening a new session after shutdown()" in caplog.text
        with pytest.raises(CodeInterpreterError, match="all variables are lost"):
            interpreter.execute("import os; os._exit(1)")
        with pytest.raises(CodeInterpreterError, match="all variables are lost"):
            interpreter.start()
        interpreter.shutdown()
        interpreter.start()
        assert interpreter.execute("1 + 1") == 2


@dspy_contract
def test_shutdown_ends_a_running_execute() -> None:
    """A shutdown from another thread ends execute with an error."""
    interpreter = KernelInterpreter(sandbox="local")
    running = threading.Event()
    interpreter.tools["running"] = running.set

    def shut() -> None:
        running.wait(20)
        interpreter.shutdown()

    thread = threading.Thread(target=shut)
    thread.start()
    with pytest.raises(CodeInterpreterError, match="shut down"):
        interpreter.execute("running()\nimport time\ntime.sleep(60)")
    thread.join()


@dspy_contract
def test_a_dead_kernel_is_terminal_and_says_so() -> None:
    """There is no silent restart: this call and each later one raise the error until shutdown."""
    with KernelInterpreter(sandbox="local") as interpreter:
        with pytest.raises(CodeInterpreterError, match=r"exit code 3.*all variables are lost") as caught:
            interpreter.execute("import os; os._exit(3)")
        if CodeExecutionError is not CodeInterpreterError:
            assert not isinstance(caught.value, CodeExecutionError)
        with pytest.raises(CodeInterpreterError, match="all variables are lost"):
            interpreter.execute("1")


@dspy_contract
def test_a_forgotten_interpreter_ends_its_sandbox() -> None:
    """Dropping the last reference ends relay and kernel."""
    interpreter = KernelInterpreter(sandbox="local")
    pids = [relay_pid(interpreter), int(interpreter.execute("os.getpid()"))]
    del interpreter
    gc.collect()
    assert_gone(*pids)


def test_a_forgotten_interpreter_may_be_collected_on_the_io_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    """The collector may run in any thread; the I/O loop must not wait for its own clean-up."""
    monkeypatch.setattr("daytona_kernel_interp.interpreter.session_access._CLOSE_S", 1000.0)
    interpreter = KernelInterpreter(sandbox="local")
    pids = [relay_pid(interpreter), int(interpreter.execute("os.getpid()"))]
    interpreter.tools["itself"] = interpreter.execute  # a reference cycle, which only the collector frees
    del interpreter

    async def collect() -> None:
        gc.collect()

    io_loop().run(collect())
    assert_gone(*pids)


def test_shutdown_on_the_loops_own_thread_starts_the_closing() -> None:
    """A ``__del__`` that runs there cannot wait: shutdown returns, and the session ends afterwards."""
    interpreter = KernelInterpreter(sandbox="local")
    relay = relay_pid(interpreter)

    async def collect() -> None:
        interpreter.shutdown()

    io_loop().run(collect())
    assert_gone(relay)
    with pytest.raises(CodeInterpreterError, match="it was shut down"):
        interpreter.execute("1")


@pytest.mark.parametrize("ending", ["pass", "raise SystemExit(3)", "1/0"])
def test_a_program_that_ends_leaves_nothing(ending: str, tmp_path: Path) -> None:
    """No process remains after a program without a shutdown, for any end."""
    script = f"""
        from daytona_kernel_interp import KernelInterpreter
        interpreter = KernelInterpreter(sandbox="local")
        print(interpreter.execute("import os; os.getppid()"), interpreter.execute("os.getpid()"), flush=True)
        {ending}
        """
    environment = {**os.environ, "PYTHONPATH": str(PROJECT), "TMPDIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, env=environment, check=False
    )
    assert_gone(*map(int, done.stdout.split()))
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(("dk-", "daytona-kernel"))] == []


def test_a_tool_that_never_returns_does_not_hold_the_program() -> None:
    """A timeout ends the cell, and the program can end while its tool's thread still waits."""
    script = """
        import threading
        from daytona_kernel_interp import KernelInterpreter
        interpreter = KernelInterpreter({"stuck": threading.Event().wait}, sandbox="local", execution_timeout=0.5)
        try:
            interpreter.execute("stuck()")
        except Exception as error:
            print(str(error)[:12])
        """
    environment = {**os.environ, "PYTHONPATH": str(PROJECT)}
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
        timeout=100,
    )
    assert done.stdout == "TimeoutError\n", done.stderr


def test_a_forked_child_does_not_touch_its_parents_sandbox(interp: KernelInterpreter) -> None:
    """The child gets an error; its end leaves the parent's kernel running."""
    interp.execute("kept = 9")
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            interp.execute("1")
        except CodeInterpreterError as error:
            os.write(write, str(error).encode())
        finally:
            interp.shutdown()
            os._exit(0)
    os.waitpid(pid, 0)
    assert b"in a forked process" in os.read(read, 1000)
    os.close(read)
    os.close(write)
    assert interp.execute("kept") == 9


def test_ctrl_c_interrupts_the_cell_and_the_caller(tmp_path: Path) -> None:
    """SIGINT at the host ends execute() with KeyboardInterrupt; the kernel and its variables are kept."""
    script = """
        import os, signal
        from daytona_kernel_interp import KernelInterpreter
        with KernelInterpreter({"ctrl_c": lambda: os.kill(os.getpid(), signal.SIGINT)}, sandbox="local") as interpreter:
            interpreter.start()
            try:
                interpreter.execute("kept = 4; ctrl_c(); import time; time.sleep(60)")
            except KeyboardInterrupt:
                print("interrupted", interpreter.execute("kept"))
        """
    environment = {**os.environ, "PYTHONPATH": str(PROJECT)}
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
        restore_signals=True,
    )
    assert done.stdout == "interrupted 4\n", done.stderr


def test_sigint_is_left_alone() -> None:
    """Using an interpreter changes no signal handler of the host."""
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with KernelInterpreter(sandbox="local") as interpreter:
        interpreter.execute("1")
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before
