"""Recorded sessions with their values in memory, for tests of the code that reads or shows sessions."""

from __future__ import annotations

import base64
import zlib
from datetime import datetime, timedelta, timezone
from typing import Any, Literal

from daytona_kernel_interp.client.outputs import CellError, DisplayData, ExecuteResult, StreamText
from daytona_kernel_interp.codec import values
from daytona_kernel_interp.recording import value_store
from daytona_kernel_interp.recording.model import (
    Entry,
    LMCall,
    Outcome,
    RecordedCall,
    SessionFacts,
    Transcript,
    Usage,
    ValueRef,
)
from daytona_kernel_interp.wire.comm import ToolSpec

BEGAN = datetime(2026, 5, 4, 9, 30, tzinfo=timezone.utc)
MODEL = "openrouter/google/gemini-3-flash-preview"
WROTE = Usage(MODEL, 3200, 240, 0.0016)
ASKED = Usage(MODEL, 410, 35, 0.00021)


class MemoryStore(value_store.MemoryStore):
    """A store in memory that encodes the values."""

    def put(self, value: Any) -> ValueRef:
        """Encode and keep a value, and return the reference to it."""
        return self.keep(values.dumps(value))


def png(width: int = 8, height: int = 8) -> str:
    """Return a small PNG in base64."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")

    head = width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes([8, 0, 0, 0, 0])
    rows = b"".join(b"\0" + bytes(255 * (x + y) // (width + height) for x in range(width)) for y in range(height))
    parts = [chunk(b"IHDR", head), chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")]
    return base64.b64encode(b"\x89PNG\r\n\x1a\n" + b"".join(parts)).decode("ascii")


def call(
    store: MemoryStore,
    number: int,
    name: str,
    began_s: float,
    elapsed_s: float | None,
    *args: Any,
    kind: Literal["tool", "llm"] = "tool",
    result: Any = None,
    error: tuple[str, tuple[str, ...], str] | None = None,
    usage: Usage | None = None,
    **kwargs: Any,
) -> RecordedCall:
    """Return a call; one without an end or with an error has no result."""
    given = None if error or elapsed_s is None else store.put(result)
    return RecordedCall(number, name, kind, began_s, elapsed_s, store.put((list(args), kwargs)), given, error, usage)


def small() -> Transcript:
    """Return a session with concurrent calls, figures, errors and an answer."""
    store = MemoryStore()
    entries = [*_working(store), *_ending(store)]
    lm_calls = [
        LMCall(f"c{n}", None, one.began - timedelta(seconds=3), 2.9, store.put({}), store.put(["..."]), one.usage)
        for n, one in enumerate(entries)
    ]
    facts = SessionFacts(
        "8d5c2f", BEGAN, "local", {"python": "3.11.7", "dspy": "3.4.1"}, {"execution_timeout": 30.0}, {"random": 7}
    )
    return Transcript(facts, entries, store, lm_calls, callback=True)


def _working(store: MemoryStore) -> list[Entry]:
    return [
        Entry(
            0,
            "m0",
            'import re\n\nsections = re.split(r"\\n## ", text)\n'
            'print(f"{len(text):,} characters")\nlen(sections)  # how many',
            BEGAN + timedelta(seconds=4.2),
            Outcome("returned", "ok", value=store.put("51,200 characters\n38")),
            variables={"text": store.put("Who pays? " * 5_120), "question": store.put("Who pays?")},
            tools=[ToolSpec("search"), ToolSpec("llm_query"), ToolSpec("llm_query_batched")],
            output_fields=[{"name": "answer", "type": "str"}, {"name": "score", "type": "float"}],
            outputs=[StreamText("stdout", "51,200 characters\n"), ExecuteResult({"text/plain": "38"}, {})],
            elapsed_s=0.031,
            reasoning="First I **look** at the text.\n\n- its size\n- its `sections`\n\nSee [the docs](https://example.org).",
            usage=WROTE,
        ),
        Entry(
            1,
            "m1",
            "hits = await asyncio.gather(*(search.aio(q) for q in queries))\nfor hit in hits:\n    print(hit)",
            BEGAN + timedelta(seconds=9.8),
            Outcome("returned", "ok", value=store.put("3 hits\n")),
            outputs=[StreamText("stdout", "refunds\n\x1b[32mshipping\x1b[0m\n"), StreamText("stderr", "a warning\n")],
            calls=[
                call(store, 1, "search", 0.1, 1.5, "refund policy", limit=3, result=["refunds", "returns"]),
                call(store, 2, "search", 0.11, 1.1, "shipping", result=["shipping"]),
                call(store, 3, "search", 0.12, 0.6, "nowhere", error=("KeyError", ("LookupError",), "'nowhere'")),
                call(store, 4, "llm_query", 1.7, 0.9, kind="llm", prompt="Which one?", result="refunds", usage=ASKED),
            ],
            elapsed_s=2.7,
            late="a thread's last words\n",
            reasoning="Three searches at once.",
            usage=WROTE,
        ),
    ]


def _ending(store: MemoryStore) -> list[Entry]:
    return [
        Entry(
            2,
            "m2",
            "def rate(hits):\n    return sum(hits) / len(hits)\n\nrate([])",
            BEGAN + timedelta(seconds=17),
            Outcome("raised", "error", error="CodeExecutionError", text="ZeroDivisionError: division by zero\n..."),
            outputs=[
                CellError("ZeroDivisionError", "division by zero", "Traceback ...\nZeroDivisionError: division by zero")
            ],
            elapsed_s=0.012,
            reasoning="I forgot the empty list.",
            usage=WROTE,
        ),
        Entry(
            3,
            "m3",
            "plt.plot(scores)\nplt.show()\nframe",
            BEGAN + timedelta(seconds=24.5),
            Outcome("returned", "ok", value=store.put("[figure 8x8 PNG]")),
            outputs=[
                DisplayData({"image/png": png(240, 120), "text/plain": "<Figure size 240x120 with 1 Axes>"}, {}),
                ExecuteResult(
                    {
                        "text/html": "<table><tr><th>name<th>score</tr><tr><td>a<td>1.5</tr></table>",
                        "text/plain": "  name  score\n0    a    1.5",
                    },
                    {},
                ),
            ],
            elapsed_s=1.4,
            reasoning="A figure and a table.",
            usage=WROTE,
        ),
        Entry(
            4,
            "m4",
            "SUBMIT(answer='The customer pays.', score=0.75)",
            BEGAN + timedelta(seconds=31),
            Outcome("submitted", "ok", value=store.put({"answer": "The customer pays.", "score": 0.75})),
            calls=[call(store, 5, "llm_query", 0.01, None, "never answered", kind="llm")],
            elapsed_s=0.4,
            reasoning="Now I know.",
            usage=WROTE,
        ),
    ]


def long(steps: int = 200, calls: int = 6) -> Transcript:
    """Return a session of typical size for an RLM: each step has twenty lines of code and two kilobytes of output."""
    store = MemoryStore()
    entries = []
    for index in range(steps):
        code = "\n".join(
            f"result_{n} = [item for item in items if item['score'] > {n} / {index + 1}]" for n in range(20)
        )
        made = [
            call(
                store,
                index * calls + n,
                "llm_query" if n % 2 else "search",
                0.2 * (n // 3),
                0.5 + 0.1 * n,
                f"Passage {n} of step {index}: " + "lorem ipsum dolor sit amet " * 40,
                kind="llm" if n % 2 else "tool",
                result=f"Answer {n} of step {index}. " + "consectetur adipiscing elit " * 20,
                usage=Usage(MODEL, 400, 60, 0.0002),
            )
            for n in range(calls)
        ]
        outputs = [StreamText("stdout", "".join(f"line {n} of step {index}: what it printed\n" for n in range(50)))]
        entries.append(
            Entry(
                index,
                f"m{index}",
                code,
                BEGAN + timedelta(seconds=12 * index),
                Outcome("raised", "error", error="CodeExecutionError", text="ValueError: bad\n...")
                if index % 17 == 5
                else Outcome("returned", "ok", value=store.put(outputs[0].text)),
                outputs=outputs,
                calls=made,
                elapsed_s=1.0 + index % 7,
                reasoning=f"Step {index}: I look at the **next** passages.\n\n" + "Because of what I saw before. " * 12,
                usage=Usage(MODEL, 5000, 500, 0.002),
            )
        )
    lm_calls = [
        LMCall(f"c{n}", None, one.began - timedelta(seconds=4), 3.8, store.put({}), store.put(["..."]), one.usage)
        for n, one in enumerate(entries)
    ]
    return Transcript(SessionFacts("f00d", BEGAN, "local"), entries, store, lm_calls, callback=True)
