"""``KernelInterpreter`` before its first call: the constructor starts nothing and changes nothing in the process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("dspy")

import daytona_kernel_interp
from daytona_kernel_interp import KernelInterpreter
from daytona_kernel_interp.interpreter.dspy_compat import CodeInterpreterError

pytestmark = pytest.mark.dspy

ROOT = Path(daytona_kernel_interp.__file__).parent.parent


@pytest.mark.parametrize("name", ["missing", "", "__class__", "print"])
def test_a_tool_that_is_missing_is_an_error_of_dspy(name: str) -> None:
    """DSPy's own interpreters raise their error too, and no KeyError."""
    interpreter = KernelInterpreter({"f": len})
    with pytest.raises(CodeInterpreterError, match=rf"^invoke_tool\(\): there is no tool '{name}'\.$"):
        interpreter.invoke_tool(name, {})
    assert interpreter.invoke_tool("f", {"obj": "abc"}) == 3


def test_an_async_tool_without_a_session_is_an_error_of_dspy() -> None:
    """Its coroutine is closed: the suite fails on one that was never awaited."""

    async def tool() -> None: ...

    with pytest.raises(CodeInterpreterError, match="an async tool needs a session"):
        KernelInterpreter({"f": tool}).invoke_tool("f", {})


NOTHING_STARTED = """
import os, signal, sys, threading, time
import dspy
before = {signal.SIGTERM: signal.getsignal(signal.SIGTERM), signal.SIGINT: signal.getsignal(signal.SIGINT)}
threads = set(threading.enumerate())

from daytona_kernel_interp import DaytonaSandbox, KernelInterpreter
for sandbox in ("daytona", DaytonaSandbox(), "local", None):
    KernelInterpreter({"f": print}, [{"name": "a"}], sandbox=sandbox, record="never-written.ipynb")
KernelInterpreter.factory(sandbox="daytona")

begin = time.monotonic()
child = os.fork()
if child == 0:
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
assert time.monotonic() - begin < 1, "a fork waits for something"
assert not [name for name in sys.modules if name.partition(".")[0] in ("daytona", "daytona_api_client_async")]
assert set(threading.enumerate()) == threads
assert {number: signal.getsignal(number) for number in before} == before
assert not os.path.exists("never-written.ipynb")
print("nothing started")
"""


def test_the_constructor_starts_nothing(tmp_path: Path) -> None:
    """No thread, no import of Daytona's SDK, no signal handler, no file; a fork right after it returns at once."""
    env = {**os.environ, "PYTHONPATH": str(ROOT), "DAYTONA_API_KEY": "dtn_key"}
    command = [sys.executable, "-W", "ignore", "-c", NOTHING_STARTED]
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=50, check=False)
    assert (done.stdout, done.returncode) == ("nothing started\n", 0), done.stderr


HANDLERS = """
import signal
from daytona_kernel_interp import KernelInterpreter, KernelError, LocalSandbox

class Unstartable(LocalSandbox):
    async def start(self):
        raise KernelError("not here")

def start(interpreter):
    try:
        interpreter.start()
    except KernelError as error:
        assert str(error) == "not here"

interpreter = KernelInterpreter(sandbox=Unstartable())
for wrong in (lambda: interpreter.execute(5), lambda: interpreter.resume(), lambda: interpreter.session_id):
    try:
        wrong()
    except RuntimeError:
        pass
assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
def own(number, frame): pass
signal.signal(signal.SIGTERM, own)
start(interpreter)
assert signal.getsignal(signal.SIGTERM) is own
signal.signal(signal.SIGTERM, signal.SIG_DFL)
start(interpreter)
assert signal.getsignal(signal.SIGTERM) not in (signal.SIG_DFL, own)
print("as expected")
"""


def test_sigterm_is_handled_from_the_first_start_on() -> None:
    """Calls that start nothing leave it alone, and so does a start where the program has a handler of its own."""
    command = [sys.executable, "-W", "ignore", "-c", HANDLERS]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=50, check=False)
    assert (done.stdout, done.returncode) == ("as expected\n", 0), done.stderr
