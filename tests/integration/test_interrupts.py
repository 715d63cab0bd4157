"""``interrupt()`` in all places of a cell: a tool, C code, an endless await, and transfers of large values."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import pytest

from daytona_kernel_interp import KernelInterpreter
from daytona_kernel_interp.interpreter.interpreter import CodeExecutionError, CodeInterpreterError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@pytest.fixture(scope="module")
def shared() -> Iterator[KernelInterpreter]:
    with KernelInterpreter(sandbox="local") as interpreter:
        interpreter.start()
        yield interpreter


@pytest.fixture
def interp(shared: KernelInterpreter) -> Iterator[KernelInterpreter]:
    shared.execute("kept = 'kept'")
    yield shared
    shared.tools.clear()
    assert shared.execute("kept") == "kept"


def interrupted(
    interpreter: KernelInterpreter, code: str, variables: dict[str, Any] | None, ready: Callable[[float], bool]
) -> str:
    """Run a cell, interrupt it repeatedly after ``ready``, and return the text of its error."""
    over = threading.Event()

    def interrupt() -> None:
        assert ready(20)
        while not over.wait(0.02):
            interpreter.interrupt()

    thread = threading.Thread(target=interrupt)
    thread.start()
    try:
        with pytest.raises(
            CodeExecutionError, match="KeyboardInterrupt: the cell was interrupted; variables kept"
        ) as e:
            interpreter.execute(code, variables)
        return str(e.value)
    finally:
        over.set()
        thread.join()


def at_once(_: float) -> bool:
    return True


WAITS = {
    "a tool": "hold()",
    "an async tool": "await hold.aio()",
    "tools in threads": "from concurrent.futures import ThreadPoolExecutor\n"
    "with ThreadPoolExecutor(2) as pool:\n    list(pool.map(lambda _: hold(), range(2)))",
    "an await that nothing ends": "import asyncio\nawait asyncio.Event().wait()",
    "an await that defies cancellation once": "import asyncio\ntry:\n    await asyncio.Event().wait()\n"
    "except asyncio.CancelledError:\n    await asyncio.Event().wait()",
    "a Python loop": "while True: pass",
    "a lock": "import threading\nlock = threading.Lock(); lock.acquire(); lock.acquire()",
    "C code that looks at signals": "import re\nre.match('(a+)+$', 'a' * 64 + 'b')",
    "C code that does not": "for _ in range(1000): sum(range(3_000_000))",
}


@pytest.mark.parametrize("name", WAITS)
def test_an_interrupt_reaches(interp: KernelInterpreter, name: str) -> None:
    """It ends as an interrupted cell with its prints; variables are kept and the next cell works."""
    inside, release = threading.Event(), threading.Event()

    def hold() -> None:
        inside.set()
        release.wait(30)

    interp.tools.update(inside=inside.set, hold=hold)
    first = "" if "hold" in name or "tool" in name else "inside()\n"
    try:
        if "threads" in name:
            # The pool's own end waits for its threads, which wait for the tool.
            threading.Timer(1.0, release.set).start()
        text = interrupted(interp, f"print('printed')\n{first}{WAITS[name]}", None, inside.wait)
    finally:
        release.set()
    assert "Output before the error:\nprinted\n" in text


# The kernel has said busy, and SIGINT goes unheard until the interrupt's other way, by the control channel, is there.
DEAF = """
import collections, signal, threading
kernel, told = get_ipython().kernel, threading.Event()
class Telling(collections.deque):
    def append(self, cell):
        super().append(cell)
        told.set()
def deaf(parent):
    del kernel._apply_preamble
    heard = signal.signal(signal.SIGINT, signal.SIG_IGN)
    told.wait(20)
    signal.signal(signal.SIGINT, heard)
    kernel._apply_preamble(parent)
kernel._cancelled, kernel._apply_preamble = Telling(maxlen=64), deaf
"""


def test_before_the_kernel_listens(interp: KernelInterpreter, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel ignores SIGINT briefly after its busy status; the cell still does not begin."""
    monkeypatch.setattr("daytona_kernel_interp.config.INTERRUPT_LADDER", (("interrupt", 60.0),))
    interp.execute(DEAF)
    interrupted(interp, "begun = True", None, at_once)
    assert interp.execute("'begun' in globals()") == "False"


def test_while_a_variable_is_decoded(interp: KernelInterpreter) -> None:
    """During the transfer of a large input, the cell does not begin, and the error reports that."""
    rows = [{"n": number, "text": str(number)} for number in range(400_000)]
    text = interrupted(interp, "ran = True\nimport time; time.sleep(60)", {"rows": rows}, at_once)
    assert "line 2" not in text
    assert interp.execute("'ran' in globals()") == "False"


def test_while_a_tools_result_is_decoded(interp: KernelInterpreter) -> None:
    """The interrupt ends the call; the tool is not called again, and later calls get their results."""
    gave, calls = threading.Event(), []

    def rows() -> list[dict[str, Any]]:
        calls.append(1)
        gave.set()
        return [{"n": number, "text": str(number)} for number in range(400_000)]

    interp.tools.update(rows=rows, add=lambda a, b: a + b)
    interrupted(interp, "big = rows()\nimport time; time.sleep(60)", None, gave.wait)
    assert len(calls) == 1
    assert interp.execute("add(1, 2)") == 3


def test_only_a_timeout_kills_what_nothing_reaches() -> None:
    """A call into C that never checks signals: after the timeout the kernel is killed, and the error has the reason."""
    code = "print('printed', flush=True)\nsum(range(10**12))"
    with KernelInterpreter(sandbox="local", execution_timeout=1.0) as interpreter:
        interpreter.start()
        with pytest.raises(CodeInterpreterError, match="nothing stopped the code, so the kernel was killed") as caught:
            interpreter.execute(code)
        assert "all variables are lost" in str(caught.value)
        assert "printed" in str(caught.value)


def test_without_a_cell_nothing_happens(interp: KernelInterpreter) -> None:
    """interrupt() has no effect before a start, between cells and after the end."""
    interp.interrupt()
    assert interp.execute("1 + 1") == 2
    other = KernelInterpreter(sandbox="local")
    other.interrupt()
    other.shutdown()
    other.interrupt()
