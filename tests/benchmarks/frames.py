"""Frames in, and out through SUBMIT; with pyarrow on both sides, and in processes that cannot import it.

``python -m tests.benchmarks.frames ROUNDS`` measures the latter and prints it as JSON.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from tests.access import access_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from daytona_kernel_interp import KernelInterpreter

ROWS = 1_000_000
_NO_ARROW = "import sys\nsys.modules['pyarrow'] = None\n"


class Times(NamedTuple):
    """Medians in milliseconds."""

    inward: float
    outward: float


def pandas_frame(dtype: str) -> Any:
    """Return a frame of 4 int64, 3 float64, 2 columns of texts of ``dtype``, and a time with a zone."""
    import numpy as np
    import pandas as pd

    random = np.random.default_rng(0)
    texts = [f"text {number}" for number in range(ROWS)]
    return pd.DataFrame(
        {
            **{f"int{n}": random.integers(0, 1000, ROWS) for n in range(4)},
            **{f"float{n}": random.random(ROWS) for n in range(3)},
            **{f"text{n}": pd.Series(texts, dtype=dtype) for n in range(2)},
            "time": pd.date_range("2020", periods=ROWS, freq="s", tz="Europe/Berlin"),
        }
    )


def polars_frame() -> Any:
    """Return the like of it."""
    import polars as pl

    return pl.from_pandas(pandas_frame("object"))


def measure(frame: Any, rounds: int, *, arrow: bool) -> Times:
    """Send a frame into a kernel anew, and take it back by SUBMIT; check that it is the same."""
    from daytona_kernel_interp import KernelInterpreter

    with KernelInterpreter(sandbox="local", output_fields=[{"name": "frame"}]) as interpreter:
        interpreter.execute(f"{'' if arrow else _NO_ARROW}import {type(frame).__module__.partition('.')[0]}")
        inward = median(rounds, partial(_send_anew, interpreter, frame, arrow))
        outward = median(rounds, partial(interpreter.execute, "SUBMIT(frame)"))
        assert interpreter.get("frame").equals(frame)
    return Times(inward, outward)


def without_arrow(rounds: int) -> Times:
    """Return the times of a pandas frame where neither side has pyarrow."""
    done = subprocess.run([sys.executable, "-m", __name__, str(rounds)], stdout=subprocess.PIPE, check=True)
    return Times(*json.loads(done.stdout))


def median(rounds: int, work: Callable[[], object]) -> float:
    """Return how many milliseconds it takes."""
    times = []
    for _ in range(rounds):
        begin = time.perf_counter()
        work()
        times.append((time.perf_counter() - begin) * 1000)
    return sorted(times)[rounds // 2]


def _send_anew(interpreter: KernelInterpreter, frame: Any, arrow: bool) -> None:
    access_of(interpreter).sent_inputs.set_cached_keys(
        ["pyarrow"] if arrow else []
    )  # as if the kernel had no value yet
    interpreter.execute("1;", {"frame": frame})


def main() -> None:
    sys.modules["pyarrow"] = None  # type: ignore[assignment]
    print(json.dumps(measure(pandas_frame("str"), int(sys.argv[1]), arrow=False)))


if __name__ == "__main__":
    main()
