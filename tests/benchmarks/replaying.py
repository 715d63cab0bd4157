"""Recordings read and replayed without a kernel, beside the run that was recorded."""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import dspy

from daytona_kernel_interp import KernelInterpreter, Recording, ReplayInterpreter
from daytona_kernel_interp.client.outputs import StreamText
from daytona_kernel_interp.demo.script import ScriptedStep, rule_based_lm, scripted_lm
from tests.transcripts import LLM_QUERY, SEARCH, Maker, write

if TYPE_CHECKING:
    from collections.abc import Callable

_CELLS = 2000
_STEPS = [
    ScriptedStep("Look.", "print(len(text))"),
    ScriptedStep("Ask.", "answers = llm_query_batched([f'q{i}' for i in range(20)])\nprint(answers)"),
    ScriptedStep("Sum.", "total = sum(map(len, answers))\nprint(total)"),
    ScriptedStep("Answer.", "SUBMIT(answer=str(total))"),
]


class Line(NamedTuple):
    """One row: what was measured, what it is held against, and whether that was reached."""

    what: str
    here: str
    peer: str
    target: str = ""
    reached: bool | None = None

    def __str__(self) -> str:
        verdict = "" if self.reached is None else "reached" if self.reached else "**missed**"
        return f"| {self.what} | {self.here} | {self.peer} | {self.target} | {verdict} |"


def run(quick: bool) -> str:
    """Measure, and return the table."""
    rounds = 2 if quick else 5
    with tempfile.TemporaryDirectory(prefix="dki-bench-") as folder:
        lines = [*_cells(Path(folder), rounds), _rlm(Path(folder), rounds)]
    head = "| replaying a recording | here | live, same run | target | |\n|---|---|---|---|---|"
    return "\n".join([head, *map(str, lines)])


def _cells(folder: Path, rounds: int) -> list[Line]:
    """A recording of many cells with a large input, tools offered, a call and an output in each."""
    maker, text = Maker(), "x" * 100_000
    variables = {"text": text, "n": 5}
    for number in range(_CELLS):
        maker.add(
            f"print(search('query {number}'))",
            value=f"answer {number}\n",
            variables=variables,
            tools=[SEARCH, LLM_QUERY],
            calls=[maker.call("search", f"query {number}", result=f"answer {number}")],
            outputs=[StreamText("stdout", f"answer {number}\n")],
        )
    path = folder / "cells.ipynb"
    write(maker.transcript(), path)

    def search(query: str, limit: int = 5) -> str:
        raise AssertionError("no tool is called")

    def through() -> None:
        with ReplayInterpreter(recording, {"search": search, "llm_query": lambda prompt: prompt}) as interpreter:
            for number in range(_CELLS):
                interpreter.execute(f"print(search('query {number}'))", variables)

    load_s = _median(rounds, lambda: Recording.load(path))
    recording = Recording.load(path)
    rate = _CELLS / _median(rounds, through)
    with KernelInterpreter({"search": lambda query: query}, sandbox="local") as live:
        live.execute("1")
        began = time.perf_counter()
        for number in range(100):
            live.execute(f"print(search('query {number}'))", variables)
        live_rate = 100 / (time.perf_counter() - began)
    return [
        Line(f"load {_CELLS:,} cells", f"{load_s:.2f} s", "", "<= 2 s", load_s <= 2),
        Line(
            f"{_CELLS:,} cells through ReplayInterpreter",
            f"{rate:,.0f} a second",
            f"{live_rate:,.0f} a second",
            ">= 1,000 a second",
            rate >= 1000,
        ),
    ]


def _rlm(folder: Path, rounds: int) -> Line:
    path, text = folder / "run.ipynb", "x" * 100_000
    build: Any = dspy.RLM  # its types know the keyword on some versions only

    def call(interpreter: Any, lm: Any) -> None:
        rlm = build("text -> answer", interpreter=interpreter, sub_lm=rule_based_lm("echo", str))
        with dspy.context(lm=lm, callbacks=[Recording.callback()]):
            rlm(text=text)

    with KernelInterpreter(sandbox="local", record=path) as interpreter:
        began = time.perf_counter()
        call(interpreter, scripted_lm(_STEPS))
        live_s = time.perf_counter() - began
    recording = Recording.load(path)
    call(ReplayInterpreter(recording), recording.lm())  # imports
    replay_s = _median(rounds, lambda: call(ReplayInterpreter(recording), recording.lm()))
    what = f"a whole dspy.RLM call of {len(_STEPS)} steps, models and cells from the recording"
    return Line(what, f"{replay_s * 1000:.0f} ms", f"{live_s * 1000:.0f} ms with a scripted model")


def _median(rounds: int, work: Callable[[], object]) -> float:
    times = []
    for _ in range(rounds):
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    return statistics.median(times)
