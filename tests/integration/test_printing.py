"""What cells print on a real kernel: whichever way it takes, it is one text with one limit."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from daytona_kernel_interp.client.outputs import StreamText
from tests import examples

if TYPE_CHECKING:
    from tests.integration.driver import Driver

pytestmark = pytest.mark.kernel

LIMIT = 20_000
WAYS = {
    "print": "print(text, end='')",
    "file descriptor": "sys.stdout.flush(); os.write(1, text.encode())",
    "C code": "sys.stdout.flush(); libc.puts(text[:-1].encode()); libc.fflush(None)",
    "child process": "sys.stdout.flush(); subprocess.run(['cat'], input=text.encode())",
    "stderr": "print(text, end='', file=sys.stderr)",
}
_IMPORTS = "import ctypes, os, subprocess, sys\nlibc = ctypes.CDLL(None)\n"


@pytest.mark.parametrize("way", WAYS)
def test_every_way_has_the_one_budget(driver: Driver, way: str) -> None:
    """Half of the limit is printed, the rest comes another way: one note, whose count is right."""
    text = "".join(f"{number}\n" for number in range(10_000))
    lines = "".join(f"before {number}\n" for number in range(1000))
    shown = driver.run(
        f"{_IMPORTS}print(lines, end='')\n{WAYS[way]};",
        variables={"text": text, "lines": lines},
        max_output_chars=LIMIT,
    ).cell.text()
    whole = lines + text
    assert shown.startswith(whole[: LIMIT // 2])
    assert shown.endswith(whole[-LIMIT // 2 :])
    assert re.findall(r"([\d,]+) characters left out", shown) == [f"{len(whole) - LIMIT:,}"]


@pytest.mark.parametrize("way", WAYS)
def test_a_redrawn_line_counts_once_whichever_way(driver: Driver, way: str) -> None:
    """Ten thousand states of a bar take the place of one, and a model reads that one."""
    text = "".join(f"\r{number:5}|{'#' * 40}" for number in range(10_000)) + "\n"
    shown = driver.run(
        f"{_IMPORTS}print('begin')\n{WAYS[way]};", variables={"text": text}, max_output_chars=1000
    ).cell.text()
    assert shown == f"begin\n 9999|{'#' * 40}\n"


def test_a_bar_of_tqdm_counts_once_and_can_be_watched(driver: Driver) -> None:
    """A bar with its own display beside prints; observers receive its updates."""
    pytest.importorskip("tqdm", reason="tqdm is not installed in this environment")
    watched: list[str] = []
    code = (
        "from tqdm import tqdm\nimport time\nfor i in tqdm(range(3000), mininterval=0): pass\n"
        "for i in tqdm(range(3), mininterval=0): time.sleep(0.11)"
    )
    cell = driver.run(code, max_output_chars=1000, on_output=lambda out: watched.append(getattr(out, "text", ""))).cell
    first, second, rest = cell.text().split("\n")
    assert (first[:15], second[:15], rest) == ("100%|██████████", "100%|██████████", "")
    assert sum(bool(re.search(r"[1-9]/3 ", text)) for text in watched) > 1


def test_a_bar_beside_prints_is_one_line(driver: Driver) -> None:
    """The usual loop: tqdm around prints. A model reads the prints, and the bar once."""
    pytest.importorskip("tqdm", reason="tqdm is not installed in this environment")
    code = (
        "from tqdm import tqdm\nimport time\n"
        "for i in tqdm(range(4), mininterval=0): print(f'line {i}', flush=True); time.sleep(0.12)"
    )
    shown = driver.run(code, max_output_chars=1000).cell.text()
    lines = shown.split("\n")
    assert [line for line in lines if line.startswith("line ")] == [f"line {i}" for i in range(4)]
    assert shown.count("|") == 2
    assert "100%|██████████| 4/4" in shown


def test_a_long_line_is_cut_and_its_neighbours_are_not(driver: Driver) -> None:
    """With a count, and the name of the file that has it whole."""
    text = driver.run("print('a')\nprint('x' * 1_000_000)\nprint('b')", max_output_chars=200_000).cell.text()
    first, line, last, _ = text.split("\n")
    found = re.fullmatch(
        r"(x+)\[\.\.\. 950,000 characters of this line left out; the whole is in (\S+) \.\.\.\](x+)", line
    )
    assert (first, last) == ("a", "b")
    assert found is not None
    assert len(found[1]) == len(found[3]) == 25_000
    with open(found[2], encoding="utf-8") as file:
        assert file.read() == f"a\n{'x' * 1_000_000}\nb\n"


@settings(examples.at_most(25), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    text=st.text(st.sampled_from("aé€\U0001f600"), min_size=1, max_size=2000),
    cuts=st.lists(st.integers(1, 1100), min_size=1, max_size=6),
)
def test_characters_survive_the_edges_of_writes_and_reads(driver: Driver, text: str, cuts: list[int]) -> None:
    """A character's bytes may come in two writes, and a read may end within it."""
    code = (
        "import itertools, os\ndata, place = text.encode(), 0\nfor size in itertools.cycle(cuts):\n"
        "    if place >= len(data): break\n    os.write(1, data[place : place + size]); place += size"
    )
    assert driver.run(code, variables={"text": text, "cuts": cuts}).cell.text() == text


def test_what_was_printed_is_not_hoarded(driver: Driver) -> None:
    """200 MB of different lines leave the kernel as small as it was: neither IPython nor the budget keeps them."""
    status = "int(open('/proc/self/statm').read().split()[1]) * 4096 >> 20"
    before = driver.value(status)
    driver.run(
        "for i in range(200): print(str(i) * (1 << 20 if i < 10 else 1 << 18), flush=True)", max_output_chars=1000
    )
    assert driver.value(status) - before < 60


def test_late_prints_have_a_limit(driver: Driver) -> None:
    """A thread that goes on after its cell sends little more."""
    code = (
        "import threading\nover = threading.Event()\n"
        "def work():\n    over.wait()\n    for i in range(20_000): print('late ' * 20)\n    done.set()\n"
        "done = threading.Event()\nthreading.Thread(target=work).start()\n"
        "get_ipython().events.register('post_run_cell', lambda *_: over.set())"
    )
    driver.run(code, max_output_chars=LIMIT)
    result = driver.run("done.wait()", max_output_chars=LIMIT)
    text = result.background_output + result.cell.text()
    assert len(text) < 10_500 + 2 * LIMIT
    assert all(isinstance(output, StreamText) or output for output in result.cell.outputs)
