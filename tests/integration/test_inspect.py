"""``inspect()`` on a real kernel: idle, busy, held by native code, with hostile variables; and without a trace."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import pytest

from daytona_kernel_interp import KernelInterpreter
from daytona_kernel_interp.interpreter.interpreter import CodeExecutionError, CodeInterpreterError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from daytona_kernel_interp.monitor.inspection import Inspection

HOSTILE = """
import os, sys, time, threading

class SlowRepr:
    def __repr__(self): time.sleep(3600)

class Exits:
    def __getattribute__(self, name): os._exit(3)
    def __repr__(self): raise SystemExit

class Endless(list):
    def __len__(self):
        while True: pass
    __iter__ = __getitem__ = __repr__ = __len__

class Meta(type):
    def __instancecheck__(cls, other): os._exit(4)
    __subclasscheck__ = __getattribute__ = __hash__ = __eq__ = __instancecheck__

class Liar:
    __class__ = property(lambda self: os._exit(5))
    shape = dtype = __dict__ = __class__

class RaisesLen(dict):
    def __len__(self): raise KeyboardInterrupt

slow, exits, endless, liar, broken = SlowRepr(), Exits(), Endless([1]), Liar(), RaisesLen(a=1)
Made = Meta("Made", (), {})
made = object.__new__(Made)
nested = [slow, {"k": exits}, (endless,)]
changing, stop = {}, False

def change():
    n = 0
    while not stop:
        n += 1
        changing[n % 1000] = n
        changing.pop((n * 7) % 1000, None)
        globals()[f"made_{n % 50}"] = n
        globals().pop(f"made_{(n * 3) % 50}", None)

thread = threading.Thread(target=change, daemon=True)
thread.start()
"""


HELD = "time.sleep(1.1)  # a summary a second\ntotal = sum(range(5 * 10**7))"


@pytest.fixture(scope="module")
def shared() -> Iterator[KernelInterpreter]:
    with KernelInterpreter({"llm_query": lambda prompt: prompt}, sandbox="local") as interpreter:
        yield interpreter


class Background:
    """A cell in a thread of its own."""

    def __init__(self, interpreter: KernelInterpreter, code: str) -> None:
        self.result: Any = None
        self._interpreter, self._code = interpreter, code
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        try:
            self.result = self._interpreter.execute(self._code)
        except CodeInterpreterError as error:
            self.result = error

    def join(self) -> Any:
        self._thread.join(30)
        assert not self._thread.is_alive()
        return self.result


def look_until(interpreter: KernelInterpreter, right: Callable[[Inspection], bool]) -> Inspection:
    """Look until what is seen is right: a cell needs time to begin, and the relay may be first on a slow machine."""
    for _ in range(300):
        found = interpreter.inspect()
        if right(found):
            return found
        threading.Event().wait(0.02)
    raise AssertionError(f"never seen; last was:\n{found}")


def test_variables_and_no_trace(shared: KernelInterpreter) -> None:
    """Variables are listed with their types; history, last value, execution count and output are unchanged."""
    shared.execute("x = 6 * 7\ndef f(a): return a\nx")
    before = shared.execute("_, len(Out), len(In), get_ipython().execution_count")
    outputs = shared.outputs
    for _ in range(5):
        found = shared.inspect()
        shared.inspect("x")
    assert (found["x"].type, found["x"].preview, found["x"].size) == ("int", "42", 28)
    assert (found["f"].kind, found["f"].preview) == ("function", "f(a)")
    assert {variable.name for variable in found.variables} == {"x", "f"}
    assert set(found.tools) == {"llm_query", "SUBMIT"}
    assert (found.running, found.answered_by) == (None, "kernel")
    assert shared.outputs == outputs
    after = shared.execute("_, len(Out), len(In), get_ipython().execution_count")
    assert [after[0][0], *[b - a for a, b in zip(before[1:], after[1:], strict=True)]] == [42, 1, 1, 1]


def test_one_variable_by_name(shared: KernelInterpreter) -> None:
    """A named variable has its full repr while no cell runs; an unknown name is reported."""
    shared.execute("class Point:\n    def __repr__(self): return 'Point(1,\\n 2)'\npoint = Point()")
    assert shared.inspect()["point"].preview == ""
    assert str(shared.inspect("point")) == "No cell runs.\npoint  Point\nPoint(1,\n 2)"
    with pytest.raises(CodeExecutionError, match="NameError: name 'nothing' is not defined"):
        shared.inspect("nothing")
    with pytest.raises(CodeInterpreterError, match="takes the name of one variable or no name, not 7"):
        shared.inspect(7)  # type: ignore[arg-type]


def test_a_large_variable_by_name_does_not_hold_the_kernel(shared: KernelInterpreter) -> None:
    """What would take C code seconds to show is cut by us, so the kernel itself answers; in a list it is cut too."""
    shared.execute("large = 'x' * 10**8; within = [1, [large] * 3]")
    for name, begin in (("large", "'xxx"), ("within", "[1, ['xxx")):
        found = shared.inspect(name)
        assert found.answered_by == "kernel"
        assert found[name].preview.startswith(begin)
        assert len(found[name].preview) < 20_000
    shared.execute("del large, within")


def test_private_names_are_counted(shared: KernelInterpreter) -> None:
    """A name with an underscore is not in the table, unless it is asked for."""
    shared.execute("_mine = 7; mine = 8")
    text = str(shared.inspect())
    assert "… and 1 private, of names that begin with an underscore." in text
    assert "_mine" not in text
    assert "\n_mine  int" in str(shared.inspect("_mine"))
    assert "\n_mine" in str(shared.inspect(private=True))
    shared.execute("del _mine")


def test_while_a_cell_waits_for_a_tool(shared: KernelInterpreter) -> None:
    """The running cell, its line, pending call and tasks are reported without a wait or a side effect."""
    asked, go_on = threading.Event(), threading.Event()

    def llm_query(prompt: str) -> str:
        asked.set()
        go_on.wait(30)
        return "answer"

    shared.tools["llm_query"] = llm_query
    cell = Background(
        shared,
        "import asyncio\nasync def fetch():\n    await asyncio.sleep(3600)\ntask = asyncio.ensure_future(fetch())\n"
        "await asyncio.sleep(0)\nanswer = llm_query('?')\ntask.cancel()\nprint(answer)",
    )
    assert asked.wait(30)
    found = look_until(
        shared, lambda found: found.answered_by == "kernel" and bool(found.running and found.running.calls)
    )
    go_on.set()
    assert cell.join() == "answer\n"
    assert found.running is not None
    assert (found.running.line, [call.name for call in found.running.calls]) == (6, ["llm_query"])
    assert found.running.tasks == ("fetch",)
    assert found.running.code.endswith("print(answer)")
    assert shared.inspect().running is None


def test_in_a_busy_loop(shared: KernelInterpreter, tmp_path: Path) -> None:
    """A loop in pure Python is looked into while it runs, and its variables change from look to look."""
    gate = tmp_path / "gate"
    cell = Background(
        shared, f"import os\nn = 0\nwhile not os.path.exists({str(gate)!r}) or n < 1:\n    n += 1\nprint('end')"
    )
    try:
        first = look_until(
            shared, lambda found: found.running is not None and any(v.name == "n" for v in found.variables)
        )
        count = int(first["n"].preview)
        look_until(shared, lambda found: found.answered_by == "kernel" and int(found["n"].preview) > count)
        assert shared.inspect("n").running is not None
    finally:
        gate.touch()
    assert cell.join() == "end\n"


def test_when_native_code_holds_the_kernel(shared: KernelInterpreter) -> None:
    """The relay answers: what was there, for how long nothing else runs, calls under way, processor and memory."""
    answered = threading.Event()
    shared.tools["llm_query"] = lambda prompt: answered.wait(30)
    shared.execute("before = 'seen'")
    look_until(shared, lambda found: found.answered_by == "kernel" and found.running is None)
    cell = Background(
        shared, f"import threading, time\nthreading.Thread(target=llm_query, args=('?',)).start()\n{HELD}"
    )
    found = look_until(shared, lambda found: found.answered_by == "relay")
    answered.set()
    assert found.running is not None
    assert found.running.code.endswith("sum(range(5 * 10**7))")
    assert [call.name for call in found.running.calls] == ["llm_query"]
    assert found["before"].preview == "'seen'"
    assert found.cpu_percent is not None
    assert found.memory_bytes is not None
    assert found.memory_bytes > 1 << 20
    assert found.age_s is not None
    cell.join()


def test_hostile_variables(shared: KernelInterpreter) -> None:
    """Hostile objects are listed with their type while a thread changes a dict and the namespace."""
    shared.execute(HOSTILE)
    for _ in range(20):
        found = look_until(shared, lambda found: found.answered_by == "kernel")
        types = {name: (found[name].type, found[name].preview) for name in ("slow", "exits", "endless", "liar", "made")}
        assert types == {
            **{"slow": ("SlowRepr", ""), "exits": ("Exits", ""), "endless": ("Endless", "")},
            **{"liar": ("Liar", ""), "made": ("Made", "")},
        }
        assert found["broken"].shape is None
        assert found["nested"].preview == "[<SlowRepr>, {'k': <Exits>}, (<Endless>,)]"
        assert found["Made"].preview == "class Made"
        assert found["changing"].type == "dict"
    shared.execute("stop = True; thread.join()")


def test_hostile_texts_by_name(shared: KernelInterpreter) -> None:
    """The repr of a named variable that hangs or raises is abandoned after a second; the kernel continues."""
    shared.execute("class Raises:\n    def __repr__(self): raise SystemExit\nraises = Raises()")
    assert shared.inspect("raises")["raises"].preview == ""
    shared.execute("import time\nclass Slow:\n    def __repr__(self): time.sleep(3600)\nslow = Slow()")
    slow = shared.inspect("slow")["slow"]
    assert (slow.type, slow.preview) == ("Slow", "")
    assert shared.execute("1 + 1") == 2


def test_a_thousand_variables(shared: KernelInterpreter) -> None:
    """A large namespace is bounded, and what was left out counted."""
    shared.execute("for i in range(1200): globals()[f'v{i}'] = [i]")
    found = look_until(shared, lambda found: found.answered_by == "kernel")
    assert len(found.variables) == 1000
    assert found.left_out >= 200
    assert found.variables[-1].name == "v1199"
    shared.execute("for i in range(1200): del globals()[f'v{i}']")


def test_without_a_session() -> None:
    """Before the start, and after the end, one sentence says so."""
    interpreter = KernelInterpreter(sandbox="local")
    with pytest.raises(CodeInterpreterError, match=r"inspect\(\): there is no session: call start\(\) first"):
        interpreter.inspect()


def test_a_kernel_that_died() -> None:
    """A dead kernel cannot be looked into; the error says how it ended."""
    with KernelInterpreter(sandbox="local") as interpreter:
        with pytest.raises(CodeInterpreterError):
            interpreter.execute("import os; os._exit(7)")
        with pytest.raises(CodeInterpreterError, match=r"inspect\(\): KernelDied: .*exit code 7"):
            interpreter.inspect()
