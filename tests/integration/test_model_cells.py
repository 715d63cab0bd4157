"""Cells as models write them: what notebooks and scripts do, on a real kernel."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

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
