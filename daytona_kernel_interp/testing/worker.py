"""The process of one code interpreter context: runs code from JSON lines and writes events.

A standalone script that needs only the standard library. Like the service's, it is a plain ``exec``, without the
value of a last expression and without display.
"""

from __future__ import annotations

import io
import json
import os
import sys
import traceback
from typing import Any


class Stream(io.TextIOBase):
    """A standard stream that writes its text as events."""

    def __init__(self, name: str, out: io.TextIOBase) -> None:
        self._name, self._out = name, out

    def writable(self) -> bool:
        """Return True, because text can be written."""
        return True

    def write(self, text: str) -> int:
        """Write text as an event."""
        if text:
            send(self._out, {"type": self._name, "text": text})
        return len(text)


def send(out: io.TextIOBase, event: dict[str, Any]) -> None:
    """Write one event as one line."""
    out.write(json.dumps(event) + "\n")
    out.flush()


def main() -> None:
    """Serve until standard input ends."""
    requests = os.fdopen(os.dup(0), encoding="utf-8")
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    null = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1):
        os.dup2(null, number)
    sys.stdout, sys.stderr = Stream("stdout", out), Stream("stderr", out)
    namespace: dict[str, Any] = {"__name__": "__main__", "__builtins__": __builtins__}
    for line in requests:
        request = json.loads(line)
        before = dict(os.environ)
        os.environ.update(request.get("envs") or {})
        try:
            exec(compile(request["code"], "<string>", "exec"), namespace)
        except BaseException as error:
            trace = "".join(traceback.format_exception(type(error), error, error.__traceback__))
            send(out, {"type": "error", "name": type(error).__name__, "value": str(error), "traceback": trace})
        os.environ.clear()
        os.environ.update(before)
        send(out, {"type": "control", "text": "completed"})


if __name__ == "__main__":
    main()
