"""Cells as models write them: what notebooks and scripts do, on a real kernel."""

from __future__ import annotations

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
