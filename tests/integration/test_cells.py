"""Cells on a real kernel behind relay and tunnel: output, values, errors, IPython features."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from daytona_kernel_interp.client.outputs import DisplayData, ExecuteResult, StreamText
from daytona_kernel_interp.wire.comm import OutputField

if TYPE_CHECKING:
    from daytona_kernel_interp.client.outputs import Output
    from tests.integration.driver import Driver

pytestmark = pytest.mark.kernel


def test_variables_stay_between_cells(driver: Driver) -> None:
    """Variables are kept in the kernel between cells."""
    driver.run("kept = [1]")
    assert driver.value("kept.append(2); kept") == [1, 2]


def test_variables_are_set_anew_in_each_cell(driver: Driver) -> None:
    """Changes to an injected variable are gone after it is injected again."""
    assert driver.value("items.append(3); items", items=[1, 2]) == [1, 2, 3]
    assert driver.value("items", items=[1, 2]) == [1, 2]


@pytest.mark.parametrize("name", ["In", "Out", "_", "exit", "get_ipython", "json", "__dspy_host_token"])
def test_names_that_ipython_uses_are_ordinary_inputs(driver: Driver, name: str) -> None:
    """An input may have the name of an IPython variable."""
    try:
        assert driver.value(f"{name} + 1", **{name: 41}) == 42
    finally:
        driver.run(f"del {name}")


def test_prints_come_in_order_and_whole(driver: Driver) -> None:
    """20,000 flushed lines arrive exactly as printed."""
    text = driver.text("for i in range(20_000): print(i, flush=True)")
    assert text == "".join(f"{i}\n" for i in range(20_000))


def test_prints_before_an_error_are_kept(driver: Driver) -> None:
    """An exception discards no output."""
    cell = driver.run("import sys\nprint('out')\nprint('err', file=sys.stderr)\n1/0").cell
    assert sorted(cell.text().split()) == ["err", "out"]
    assert cell.error is not None
    assert cell.error.summary == "ZeroDivisionError: division by zero"


def test_traceback_shows_the_models_own_lines_only(driver: Driver) -> None:
    """Line numbers are those of the cell as sent, without frames of this package or IPython."""
    cell = driver.run("a = 1\ndef broken():\n    raise ValueError('no')\n\nbroken()").cell
    assert cell.error is not None
    assert "line 5" in cell.error.traceback
    assert "line 3" in cell.error.traceback
    assert "daytona_kernel_interp" not in cell.error.traceback
    assert "\x1b" not in cell.error.traceback


def test_a_tool_error_shows_no_frame_of_the_bridge(driver: Driver) -> None:
    """The traceback of a failed tool ends at the line that called it, and names the type once."""

    def lookup() -> None:
        raise KeyError("k")

    driver.tools["lookup"] = lookup
    cell = driver.run("lookup()").cell
    assert cell.error is not None
    assert cell.error.summary == "KeyError: 'k'"
    assert "bridge.py" not in cell.error.traceback
    assert cell.error.traceback.count("KeyError: 'k'") == 1


def test_source_is_sent_as_written(driver: Driver) -> None:
    """``inspect.getsource`` gives the model's own text, magics and top-level await work."""
    driver.run("def shown():\n    return 1  # as written")
    assert driver.value("import inspect; inspect.getsource(shown)") == "def shown():\n    return 1  # as written\n"
    assert driver.value("import asyncio\nawait asyncio.sleep(0)\n7") == 7
    assert "hi" in driver.text("!echo hi")
    assert driver.text("%pwd\n;") == ""
    assert "Wall time" in driver.text("%time x = 1")


def test_output_of_child_processes_belongs_to_the_cell(driver: Driver) -> None:
    """Output of a child to fd 1 before the cell's end is in its text, with complete characters."""
    code = "import subprocess, sys\nsubprocess.run([sys.executable, '-c', \"print('é' * 5000)\"]);"
    for _ in range(3):
        assert driver.text(code) == "é" * 5000 + "\n"


def test_last_expression_is_a_value_with_its_repr(driver: Driver) -> None:
    """The value keeps its type; the repr is Python's, on one line of any length."""
    cell = driver.run("list(range(100))").cell
    assert cell.value_text() == repr(list(range(100)))
    assert driver.value("(1, 'a', None)") == (1, "a", None)
    assert driver.value("5;") is None


def test_displays_are_typed_outputs(driver: Driver) -> None:
    """display() gives its representations by MIME type, between the prints around it."""
    outputs = driver.run(
        "from IPython.display import HTML\nprint('a'); display(HTML('<b>x</b>')); print('b')"
    ).cell.outputs
    assert [type(output) for output in outputs] == [StreamText, DisplayData, StreamText]
    assert isinstance(outputs[1], DisplayData)
    assert outputs[1].data["text/html"] == "<b>x</b>"


def test_lone_surrogates_do_not_lose_output(driver: Driver) -> None:
    """Lone surrogates are escaped, and all other output arrives."""
    assert driver.text("print('a'); print('\\ud800'); print('b')") == "a\n\\ud800\nb\n"


def test_large_output_is_cut_in_the_middle_and_kept_in_a_file(driver: Driver) -> None:
    """Head, tail and count are exact, and the file has all characters."""
    cell = driver.run("for i in range(100_000): print(i)", max_output_chars=1000).cell
    whole = "".join(f"{i}\n" for i in range(100_000))
    text = cell.text()
    assert text.startswith(whole[:500])
    assert text.endswith(whole[-500:])
    assert f"{len(whole) - 1000:,} characters left out" in text
    path = text.split("the whole is in ")[1].split(" ...]")[0]
    assert Path(path).read_text() == whole


def test_both_streams_share_one_cut(driver: Driver) -> None:
    """Prints and a child's stderr beyond the limit have one note with the exact count."""
    code = (
        "import subprocess, sys\nprint('a' * 5000, end='')\n"
        "subprocess.run([sys.executable, '-c', \"import sys; sys.stderr.write('b' * 5000)\"]);"
    )
    for _ in range(3):
        text = driver.run(code, max_output_chars=1000).cell.text()
        assert text.count("left out") == 1
        assert text.startswith("a" * 500)
        assert "[... 9,000 characters left out; the whole is in " in text
        assert text.endswith("b" * 500)


def test_output_limits_hold_for_child_processes_and_values(driver: Driver) -> None:
    """fd 1 and a huge repr cannot bypass the limit."""
    assert len(driver.run("!seq 1 100000", max_output_chars=1000).cell.text()) < 1300
    shown = driver.run("'x' * 1_000_000", max_output_chars=1000).cell.value_text()
    assert shown is not None
    assert len(shown) < 1300


def test_late_prints_head_the_next_cell(driver: Driver, tmp_path: Path) -> None:
    """Output of a thread after its cell's end is delivered with the next cell, separate from its text."""
    go, done = tmp_path / "go", tmp_path / "done"
    os.mkfifo(go)
    os.mkfifo(done)
    driver.run(
        "import threading\n"
        "def late():\n    open(go).read(); print('late', flush=True); open(done, 'w').close()\n"
        "threading.Thread(target=late).start()",
        variables={"go": str(go), "done": str(done)},
    )
    go.write_text("go")
    assert done.read_text() == ""
    result = driver.run("print('own')")
    assert (result.background_output, result.cell.text()) == ("late\n", "own\n")
    assert driver.run("pass").background_output == ""


def test_output_streams_while_the_cell_runs(driver: Driver) -> None:
    """on_output gets the first print while the cell is still waiting for a tool."""
    arrived = threading.Event()
    seen: list[Any] = []

    def on_output(output: Output) -> None:
        seen.append(output)
        arrived.set()

    driver.tools["wait_for_output"] = lambda: arrived.wait(10)
    assert driver.run("print('first'); wait_for_output()", on_output=on_output).cell.value_text() == "True"
    assert isinstance(seen[0], StreamText)
    assert isinstance(seen[-1], ExecuteResult)


@pytest.mark.parametrize(
    "code",
    [
        "import time\ntime.sleep(60)",
        "while True: pass",
        "import asyncio\nawait asyncio.sleep(60)",
        "import asyncio\nawait asyncio.Event().wait()",
        "async def spin():\n    while True: pass\nawait spin()",
        "import signal\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\nwhile True: pass",
        "import threading\nthreading.Event().wait()",
        "import subprocess\nsubprocess.run(['sleep', '60'])",
    ],
)
def test_a_timeout_interrupts_and_keeps_variables(driver: Driver, code: str) -> None:
    """The cell ends soon after its timeout for any wait, with its output and all variables."""
    driver.run("import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\nkept = 'kept'")
    started = time.monotonic()
    result = driver.run(f"print('before', flush=True)\n{code}", timeout_s=1.0)
    assert result.timed_out
    assert result.interrupted is not None
    assert "before" in result.cell.text()
    assert time.monotonic() - started < 10  # far below the code's own 60 s
    assert driver.value("kept") == "kept"


def test_interrupt_from_another_thread_ends_the_cell(driver: Driver) -> None:
    """interrupt() ends a cell that waits for a tool; the tool's late reply is ignored."""
    waiting, release = threading.Event(), threading.Event()

    def slow() -> str:
        waiting.set()
        release.wait(20)
        return "too late"

    def interrupt() -> None:
        waiting.wait(10)
        driver.interrupt()

    driver.tools["slow"] = slow
    thread = threading.Thread(target=interrupt)
    thread.start()
    result = driver.run("print('x'); slow()")
    thread.join()
    assert result.interrupted == "interrupt"
    assert result.cell.text() == "x\n"
    release.set()
    assert driver.value("1 + 1") == 2


def test_an_interrupt_that_does_not_get_through_is_waited_out(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    """interrupt() does not kill the kernel: code that ignores it runs to its end, with its result."""
    ladder = tuple((rung, 0.05) for rung in ("interrupt", "exception", "interrupt"))
    monkeypatch.setattr("daytona_kernel_interp.config.INTERRUPT_LADDER", ladder)
    driver.tools["interrupt"] = driver.interrupt
    code = (
        "import signal\nsignal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])\n"
        "try:\n    interrupt()\n    sum(range(30_000_000))\nexcept KeyboardInterrupt:\n    pass\n"
        "signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])"
    )
    driver.run(code)
    assert driver.value("1 + 1") == 2


def test_a_malformed_preamble_is_an_error_of_the_cell(driver: Driver) -> None:
    """A kernel that cannot read its preamble reports an error and does not run the code."""
    from daytona_kernel_interp.runtime.event_loop import io_loop

    run = driver.session.kernel.run("ran = True", [b"{"], driver.session.tools, timeout_s=10, max_output_chars=None)
    cell = io_loop().run(run).cell
    assert cell.error is not None
    assert cell.error.name == "PreambleError"
    assert driver.value("'ran' in globals()") is False


def test_code_cannot_break_its_own_kernels_plumbing(own_driver: Driver) -> None:
    """Streams replaced, environment cleared, hooks and builtins shadowed: later cells and tool calls still work."""
    own_driver.tools["add"] = lambda a, b: a + b
    own_driver.run(
        "import sys, os, io, builtins, threading\n"
        "sys.stdout = sys.stderr = io.StringIO()\nos.environ.clear()\nthreading.excepthook = None\n"
        "values = json = comm = len = isinstance = print = get_ipython = None\nsys.modules.pop('comm', None)"
    )
    assert own_driver.value("add(1, 2)") == 3
    cell = own_driver.run("SUBMIT(add(2, 2))").cell
    assert cell.submission is not None


def test_submit_fields_reach_the_host(driver: Driver) -> None:
    """One end-to-end SUBMIT; its forms are in test_submit.py."""
    cell = driver.run("SUBMIT('x', n=1)", fields=[OutputField("answer", "str"), OutputField("n", "int")]).cell
    assert cell.submission is not None
    assert cell.error is None


@pytest.mark.parametrize(
    ("code", "error"),
    [
        ("exit()", "SystemExit"),
        ("import asyncio\nasync def f(): raise SystemExit(4)\nawait asyncio.create_task(f())", "SystemExit"),
        ("import asyncio\nasync def f(): raise KeyboardInterrupt\nawait asyncio.gather(f())", "KeyboardInterrupt"),
        ("input()", "StdinNotImplementedError"),
        ("raise ValueError('\\ud800')", "ValueError"),
        ("class Bad(Exception):\n    def __str__(self): raise RuntimeError\nraise Bad", "Bad"),
        ("import builtins\nbuiltins.print = builtins.len = None", "TypeError"),
        ("import os, sys\nsys.stdout.close(); sys.stdout = None; os.close(1)", None),
        ("globals().clear()", None),
        ("get_ipython().events.callbacks['post_run_cell'].clear()", None),
    ],
)
def test_what_a_cell_broke_is_mended(driver: Driver, code: str, error: str | None) -> None:
    """On all versions of Python and ipykernel, the cell's prints are kept, and the next cell works."""
    driver.tools["add"] = lambda a, b: a + b
    # Flushed, because broken builtins also break the thread that publishes it 20 ms later.
    cell = driver.run(f"print('printed', flush=True)\n{code}").cell
    assert (cell.error.name if cell.error else None) == error
    assert "printed\n" in cell.text()
    assert driver.text("import os\nprint('next', flush=True); os.system('echo child');") == "next\nchild\n"
    assert driver.value("(add(1, 2), len('abc'))") == (3, 3)
