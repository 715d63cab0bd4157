"""An emulated Daytona, seen by plain HTTP."""

from __future__ import annotations

import contextlib
import json
import time
import urllib.error
import urllib.request
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from daytona_kernel_interp.testing import DaytonaEmulator

WAIT_S = 30.0


class Service:
    """The emulator, seen by plain HTTP; of its sandboxes those that are made from now on."""

    def __init__(self, emulator: DaytonaEmulator) -> None:
        self.emulator = emulator
        self._before: frozenset[str] = frozenset()
        self._before = frozenset(item["id"] for item in self.sandboxes)

    def ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        headers = {"Authorization": f"Bearer {self.emulator.api_key}", "Content-Type": "application/json"}
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.emulator.api_url + path, data, headers, method=method)
        with urllib.request.urlopen(request, timeout=10) as answer:
            return json.loads(answer.read() or b"null")

    @property
    def sandboxes(self) -> list[dict[str, Any]]:
        found = self.ask("GET", "/sandbox")["items"]
        return [item for item in found if item["state"] != "destroyed" and item["id"] not in self._before]

    @property
    def only(self) -> dict[str, Any]:
        (found,) = self.sandboxes
        return dict(self.ask("GET", f"/sandbox/{found['id']}"))

    def nothing_left(self) -> bool:
        return until(lambda: not self.sandboxes, "the last sandbox's end")

    def end_what_is_left(self) -> list[str]:
        """Delete every sandbox that lets itself be deleted; return what there was."""
        found = self.sandboxes
        for left in found:
            with contextlib.suppress(urllib.error.HTTPError):
                self.ask("DELETE", f"/sandbox/{left['id']}")
        return [f"{left['id']} ({left['state']}, kept: {'daytona-kernel-kept' in left['labels']})" for left in found]


def until(condition: Callable[[], bool], what: str) -> bool:
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline, f"waited {WAIT_S} s for {what}"
        time.sleep(0.05)
    return True
