"""Cells as models write them: what notebooks and scripts do, on a real kernel."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest

from daytona_kernel_interp.codec import values
from daytona_kernel_interp.wire.comm import OutputField

if TYPE_CHECKING:
    from tests.integration.driver import Driver

pytestmark = pytest.mark.kernel


@pytest.mark.parametrize(
    ("code", "shown"),
    [
        ("len?", "Return the number of items in a container."),
        ("def doubled(x):\n    return 2 * x  # by two\ndoubled??", "return 2 * x  # by two"),
        ("?str.j*", "str.join"),
        ("%prun sum(range(5))", "function calls"),
        ("%pycat shown.py", "shown = 1"),
        ("%quickref", "%magic"),
        ("from IPython.core.page import page; page('paged')", "paged"),
        ("page('one\\ntwo', start=1)", "two"),
        ("page({'text/plain': 'of a bundle', 'text/html': '<b>x</b>'})", "of a bundle"),
        ("missing_name?", "Object `missing_name` not found."),
    ],
)
def test_the_text_of_the_pager_is_output(driver: Driver, code: str, shown: str) -> None:
    """What IPython would show in its pager is printed."""
    driver.run("import pathlib\nfrom IPython.core.page import page\npathlib.Path('shown.py').write_text('shown = 1');")
    text = driver.text(code)
    assert shown in text
    assert "\x1b" not in text


_ARGPARSE = """
import argparse
parser = argparse.ArgumentParser(); parser.add_argument("--size", type=int, default=3)
print(parser.parse_args().size)
"""
_UNITTEST = """
import unittest
class Sums(unittest.TestCase):
    def test_a_sum(self): self.assertEqual(1 + 1, 2)
unittest.main({})
"""
_GETOPT = "import getopt, sys\nprint(getopt.getopt(sys.argv[1:], 'x'))"


@pytest.mark.parametrize(
    ("code", "shown"),
    [
        ("import sys; print(sys.argv)", "['']\n"),
        (_ARGPARSE, "3\n"),
        (_UNITTEST.format("exit=False") + "del Sums", "Ran 1 test"),
        (_UNITTEST.format("") + "del Sums", "Ran 1 test"),
        (_GETOPT, "([], [])\n"),
    ],
)
def test_a_script_has_no_arguments(driver: Driver, code: str, shown: str) -> None:
    """A cell does not see the command line of the kernel."""
    text = driver.text(code)
    assert shown in text
    assert "error" not in text.lower()


@pytest.mark.parametrize(
    ("code", "shown"),
    [
        ("sys.stdout.reconfigure(encoding='utf-8'); print('é')", "é\n"),
        ("sys.stdout.reconfigure(line_buffering=True, errors='replace'); print('a')", "a\n"),
        ("sys.stdout.buffer.write('é'.encode()); sys.stdout.buffer.flush()", "é"),
        ("for byte in 'é€'.encode(): _ = sys.stdout.buffer.write(bytes([byte]))", "é€"),
        ("sys.stdout.buffer.write(b'\\xff'); sys.stderr.buffer.write(memoryview(b'b'));", "\\xffb"),
        ("w = io.TextIOWrapper(sys.stdout.buffer, encoding='utf-8'); w.write('w\\n'); w.close(); print('z')", "w\nz\n"),
        ("w = codecs.getwriter('utf-8')(sys.stdout.buffer); w.write('ü'); w.flush()", "ü"),
        ("print(sys.stdout.mode, sys.stderr.mode, sys.stdout.encoding.lower())", "w w utf-8\n"),
        ("print(sys.stdout.errors, sys.stdout.isatty(), sys.stderr.isatty())", "backslashreplace False False\n"),
        ("print(sys.stdout.fileno(), sys.stderr.fileno())", "1 2\n"),
        ("subprocess.run(['echo', 'child'], stdout=sys.stdout)", "child\n"),
        ("os.write(sys.stdout.fileno(), b'raw\\n');", "raw\n"),
        ("csv.writer(sys.stdout).writerow([1, 2])", "1,2\r\n"),
    ],
)
def test_streams_are_text_files(driver: Driver, code: str, shown: str) -> None:
    """``sys.stdout`` has the attributes and methods of Python's own, and what goes through them is output."""
    cell = driver.run(f"import codecs, csv, io, os, subprocess, sys\n{code}\nNone").cell
    assert cell.error is None, cell.error
    assert cell.text().replace("\r", "") == shown.replace("\r", "")


def test_a_stream_refuses_what_is_not_text(driver: Driver) -> None:
    """A wrong type or option raises TypeError, as with Python's own streams."""
    for code in ("sys.stdout.write(b'x')", "sys.stdout.buffer.write('x')", "sys.stdout.reconfigure(colour=True)"):
        cell = driver.run(f"import sys\n{code}").cell
        assert cell.error is not None
        assert cell.error.name == "TypeError"


TITLE = (OutputField("title", "str"),)
_KEEP = """
import functools
alias = SUBMIT
partial = functools.partial(SUBMIT)
def default(value, submit=SUBMIT): submit(value)
def closure():
    submit = SUBMIT
    return lambda value: submit(value)
closed = closure()
kept = {"submit": SUBMIT}
"""


@pytest.mark.parametrize("call", ["default(5)", "alias(5)", "partial(5)", "closed(5)", "kept['submit'](5)"])
def test_a_submit_that_code_has_kept_answers_for_the_current_fields(driver: Driver, call: str) -> None:
    """A SUBMIT of earlier output fields takes those of the cell that calls it."""
    driver.run(_KEEP, fields=(OutputField("answer", "int"),))
    cell = driver.run(call, fields=TITLE).cell
    assert cell.submission is not None
    assert values.loads(cell.submission) == {"title": 5}


@pytest.mark.parametrize("call", ["alias(answer=5)", "partial(1, 2)", "alias()"])
def test_a_submit_that_code_has_kept_refuses_other_fields(driver: Driver, call: str) -> None:
    """What does not fit the current fields is an error of the cell, which names the call that is expected."""
    driver.run(_KEEP, fields=(OutputField("answer", "int"),))
    cell = driver.run(call, fields=TITLE).cell
    assert cell.submission is None
    assert cell.error is not None
    assert "Expected: SUBMIT(title: str)" in cell.error.message


_LATER = """
import asyncio, threading
go, done, caught = threading.Event(), threading.Event(), []
def late():
    try:
        SUBMIT('late')
    except BaseException as error:
        caught.append(f'{type(error).__name__}: {error}')
    done.set()
def wait_and_submit():
    go.wait(); late()
"""


@pytest.mark.parametrize(
    ("leave", "later"),
    [
        ("threading.Thread(target=wait_and_submit, daemon=True).start()", "go.set(); done.wait(20)"),
        (
            "import concurrent.futures as f; pool = f.ThreadPoolExecutor(); _ = pool.submit(wait_and_submit)",
            "go.set(); done.wait(20)",
        ),
        (
            "async def task():\n    while not go.is_set(): await asyncio.sleep(0.001)\n    late()\n"
            "kept = asyncio.get_running_loop().create_task(task())",
            "go.set()\nwhile not done.is_set(): await asyncio.sleep(0.001)",
        ),
        (
            "timer = threading.Timer(0.001, wait_and_submit); timer.start()",
            "go.set(); done.wait(20)",
        ),
        (
            "back = asyncio.get_running_loop().call_later(0.05, late)",
            "while not done.is_set(): await asyncio.sleep(0.001)",
        ),
    ],
)
def test_a_submit_of_a_cell_that_has_ended(driver: Driver, leave: str, later: str) -> None:
    """A thread, timer, task or callback of an earlier cell does not answer for a later one."""
    driver.run(f"{_LATER}\n{leave}", fields=TITLE)
    cell = driver.run(later, fields=TITLE).cell
    assert cell.submission is None
    assert driver.value("caught") == ["RuntimeError: SUBMIT() has no effect: the cell that made this call has ended"]


@pytest.mark.parametrize("call", ["FINAL('x')", "FINAL_VAR('x')", "def f(): FINAL(1)\nf()", "print(FINAL)"])
def test_the_submit_of_other_implementations(driver: Driver, call: str) -> None:
    """The NameError of FINAL and FINAL_VAR says what the function is called here."""
    cell = driver.run(call, fields=TITLE).cell
    assert cell.error is not None
    assert cell.error.name == "NameError"
    assert cell.error.message.endswith("is not defined: use SUBMIT(...)")
    assert "use SUBMIT(...)" in cell.error.traceback


def test_submit_has_annotations(driver: Driver) -> None:
    """``inspect`` and ``typing`` show the types of the output fields."""
    code = "import inspect; (str(inspect.signature(SUBMIT)), SUBMIT.__annotations__ == {'title': str})"
    cell = driver.run(code, fields=TITLE).cell
    assert cell.value is not None
    assert values.loads(cell.value) == ("(title: str)", True)


@pytest.mark.parametrize(
    ("code", "shown"),
    [
        ("!cat", ""),
        ("!read -p 'Proceed (y/n)? ' x; echo \"code $?\"", "code 1\n"),
        ("!python3 -c 'print(input())' 2>&1 | tail -1", "EOFError: EOF when reading a line\n"),
        ("!printf '1\\n2\\n' > lines.txt; less lines.txt; more lines.txt | tail -1", "1\n2\n2\n"),
        ("!echo {1..3}; [[ ab == a* ]] && echo yes; source /dev/null", "1 2 3\nyes\n"),
        ("text = !echo a; echo b >&2\nprint(text, text.n == 'a\\nb')", "['a', 'b'] True\n"),
        ("def f():\n    word = 'local'\n    !echo {word} $word\nf()", "local local\n"),
        ("!exit 3\nprint(_exit_code)", "3\n"),
        ("%system echo {1..2}\nNone", ""),
        ("print('a')\n!echo b; echo c >&2; echo d\nprint('e')", "a\nb\nc\nd\ne\n"),
        ("!python3 -c 'import sys; print(1); print(2, file=sys.stderr); print(3)'", "1\n2\n3\n"),
        ("!(sleep 60 &); echo at once", "at once\n"),
        ("!printf '\\303'; sleep 0.1; printf '\\251'", "é"),
        ("%%bash\necho {1..3}; read x || echo end", "1 2 3\nend\n"),
    ],
)
def test_shell_lines(driver: Driver, code: str, shown: str) -> None:
    """A shell line reads the end of its input at once, is a line of bash, and prints in order."""
    cell = driver.run(code).cell
    assert cell.error is None, cell.error
    assert cell.text() == shown


@pytest.mark.parametrize("line", ["!sleep 61", "x = !sleep 61", "!trap '' INT; sleep 61", "!sleep 61 | cat"])
def test_a_shell_line_is_interrupted(driver: Driver, line: str) -> None:
    """The timeout ends the command with its children, and the lines after it do not run."""
    result = driver.run(f"{line}\nreached = True", timeout_s=0.3)
    assert result.timed_out
    assert driver.value("'reached' in globals()") is False
    left = "import psutil; [p.cmdline() for p in psutil.Process().children(True) if '61' in p.cmdline()]"
    assert driver.value(left) == []


def test_a_shell_line_in_the_background_is_refused(driver: Driver) -> None:
    """The error says what to use instead."""
    cell = driver.run("!sleep 1 &").cell
    assert cell.error is not None
    assert "subprocess.Popen" in cell.error.message


def _error(driver: Driver, code: str) -> str:
    """Run a cell that must fail, and return the text of its error."""
    error = driver.run(code).cell.error
    assert error is not None
    for other in ("\x1b", "IPython/core", "ipykernel", "daytona_kernel_interp", "codeop"):
        assert other not in f"{error.traceback}{error.message}"
    return f"{error.summary}\n{error.traceback}"


@pytest.mark.parametrize(
    ("code", "parts"),
    [
        ("def f(): return 1/0\nf()", ["In[", "line 2, in <module>", "line 1, in f"]),
        ("open('missing')", ["FileNotFoundError", "    open('missing')"]),
        ("exec('x = (')", ["SyntaxError: '(' was never closed", 'File "<string>", line 1']),
        ("return 5", ["'return' outside function", "Cell In["]),
        (
            "import pathlib; pathlib.Path('broken.py').write_text('x = = 1')\nimport broken",
            ["x = = 1", "invalid syntax"],
        ),
        ("raise ValueError('\\x1b[31mred\\x1b[0m')", ["ValueError: red"]),
        ("%colors linux\n1/0", ["ZeroDivisionError: division by zero"]),
        ("%pdb on\n1/0", ["ZeroDivisionError: division by zero"]),
        ("import asyncio\nawait asyncio.sleep(0)\n{}['k']", ["KeyError: 'k'", "line 3"]),
        ("import json; json.loads('{')", ["JSONDecodeError: Expecting property name", "decoder.py"]),
        ("try: 1/0\nexcept Exception as e: raise KeyError(1) from e", ["direct cause", "KeyError: 1", "division"]),
        ("class R:\n    def __repr__(self): raise ValueError('in repr')\nR()", ["in __repr__", "ValueError: in repr"]),
        ("import sys; sys.exit(3)", ["SystemExit: 3"]),
        ("x = 1 +* 2", ["x = 1 +* 2", "invalid syntax"]),
        ("%run missing.py", ["missing.py"]),
    ],
)
def test_an_error_shows_the_code_only(driver: Driver, code: str, parts: list[str]) -> None:
    """The text has the lines of cells and libraries, without colours and without frames of the kernel."""
    try:
        text = _error(driver, code)
    finally:
        driver.run("%colors nocolor\n%pdb off")
    for part in parts:
        assert part in text


@pytest.mark.skipif(sys.version_info < (3, 11), reason="Python 3.11 has the markers")
def test_an_error_marks_the_expression(driver: Driver) -> None:
    """The failing expression of a line is marked, as in Python."""
    assert "    x = 2 + 1/0\n            ~^~\n" in _error(driver, "x = 2 + 1/0")


@pytest.mark.parametrize(
    "code",
    [
        "def f(n): return f(n + 1)\nf(0)",
        "def a(n): return b(n + 1)\ndef b(n): return a(n + 1)\na(0)",
        "class C:\n    def __getattr__(self, name): return self.missing\nC().x",
        f"def f(n):\n    return f(n + 1) + {' + '.join(str(10**8 + n) for n in range(40))}\nf(0)",
        "import json\nx = []\nfor _ in range(100_000): x = [x]\njson.dumps(x)",
    ],
)
def test_an_endless_recursion_is_short(driver: Driver, code: str) -> None:
    """Repeated frames are collapsed, and the middle of many frames is left out."""
    text = _error(driver, code)
    assert "RecursionError" in text
    assert len(text) <= 4_000


@pytest.mark.parametrize(
    ("code", "text"),
    [
        ("1\n'two'\n[3]", "1\n'two'\n[3]\n"),
        ("print('a')\n1\nprint('b')\nNone\n3", "a\n1\nb\n3\n"),
        ("for i in range(3): i", "0\n1\n2\n"),
        ("x = 1\nimport asyncio\nx\nawait asyncio.sleep(0, 'slept')", "1\n'slept'\n"),
    ],
)
def test_all_values_of_a_cell(driver: Driver, code: str, text: str) -> None:
    """With ``ast_node_interactivity = 'all'`` each value is shown in its place."""
    choose = (
        "from IPython.core.interactiveshell import InteractiveShell\nInteractiveShell.ast_node_interactivity = {!r}"
    )
    driver.run(choose.format("all"))
    try:
        cell = driver.run(code).cell
        assert (cell.text(), cell.value_text(), cell.value) == (text, None, None)
    finally:
        driver.run(choose.format("last_expr"))
    assert driver.value("1\n2") == 2


@pytest.mark.parametrize("form", ["html", "png", "markdown", "latex"])
def test_a_display_that_fails_leaves_the_text_of_the_value(driver: Driver, form: str) -> None:
    """The value's repr is in the text although another representation of it raises an error."""
    code = (
        f"class R:\n    def __repr__(self): return 'VALUE-7'\n    def _repr_{form}_(self): raise ValueError('no')\nR()"
    )
    cell = driver.run(code).cell
    assert cell.text() == "VALUE-7\n"
    assert cell.error is not None
    assert cell.error.summary == "ValueError: no"


def test_the_name_open_is_pythons(driver: Driver) -> None:
    """A patch of ``builtins.open`` reaches the cell, also after ``%reset``."""
    patched = "from unittest import mock\nwith mock.patch('builtins.open', return_value=7): print(open('x'))"
    assert driver.text(patched) == "7\n"
    driver.run("%reset -f")
    assert driver.text(patched) == "7\n"


def test_a_byte_order_mark_is_ignored(driver: Driver) -> None:
    """Code may begin with U+FEFF."""
    assert driver.value("\ufeff1 + 1") == 2
    assert driver.text("\ufeff!echo a") == "a\n"
    assert driver.text("\ufeff%%bash\necho b") == "b\n"
    assert "line 2" in _error(driver, "\ufeffx = 1\n1/0")


def test_connect_info_is_refused(driver: Driver) -> None:
    """The key of the session is not shown."""
    cell = driver.run("%connect_info").cell
    assert cell.error is not None
    assert "key" not in cell.text()


def test_code_that_stops_the_event_loop(driver: Driver) -> None:
    """The kernel goes on after ``loop.stop()``, in a cell, a task or a callback."""
    stop = "import asyncio\nloop = asyncio.get_running_loop()\n"
    for code in ("loop.stop()", "loop.stop()\nawait asyncio.sleep(0.01)", "loop.call_later(0.01, loop.stop);"):
        driver.run(stop + code)
        assert driver.value("await asyncio.sleep(0.02, 1 + 1)") == 2


@pytest.mark.parametrize("broken", ["lambda *a, **k: '{}'", "lambda *a, **k: None", "lambda *a, **k: 1/0"])
def test_a_patched_json(driver: Driver, broken: str) -> None:
    """A replaced ``json.dumps`` does not reach the kernel's own messages."""
    driver.tools["doubled"] = lambda x: 2 * x
    code = f"import json\nkept, json.dumps = json.dumps, {broken}\nprint('a')\nx = 1\nx"
    assert driver.text(code) == "a\n"
    assert driver.text("print('b')") == "b\n"
    assert driver.value("json.dumps = kept\nx") == 1


def test_the_first_cell_is_number_one(own_driver: Driver) -> None:
    """The first cell of the code is ``In[1]``."""
    assert "Cell In[1], line 1" in _error(own_driver, "1/0")


_FORK = "import os, sys\npid = os.fork()\nif pid == 0:\n    {}\nprint(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))"


@pytest.mark.parametrize(
    ("child", "shown"),
    [
        ("print('child'); sys.exit(3)", "child\n3\n"),
        ("sys.exit()", "0\n"),
        ("sys.exit('why')", "why\n1\n"),
        ("print('no newline', end=''); sys.stderr.write(' here'); sys.exit(0)", "no newline here0\n"),
        ("os._exit(4)", "4\n"),
        ("exit(5)", "5\n"),
    ],
)
def test_a_forked_child_ends(driver: Driver, child: str, shown: str) -> None:
    """A child of a bare ``os.fork()`` ends as a script does, and its parent goes on."""
    cell = driver.run(_FORK.format(child)).cell
    assert cell.error is None, cell.error
    assert sorted(cell.text().replace(" here", "")) == sorted(shown.replace(" here", ""))
    assert driver.value("1 + 1") == 2


@pytest.mark.parametrize("before", ["", "import asyncio; await asyncio.sleep(0)\n"])
def test_a_forked_child_that_falls_off_the_end_of_the_cell(driver: Driver, before: str) -> None:
    """The child ends with 0, or with 1 and a traceback after an error; it is no second kernel."""
    for line, code in (("", 0), ("if not pid: 1/0", 1)):
        wait = "if pid: status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])"
        text = driver.text(f"{before}import os\npid = os.fork()\n{wait}\n{line}")
        assert driver.value("status") == code
        assert ("ZeroDivisionError: division by zero" in text) == (code == 1)


_POOL = "import multiprocessing\ncontext = multiprocessing.get_context('fork')\n"


@pytest.mark.parametrize("call", ["doubled(1)", "SUBMIT('x')", "pool.map(doubled, [1, 2])", "pool.map(SUBMIT, 'ab')"])
def test_tools_in_a_forked_child(driver: Driver, call: str) -> None:
    """A tool and SUBMIT say that they stay with the cell, also when a pool is to call them."""
    driver.tools["doubled"] = lambda x: 2 * x
    run = call if "pool" in call else "pool.apply(called)"
    cell = driver.run(f"{_POOL}def called(): {call}\nwith context.Pool(1) as pool: {run}", fields=TITLE).cell
    assert cell.submission is None
    assert cell.error is not None
    assert "can be called from the cell and its threads, not from a child process" in cell.error.message


def test_tools_are_not_pickled_by_value(driver: Driver) -> None:
    """What copies a function with all it refers to gets a sentence; by name, a tool is itself."""
    driver.tools["doubled"] = lambda x: 2 * x
    assert driver.value("import pickle; pickle.loads(pickle.dumps([doubled, doubled.aio])) == [doubled, doubled.aio]")
    error = driver.run("pickle.dumps(doubled.__closure__[1].cell_contents)\n").cell.error
    assert error is not None
    assert "stay in the process of the cell" in error.message


_CHATTER = """
import threading, time
stop = False
def chatter():
    count = 0
    while not stop:
        count += 1; print('.', end='')
        if count % 50 == 0: time.sleep(0.0005)
threads = [threading.Thread(target=chatter, daemon=True) for _ in range(2)]
[thread.start() for thread in threads]
"""
_FORKS = """
import os
hung = 0
for _ in range(10):
    pids = []
    for _ in range(20):
        pids.append(os.fork())
        if pids[-1] == 0:
            {}; os._exit(0)
    deadline = time.monotonic() + 10
    for pid in pids:
        while os.waitpid(pid, os.WNOHANG) == (0, 0):
            if time.monotonic() > deadline: hung += 1; os.kill(pid, 9); break
            time.sleep(0.0005)
stop = True
[thread.join() for thread in threads]
"""


@pytest.mark.parametrize(
    "child",
    [
        "print('c', flush=True)",
        "sys.stderr.write('c\\n')",
        "display('c')",
        "threading.Thread(target=print, args='c').run()",
    ],
)
def test_forked_children_print_beside_printing_threads(driver: Driver, child: str) -> None:
    """No child waits for a lock that a thread of the parent held, and every line of theirs arrives."""
    # Without a limit: the threads print any amount, and the note on text left out has letters of its own.
    text = driver.run(_CHATTER + "import sys\n" + _FORKS.format(child), max_output_chars=None).cell.text()
    assert driver.value("hung") == 0
    assert text.count("c") == 200


_MAIN = """
import asyncio, time
async def main(n=1):
    await asyncio.sleep(0.001)
    return n
async def forever():
    try:
        await asyncio.sleep(60)
    finally:
        print('cleaned up')
def helper():
    return asyncio.run(main(2))
async def two():
    return await asyncio.gather(main(1), main(2))
"""


@pytest.mark.parametrize(
    ("code", "value"),
    [
        ("asyncio.run(main())", 1),
        ("asyncio.get_event_loop().run_until_complete(main(3))", 3),
        ("loop = asyncio.new_event_loop()\nx = loop.run_until_complete(main(4)); loop.close()\nx", 4),
        ("helper()", 2),
        ("asyncio.run(two())", [1, 2]),
        ("await main()\nhelper()", 2),
        ("x = asyncio.run(main())\nx + await main()", 2),
        ("[asyncio.run(main(n)) for n in range(3)]", [0, 1, 2]),
        ("async def called(): return await doubled.aio(4)\nasyncio.run(called())", 8),
        ("async def called(): return doubled(5)\nasyncio.run(called())", 10),
        (
            "import threading\nx = []\nt = threading.Thread(target=lambda: x.append(helper())); t.start(); t.join()\nx",
            [2],
        ),
        ("if __name__ == '__main__': x = asyncio.run(main(6))\nx", 6),
        ("from asyncio import run\nrun(main(7), debug=True)", 7),
        ("async def group(): return await asyncio.wait_for(main(8), 5)\nasyncio.run(group())", 8),
    ],
)
def test_scripts_that_run_an_event_loop(driver: Driver, code: str, value: object) -> None:
    """``asyncio.run`` and ``run_until_complete`` give the result that a top-level await would give."""
    driver.tools["doubled"] = lambda x: 2 * x
    driver.run(_MAIN)
    assert driver.value(code) == value
    assert driver.value("import asyncio\nawait asyncio.sleep(0, 1)") == 1


@pytest.mark.skipif(sys.version_info < (3, 11), reason="asyncio.Runner is new in Python 3.11")
def test_a_runner(driver: Driver) -> None:
    """``asyncio.Runner`` works, also with two calls."""
    driver.run(_MAIN)
    assert driver.value("with asyncio.Runner() as runner: x = [runner.run(main(1)), runner.run(main(2))]\nx") == [1, 2]


@pytest.mark.parametrize(
    ("code", "part"),
    [
        ("asyncio.get_event_loop().run_until_complete(asyncio.gather(main(), main()))", "use `await main()`"),
        ("asyncio.get_event_loop().run_until_complete(asyncio.ensure_future(main()))", "use `await main()`"),
        ("asyncio.get_running_loop().run_until_complete(asyncio.Future())", "use `await main()`"),
        ("async def inner(): asyncio.run(main())\nasyncio.run(inner())", "cannot be called from a running event loop"),
        ("asyncio.run(5)", "coroutine was expected"),
        ("async def bad(): raise KeyError('own')\nasyncio.run(bad())", "own"),
    ],
)
def test_an_event_loop_that_cannot_run(driver: Driver, code: str, part: str) -> None:
    """The error says what to do, and errors of the coroutine are the cell's own."""
    driver.run(_MAIN)
    cell = driver.run(code).cell
    assert cell.error is not None
    assert part in cell.error.message
    assert driver.value("asyncio.run(main())") == 1


@pytest.mark.parametrize(
    "code",
    [
        "asyncio.run(forever())",
        "await main()\nasyncio.run(forever())",
        "asyncio.get_event_loop().run_until_complete(forever())",
        "async def busy():\n    while True: pass\nprint('cleaned up')\nasyncio.run(busy())",
    ],
)
def test_an_event_loop_of_a_cell_is_interrupted(driver: Driver, code: str) -> None:
    """The timeout ends it as it ends an await, and the kernel goes on."""
    driver.run(_MAIN)
    result = driver.run(code, timeout_s=0.3)
    assert result.timed_out
    assert "cleaned up" in result.cell.text()
    assert driver.value("asyncio.run(main())") == 1


def test_a_submit_in_an_event_loop_of_a_cell(driver: Driver) -> None:
    """SUBMIT in a coroutine that ``asyncio.run`` runs ends the cell."""
    driver.run(_MAIN)
    cell = driver.run(
        "async def answer():\n    await main()\n    SUBMIT('x')\nasyncio.run(answer())", fields=TITLE
    ).cell
    assert cell.submission is not None
    assert values.loads(cell.submission) == {"title": "x"}


_LOG = "import logging\nlogging.basicConfig(format='log %(message)s', level=logging.INFO, force=True)\n"


@pytest.mark.parametrize(
    ("step", "shown"),
    [
        ("print('out', i); logging.info(i)", "out {i}\nlog {i}\n"),
        ("print('out', i); os.system(f'echo child {i}')", "out {i}\nchild {i}\n"),
        ("print('out', i); os.system(f'echo child {i} >&2'); print('end')", "out {i}\nchild {i}\nend\n"),
        ("sys.stderr.write(f'err {i}\\n'); os.write(1, b'raw\\n'); print('out', i)", "err {i}\nraw\nout {i}\n"),
        ("print('out'); display(i); sys.stderr.write('err\\n'); display(-1)", "out\n{i}\nerr\n-1\n"),
        ("os.system('echo child'); display(i)", "child\n{i}\n"),
        ("print(i)\n    try: 1/0\n    except ZeroDivisionError: print('bad', file=sys.stderr)", "{i}\nbad\n"),
        ("print('out')\n    !echo line {i}; echo err >&2", "out\nline {i}\nerr\n"),
        (
            "pid = os.fork()\n    if not pid: print('child', i, flush=True); os._exit(0)\n"
            "    os.waitpid(pid, 0); print('out')",
            "child {i}\nout\n",
        ),
    ],
)
def test_output_comes_in_the_order_in_which_it_was_made(driver: Driver, step: str, shown: str) -> None:
    """Prints, stderr, logging, displays and the output of child processes keep their order."""
    text = driver.text(f"{_LOG}import os, sys\nfor i in range(15):\n    {step}")
    assert text == "".join(shown.format(i=i) for i in range(15))


def test_very_many_changes_of_stream_lose_nothing(driver: Driver) -> None:
    """Beyond the changes that keep their order, the cell is not slowed down, and all text is there."""
    text = driver.text("import sys\nfor i in range(4_000): print('out', i); sys.stderr.write(f'err {i}\\n')")
    lines = text.splitlines()
    assert lines[:4] == ["out 0", "err 0", "out 1", "err 1"]
    assert len(text) == sum(len(f"out {i}\nerr {i}\n") for i in range(4_000))
    assert [i for i in range(4_000) if f"err {i}\n" not in text] == []


@pytest.mark.parametrize(
    "source",
    [
        "class Point:\n    x: int = 0\n",
        "class Shape:\n    def area(self):\n        return 1  # as written\n",
        "@dataclasses.dataclass\nclass Row:\n    name: str\n    size: int = 3\n",
        "class Child(dict):\n    pass\n",
        "class Colour(enum.Enum):\n    RED = 1\n",
    ],
)
def test_the_source_of_a_class(driver: Driver, source: str) -> None:
    """``inspect.getsource`` finds the class in its cell, also after it was defined again elsewhere."""
    name = source.split("class ")[1].split(":")[0].split("(")[0]
    driver.run(f"import dataclasses, enum, inspect\n\n{source}")
    assert driver.value(f"inspect.getsource({name})") == source
    driver.run(f"class {name}:\n    changed = True\n")
    assert driver.value(f"inspect.getsource({name})") == f"class {name}:\n    changed = True\n"


def test_a_class_without_source(driver: Driver) -> None:
    """Where there is no source, the error is Python's."""
    driver.run("import inspect\nexec('class Made: pass')")
    for name in ("Made", "int"):
        error = driver.run(f"inspect.getsource({name})").cell.error
        assert error is not None
        assert error.name in ("OSError", "TypeError")


_ALARM = """
import signal, sys
rang = 0
def ring(*_):
    global rang
    rang += 1
    {}
previous = signal.signal(signal.SIGALRM, ring)
signal.setitimer(signal.ITIMER_REAL, 0.02, 0.02)
while rang < 10: print('out')
signal.setitimer(signal.ITIMER_REAL, 0)
signal.signal(signal.SIGALRM, previous)
"""


@pytest.mark.parametrize("handler", ["print('rang')", "sys.stderr.write('rang\\n')", "print('rang', flush=True)"])
def test_a_signal_handler_prints(driver: Driver, handler: str) -> None:
    """A handler that prints in the middle of a print waits for no lock of the interrupted one."""
    cell = driver.run(f"{_ALARM.format(handler)}\nNone").cell
    assert cell.error is None, cell.error
    assert driver.value("rang") == 10
