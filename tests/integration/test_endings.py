"""All ends of a cell: the documented error class and text, kept prints, and a working next cell."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import pytest

from daytona_kernel_interp import KernelInterpreter
from daytona_kernel_interp.client.channels import Channels
from daytona_kernel_interp.client.kernel_driver import KernelDriver
from daytona_kernel_interp.interpreter.interpreter import CodeExecutionError, CodeInterpreterError, FinalOutput

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.dspy


class Holder:
    """An interpreter that is replaced after a test has ended its kernel."""

    def __init__(self) -> None:
        self.interpreter = self._make()

    def _make(self) -> KernelInterpreter:
        return KernelInterpreter({"add": lambda a, b: a + b}, sandbox="local", execution_timeout=30)

    def renew(self) -> None:
        self.interpreter.shutdown()
        self.interpreter = self._make()


@pytest.fixture(scope="module")
def holder() -> Iterator[Holder]:
    holder = Holder()
    yield holder
    holder.interpreter.shutdown()


def check_next_cell(interpreter: KernelInterpreter) -> None:
    """Check prints, values, tools, SUBMIT, child processes and variables."""
    assert interpreter.execute("print('next'); add(1, 2)") == "next\n3"
    assert interpreter.execute("import os; os.system('echo child; echo err >&2');") in ("child\nerr\n", "err\nchild\n")
    assert interpreter.execute("((lambda: add(2, 2))(), len('abc'), type(In).__name__, _ is not None)") == (
        4,
        3,
        "list",
        True,
    )
    assert interpreter.execute("await add.aio(1, 1)") == 2
    assert interpreter.execute("SUBMIT(add(3, 4))") == FinalOutput({"output": 7})


@pytest.fixture
def interp(holder: Holder) -> Iterator[KernelInterpreter]:
    """Provide the shared interpreter, and check the next cell after the test."""
    holder.interpreter.execute("kept = 'kept'")
    try:
        yield holder.interpreter
        check_next_cell(holder.interpreter)
        assert holder.interpreter.execute("globals().get('kept', 'kept')") == "kept"
    except BaseException:
        holder.renew()
        raise


ENDS_IN_AN_ERROR = {
    "exit()": ("exit()", "SystemExit\n"),
    "quit": ("quit(3)", "SystemExit: 3\n"),
    "exit in an async cell": ("import asyncio\nawait asyncio.sleep(0)\nexit()", "SystemExit\n"),
    "sys.exit": ("import sys; sys.exit(3)", "SystemExit: 3\n"),
    "sys.exit with a text": ("import sys; sys.exit('bye')", "SystemExit: bye\n"),
    "sys.exit in an async cell": ("import asyncio, sys\nawait asyncio.sleep(0)\nsys.exit(3)", "SystemExit: 3\n"),
    "input": (
        "input('name? ')",
        "StdinNotImplementedError: input() is not available: this kernel has no interactive user",
    ),
    "getpass": ("import getpass; getpass.getpass()", "StdinNotImplementedError: getpass() is not available"),
    "breakpoint": ("breakpoint()", "StdinNotImplementedError: input() is not available"),
    "recursion": ("def f(): return f()\nf()", "RecursionError: maximum recursion depth exceeded"),
    "no memory": ("bytearray(1 << 60)", "MemoryError"),
    "its own BaseException": ("class Mine(BaseException): pass\nraise Mine('own')", "Mine: own\n"),
    "GeneratorExit": ("raise GeneratorExit('g')", "GeneratorExit: g\n"),
    "KeyboardInterrupt": ("raise KeyboardInterrupt('mine')", "KeyboardInterrupt: mine\n"),
    "SIGINT to itself": ("import signal; signal.raise_signal(signal.SIGINT)", "KeyboardInterrupt\n"),
    "KeyboardInterrupt in an async cell": (
        "import asyncio\nawait asyncio.sleep(0)\nraise KeyboardInterrupt('a')",
        "KeyboardInterrupt: a\n",
    ),
    "KeyboardInterrupt in a task": (
        "import asyncio\nasync def f(): raise KeyboardInterrupt('t')\nawait asyncio.gather(f())",
        "KeyboardInterrupt: t\n",
    ),
    "SystemExit in a task": (
        "import asyncio\nasync def f(): raise SystemExit(4)\nawait asyncio.create_task(f())",
        "SystemExit: 4\n",
    ),
    "a cancellation": ("import asyncio\nraise asyncio.CancelledError", "CancelledError\n"),
    "an error in a task": ("import asyncio\nasync def f(): 1/0\nawait asyncio.create_task(f())", "ZeroDivisionError: "),
    "a surrogate in the message": ("raise ValueError('m\\ud800')", "ValueError: m\\ud800\n"),
    "a surrogate in the class name": ("raise type('E\\ud800', (Exception,), {})('x')", "UnicodeEncodeError: "),
    "__str__ raises": (
        "class Bad(Exception):\n    def __str__(self): raise RuntimeError('no')\nraise Bad()",
        "Bad: <exception str() failed>\n",
    ),
    "__str__ exits": (
        "class Bad(Exception):\n    def __str__(self): raise SystemExit('no')\n    __repr__ = __str__\nraise Bad()",
        "Bad: <exception str() failed>\n",
    ),
    "__repr__ of the value raises": (
        "class V:\n    def __repr__(self): raise RuntimeError('no repr')\nV()",
        "RuntimeError: no repr\n",
    ),
    "a message of 3 MB": ("raise ValueError('x' * 3_000_000)", "ValueError: xxx"),
    "a warning as an error": (
        "import warnings\nwith warnings.catch_warnings():\n    warnings.simplefilter('error')\n    warnings.warn('w')",
        "UserWarning: w\n",
    ),
    "a chained error": ("try:\n    1/0\nexcept Exception as e:\n    raise KeyError('k') from e", "KeyError: 'k'\n"),
    "sys.stdout deleted": ("import sys\nsys.stdout.flush()\ndel sys.stdout", "AttributeError: "),
    "builtins ruined": (
        "import builtins\nprint(end='', flush=True)\n"
        "builtins.len = builtins.isinstance = builtins.str = builtins.Exception = builtins.print = None",
        "TypeError: ",
    ),
}


@pytest.mark.parametrize("name", ENDS_IN_AN_ERROR)
def test_errors_that_the_model_can_mend(interp: KernelInterpreter, name: str) -> None:
    """DSPy's recoverable class has ``<Type>: <message>`` first and prints last; the kernel stays alive."""
    code, begins = ENDS_IN_AN_ERROR[name]
    with pytest.raises(CodeExecutionError) as caught:
        interp.execute(f"print('printed')\n{code}")
    text = str(caught.value)
    assert text.startswith(begins)
    assert "Output before the error:\nprinted\n" in text
    assert "To exit:" not in text
    assert len(text) < 500_000
    text.encode("utf-8")


@pytest.mark.skipif(sys.version_info < (3, 11), reason="exception groups came with Python 3.11")
def test_exception_groups_show_every_part(interp: KernelInterpreter) -> None:
    """The traceback has all parts, starting at the code's lines, and prints are separate."""
    with pytest.raises(CodeExecutionError) as caught:
        interp.execute("print('printed')\nraise ExceptionGroup('g', [ValueError('a'), KeyError('b')])")
    text = str(caught.value)
    assert text.startswith("ExceptionGroup: g (2 sub-exceptions)\n  + Exception Group Traceback")
    assert "ValueError: a" in text
    assert "KeyError: 'b'" in text
    assert "interactiveshell.py" not in text
    assert text.endswith("Output before the error:\nprinted\n")


ENDS_WELL = {
    "a surrogate in a print": ("print('\\ud800')", "\\ud800\n"),
    "a surrogate on stderr": ("import sys; print('\\udfff', file=sys.stderr)", "\\udfff\n"),
    "a surrogate in the value": ("'\\ud800'", "'\\ud800'"),
    "a surrogate in a display": ("display('\\ud800')", "'\\ud800'\n"),
    "a warning": ("import warnings; warnings.warn('careful')", "UserWarning: careful"),
    "an error in a thread": (
        "import threading\nt = threading.Thread(target=lambda: 1/0); t.start(); t.join()",
        "ZeroDivisionError: division by zero",
    ),
    "sys.exit in a thread": ("import sys, threading\nt = threading.Thread(target=sys.exit); t.start(); t.join()", ""),
    "an error in __del__": ("class D:\n    def __del__(self): 1/0\nd = D(); del d", "ZeroDivisionError"),
    "an error in a forgotten task": (
        "import asyncio, gc\nasync def f(): 1/0\nt = asyncio.create_task(f())\nawait asyncio.sleep(0.01)\n"
        "del t; gc.collect();",
        "ZeroDivisionError",
    ),
    "standard input read": ("import sys; print(repr(sys.stdin.read()))", "''\n"),
    "stdout closed": ("import sys; sys.stdout.close(); sys.stderr.close()", ""),
    "fd 1 and 2 closed": ("import os, sys; sys.stdout.flush(); os.close(1); os.close(2)", ""),
    "fd 1 led elsewhere": ("import os; os.dup2(os.open('/dev/null', os.O_RDWR), 1);", ""),
    "sys.stdout replaced": ("import io, sys; sys.stdout = sys.stderr = io.StringIO(); print('lost')", ""),
    "sys.stdout None": ("import sys; sys.stdout = sys.stderr = None; print('lost')", ""),
    "sys.stdout no stream": ("import sys; sys.stdout = object()", ""),
    "sys.stdout.write replaced": ("import sys; sys.stdout.write = lambda text: None", ""),
    "print replaced": ("import builtins; builtins.print = lambda *a, **k: 1/0", ""),
    "sys.modules['dspy'] replaced": ("import sys; sys.modules['dspy'] = None", ""),
    "SUBMIT and a tool replaced": ("SUBMIT = add = lambda *a: 'mine'; print(SUBMIT(), add(1))", "mine mine\n"),
    "our names deleted": ("del SUBMIT, add", ""),
    "all names deleted": ("for n in list(globals()):\n    del globals()[n]", ""),
    "the namespace cleared": ("globals().clear()", ""),
    "the namespace replaced": ("get_ipython().user_ns = {}", ""),
    "%reset": ("%reset -f", ""),
    "In and Out deleted": ("del In, Out", ""),
    "IPython's hooks cleared": ("get_ipython().events.callbacks['post_run_cell'].clear()", ""),
    "the exception handler replaced": ("get_ipython().set_custom_exc((), None)", ""),
    "a low recursion limit": ("import sys; old = sys.getrecursionlimit(); sys.setrecursionlimit(old)", ""),
}


@pytest.mark.parametrize("name", ENDS_WELL)
def test_endings_that_are_none(interp: KernelInterpreter, name: str) -> None:
    """Prints are kept for any change of their stream, and removed objects are restored."""
    code, shown = ENDS_WELL[name]
    result = interp.execute(f"print('printed')\n{code}")
    assert "printed\n" in result
    assert shown in result
    assert "lost" not in result
    result.encode("utf-8")


def test_history_can_be_read_and_rewritten(interp: KernelInterpreter) -> None:
    """``In``, ``Out`` and ``_`` are IPython's until code assigns them, which is kept like any variable."""
    interp.execute("6 * 7")
    assert interp.execute("(_, Out[max(Out)], In[-2])") == (42, 42, "6 * 7")
    interp.execute("In[:] = []; Out.clear(); In = Out = _ = 5; _oh = None")
    assert interp.execute("(In, Out, _)") == (5, 5, 5)
    assert interp.execute("1 + 1") == 2
    interp.execute("del In, Out, _")
    interp.execute("%reset -f")


SUBMITS = {
    "in a thread": "import threading\nt = threading.Thread(target=lambda: SUBMIT('first')); t.start(); t.join()",
    "in finally": "try:\n    1/0\nfinally:\n    SUBMIT('first')",
    "under a bare except": "try:\n    SUBMIT('first')\nexcept:\n    print('swallowed')",
    "twice": "try:\n    SUBMIT('first')\nexcept BaseException: pass\nSUBMIT('second')",
    "then more code": "try:\n    SUBMIT('first')\nexcept BaseException: pass\nprint('more'); more = 1",
    "then an error": "try:\n    SUBMIT('first')\nexcept BaseException: pass\n1/0",
    "then exit": "try:\n    SUBMIT('first')\nexcept BaseException: pass\nexit()",
    "in an executor": "from concurrent.futures import ThreadPoolExecutor\n"
    "list(ThreadPoolExecutor(1).map(SUBMIT, ['first', 'second']))",
    "in a task": "import asyncio\nasync def f(): SUBMIT('first')\nawait asyncio.create_task(f())",
    "with stdout closed": "import sys; sys.stdout.close(); SUBMIT('first')",
}


@pytest.mark.parametrize("name", SUBMITS)
def test_the_first_submit_is_the_answer(interp: KernelInterpreter, name: str) -> None:
    """The first SUBMIT counts at any place, with any later code; prints are in the outputs."""
    assert interp.execute(f"print('printed')\n{SUBMITS[name]}") == FinalOutput({"output": "first"})
    assert interp.outputs[0].text.startswith("printed\n")  # type: ignore[union-attr]


def test_a_surrogate_in_an_answer_is_the_answers(interp: KernelInterpreter) -> None:
    """SUBMIT does not change its values."""
    assert interp.execute("SUBMIT('\\ud800')") == FinalOutput({"output": "\ud800"})


DEATHS = {
    "os._exit": ("import os; os._exit(3)", r"exit code 3"),
    "a segfault": ("import ctypes; ctypes.string_at(0)", r"signal SIGSEGV"),
    "an abort": ("import os; os.abort()", r"signal SIGABRT"),
    "SIGKILL to itself": ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", r"signal SIGKILL"),
    "SIGTERM to itself": ("import os, signal; os.kill(os.getpid(), signal.SIGTERM)", r"signal SIGTERM"),
}


@pytest.mark.parametrize("name", DEATHS)
def test_deaths_of_the_kernel_end_the_session(name: str) -> None:
    """The error has the terminal class, the cause and the prints; later calls raise the same."""
    code, how = DEATHS[name]
    with KernelInterpreter(sandbox="local") as interpreter:
        with pytest.raises(CodeInterpreterError, match=f"KernelDied: .*{how}.*all variables are lost") as caught:
            interpreter.execute(f"print('printed')\n{code}")
        assert "Output before the error:\nprinted\n" in str(caught.value)
        if CodeExecutionError is not CodeInterpreterError:
            assert not isinstance(caught.value, CodeExecutionError)
        with pytest.raises(CodeInterpreterError, match=r"cannot run code any more: .*all variables are lost"):
            interpreter.execute("1")


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_death_beside_a_message_neither_loses_nor_doubles_what_it_says(when: str) -> None:
    """The process ends right before or right after its text is in the journal."""
    code = f"""
import os, signal
from IPython import get_ipython
journal = type(get_ipython().kernel.parent.journal)
write = journal._write

def dying_write(self, record, *claim):
    last = b"last words" in record.payload
    if last and "{when}" == "before":
        os.kill(os.getpid(), signal.SIGKILL)
    write(self, record, *claim)
    if last:
        os.kill(os.getpid(), signal.SIGKILL)

journal._write = dying_write
print("first")
print("last words")
signal.pause()  # until its own output has ended it
"""
    with KernelInterpreter(sandbox="local") as interpreter:
        with pytest.raises(CodeInterpreterError, match="KernelDied") as caught:
            interpreter.execute(code)
        assert str(caught.value).endswith("Output before the error:\nfirst\nlast words\n")


def test_what_arrives_while_the_journal_is_read_is_told_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel's last output is in flight and in its journal; it appears once."""
    late: list[tuple[Channels, Any]] = []
    take, read = Channels.receive_iopub, KernelDriver._read_journal

    def take_later(self: Channels, message: Any) -> None:
        if message["content"].get("text") == "last words\n":
            late.append((self, message))
        else:
            take(self, message)

    async def read_and_receive(self: KernelDriver, *place: Any) -> Any:
        recovered = await read(self, *place)
        for channels, message in late:
            take(channels, message)
        return recovered

    monkeypatch.setattr(Channels, "receive_iopub", take_later)
    monkeypatch.setattr(KernelDriver, "_read_journal", read_and_receive)
    with KernelInterpreter(sandbox="local") as interpreter:
        with pytest.raises(CodeInterpreterError, match="KernelDied") as caught:
            interpreter.execute(
                "import os, signal\nprint('first', flush=True)\nprint('last words\\n', end='', flush=True)\n"
                "os.kill(os.getpid(), signal.SIGKILL)"
            )
        assert str(caught.value).endswith("Output before the error:\nfirst\nlast words\n")


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells and limits a process's address space so")
def test_running_out_of_memory_kills_nothing_but_the_cell() -> None:
    """A refused allocation is a MemoryError of the cell; the kernel stays alive."""
    with KernelInterpreter({"add": lambda a, b: a + b}, sandbox="local") as interpreter:
        interpreter.execute(
            "import resource\npages = int(open('/proc/self/statm').read().split()[0])\n"
            "resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + (256 << 20), -1))"
        )
        with pytest.raises(CodeExecutionError, match="MemoryError"):
            interpreter.execute("hoard = []\nwhile True:\n    hoard.append(bytearray(1 << 24))")
        interpreter.execute("del hoard")
        check_next_cell(interpreter)


def test_a_thread_that_prints_for_ever_disturbs_no_cell(interp: KernelInterpreter) -> None:
    """Output after a cell's end is delivered with the next cell, marked as late; its thread continues."""
    code = (
        "import threading\nstop, printed = threading.Event(), threading.Event()\n"
        "def loop():\n    while not stop.wait(0.001):\n        print('late', flush=True); printed.set()\n"
        "thread = threading.Thread(target=loop); thread.start(); print('printed\\n', end='')"  # one write
    )
    assert "printed\n" in interp.execute(code)
    results: list[Any] = [interp.execute("printed.wait(10); 'value';") for _ in range(3)]
    assert any("late\n" in result for result in results)
    interp.execute("stop.set(); thread.join()")
    interp.execute("pass")
