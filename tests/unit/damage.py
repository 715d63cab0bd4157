"""``python -m tests.unit.damage SEED COUNT``: decode damaged values of every library in a process with little memory.

Prints how many were refused and by how many MB memory grew at most. Nothing but the codec's own error may come.
"""

from __future__ import annotations

import base64
import datetime
import io
import json
import random
import resource
import sys
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
from PIL import Image

from daytona_kernel_interp.codec.values import Buffer, dumps, loads
from daytona_kernel_interp.wire.protocol_errors import RemoteProtocolError

if TYPE_CHECKING:
    from collections.abc import Iterator

_LIMIT_BYTES = 1 << 30  # above what is mapped at the start: pyarrow's pools map much that they do not use
_LIES = (0, 1, 2, -1, 7, 1 << 7, 1 << 16, (1 << 31) - 1, 1 << 31, 1 << 40, (1 << 62) - 1, (1 << 63) - 1, -(1 << 63))


def seeds() -> list[Any]:
    """Return small values of every type that the codec carries."""
    zoned = pd.date_range("2020", periods=3, tz="Europe/Berlin")
    pandas = pd.DataFrame(
        {
            "i": [1, 2, 3],
            "f": [1.5, None, 3],
            "s": ["a", None, "ü"],
            "o": pd.Series(["a", "b", "c"], dtype=object),
            "m": pd.Series([1, "x", None], dtype=object),
            "z": zoned,
            "c": pd.Categorical(["a", "b", "a"]),
            "n": pd.array([1, None, 3], dtype="Int64"),
            "p": pd.period_range("2020", periods=3, freq="M"),
            "v": pd.interval_range(0, 3),
            "l": pd.array([[1], None, []], dtype=pd.ArrowDtype(pa.list_(pa.int8()))),
        },
        index=pd.MultiIndex.from_tuples([("a", 1), ("a", 2), ("b", 1)]),
    )
    polars = pl.DataFrame(
        {
            "i": [1, None, 3],
            "s": ["a", None, "ü"],
            "b": [True, None, False],
            "d": [datetime.datetime(2020, 1, 1), None, None],
            "l": [[1], None, [2, None]],
            "t": [{"a": 1}, {"a": 2}, None],
            "x": [b"a", None, b""],
            "q": [Decimal("1.5"), None, None],
        }
    ).with_columns(pl.col("s").cast(pl.Categorical).alias("c"), pl.col("i").cast(pl.Int8).alias("j"))
    table = pa.table(
        {
            "s": ["a", None],
            "d": pa.array(["x", "y"]).dictionary_encode(),
            "l": [[1], [2]],
            "m": pa.array([[("a", 1)], []], pa.map_(pa.string(), pa.int8())),
        }
    )
    return [
        {"a": [1, 2.5, None, True, 10**30, (1, {2}), frozenset([3]), b"x", 1j], 5: "é\udc80"},
        [datetime.datetime(2020, 1, 1), datetime.timedelta(1), Decimal("1.5"), Path("a/b")],
        np.arange(6.0).reshape(2, 3),
        np.array(["a", None, "bc"], object),
        np.array([1, [2], "x"], object),
        np.array([("a", [1.5, 2])], dtype=[("n", "U3"), ("v", "<f4", (2,))]),
        [np.float32(1.5), np.datetime64("2020"), pd.Timestamp("2020", tz="Europe/Berlin"), pd.Timedelta(5, "s")],
        pandas,
        zoned,
        polars,
        table,
        pa.chunked_array([[1, 2], [3]]),
        Image.new("RGB", (3, 2), (1, 2, 3)),
        Image.new("P", (3, 2)),
        Image.new("I", (3, 2)),
    ]


def damaged(head: Any, dice: random.Random) -> Any:
    """Return the tree with one number, text or piece changed; which one is chance."""
    places = list(_places(head))
    holder, key = dice.choice(places)
    old = holder[key]
    if isinstance(old, str) and len(old) > 8 and dice.random() < 0.7:
        holder[key] = _damaged_piece(old, dice)
    else:
        holder[key] = dice.choice([*_LIES, "", "x" * 50, None, [], {}, [[]], 0.5, True, "ipc", "<i8", "|V99999999"])
    return head


def _damaged_piece(text: str, dice: random.Random) -> str:
    try:
        data = bytearray(base64.b64decode(text, validate=True))
    except ValueError:
        return text[: dice.randrange(len(text))] + dice.choice("0129[]<>,;/.") + text[dice.randrange(len(text)) :]
    for _ in range(dice.choice((1, 1, 1, 3))):
        size = dice.choice((1, 2, 4, 8))
        place = dice.randrange(0, max(1, len(data) - size))
        lie = dice.choice(_LIES) & ((1 << (8 * size)) - 1)
        data[place : place + size] = lie.to_bytes(size, dice.choice(("little", "little", "big")))
    if dice.random() < 0.1:
        del data[dice.randrange(len(data) + 1) :]
    return base64.b64encode(data).decode()


def _places(tree: Any) -> Iterator[tuple[Any, Any]]:
    for key in range(len(tree)) if isinstance(tree, list) else list(tree):
        yield tree, key
        if isinstance(tree[key], (list, dict)):
            yield from _places(tree[key])


def _heads() -> list[bytes]:
    buffers: list[list[Buffer]] = []
    for seed in seeds():
        buffers += [dumps(seed), dumps(seed, arrow=True)]
    assert all(len(each) == 1 for each in buffers)
    return [bytes(each[0]) for each in buffers]


def _peak_mb() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10


def main() -> None:
    dice, count = random.Random(int(sys.argv[1])), int(sys.argv[2])
    heads = _heads()
    for head in heads:  # what the libraries load when they are first used
        repr(loads([head]))
    mapped = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (mapped + _LIMIT_BYTES, resource.RLIM_INFINITY))
    before, refused = _peak_mb(), 0
    for _ in range(count):
        data = json.dumps(damaged(json.loads(dice.choice(heads)), dice)).encode()
        try:
            io.StringIO().write(repr(loads([data]))[:100])
        except RemoteProtocolError:
            refused += 1
    print(json.dumps({"refused": refused, "grown_mb": _peak_mb() - before}))


if __name__ == "__main__":
    main()
