"""A straightforward DSPy interpreter over a stock IPython kernel on this machine: what one writes in an afternoon.

jupyter_client and ipykernel with their defaults, the code spliced with its variables, tools by way of ``input()``, and
a loop that polls iopub. It does what the benchmark needs and keeps none of this package's promises.
"""

from __future__ import annotations

import json
import queue
from subprocess import DEVNULL
from typing import TYPE_CHECKING, Any

from jupyter_client.manager import KernelManager

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from jupyter_client.blocking.client import BlockingKernelClient

_POLL_S = 0.01
_READY_S = 60.0
_STUB = "def {name}(*args): return __import__('json').loads(input(__import__('json').dumps(['{name}', args])))"


class PollingInterpreter:
    """Starts with the first ``start`` or ``execute``, as DSPy has it."""

    def __init__(self, tools: Mapping[str, Callable[..., Any]]) -> None:
        self.tools = dict(tools)
        self._manager: Any = None
        self._client: BlockingKernelClient | None = None

    def start(self) -> None:
        if self._client is not None:
            return
        self._manager = KernelManager(kernel_name="python3")
        self._manager.start_kernel(stderr=DEVNULL)
        self._client = self._manager.client()
        self._client.start_channels()
        self._client.wait_for_ready(timeout=_READY_S)
        self.execute("\n".join(_STUB.format(name=name) for name in self.tools))

    def execute(self, code: str, variables: Mapping[str, Any] | None = None) -> str:
        self.start()
        assert self._client is not None
        assignments = "".join(f"{name} = {value!r}\n" for name, value in (variables or {}).items())
        request = self._client.execute(assignments + code, allow_stdin=True)
        text: list[str] = []
        while not self._take_output(request, text):
            self._answer_input()
        reply = self._client.get_shell_msg(timeout=_READY_S)
        if reply["content"]["status"] != "ok":
            raise RuntimeError(reply["content"]["ename"])
        return "".join(text)

    def shutdown(self) -> None:
        if self._client is not None:
            self._client.stop_channels()
            self._manager.shutdown_kernel()

    def _take_output(self, request: str, text: list[str]) -> bool:
        """Take one message, if there is one, and return whether it was the cell's last."""
        assert self._client is not None
        try:
            message = self._client.get_iopub_msg(timeout=_POLL_S)
        except queue.Empty:
            return False
        if message["parent_header"].get("msg_id") != request:
            return False
        content = message["content"]
        if message["msg_type"] == "stream":
            text.append(content["text"])
        elif message["msg_type"] == "execute_result":
            text.append(content["data"]["text/plain"])
        return bool(content.get("execution_state") == "idle")

    def _answer_input(self) -> None:
        assert self._client is not None
        try:
            message = self._client.get_stdin_msg(timeout=0)
        except queue.Empty:
            return
        name, args = json.loads(message["content"]["prompt"])
        self._client.input(json.dumps(self.tools[name](*args)))
