"""Jupyter's programs as users have them: notebooks to run, a server to ask, a kernel to talk to."""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import socket
import subprocess
import sys
import urllib.request
from typing import TYPE_CHECKING, Any

import nbformat
from jupyter_client.manager import KernelManager
from nbformat.v4 import new_code_cell, new_notebook
from websockets.sync.client import connect

from daytona_kernel_interp.jupyter import kernelspec as kernelspecs
from tests.integration.daytona_service import until

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from jupyter_client.blocking.client import BlockingKernelClient
    from nbformat import NotebookNode

LOCAL, DAYTONA = "local-sandbox", "daytona"
ANSWER_S = 30.0
_PORT = re.compile(rb"http://127\.0\.0\.1:(\d+)/")


def install(name: str, **options: Any) -> str:
    """Write a kernelspec into the test session's own folder, whatever it says, and return its name."""
    target = kernelspecs.folder(user=True, prefix=None) / name / "kernel.json"
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(kernelspecs.Kernelspec(name, name, options).as_json()))
    return name


def notebook(kernel: str, *cells: str) -> NotebookNode:
    made: NotebookNode = new_notebook(cells=[new_code_cell(source) for source in cells])
    made.metadata.kernelspec = {"name": kernel, "display_name": kernel, "language": "python"}
    return made


def shown(made: NotebookNode) -> list[str]:
    """Return what each cell shows: its stream's text, or the text of what it displays, with the richest type."""
    return ["".join(map(_text, cell.outputs)) for cell in made.cells]


def _text(output: Mapping[str, Any]) -> str:
    if output["output_type"] == "stream":
        return str(output["text"])
    if output["output_type"] == "error":
        return str(output["ename"])
    rich = [kind for kind in output["data"] if kind != "text/plain"]
    return rich[0] if rich else str(output["data"]["text/plain"])


def written(path: Path) -> NotebookNode:
    return nbformat.read(path, as_version=4)  # type: ignore[no-any-return]


class Talk:
    """A kernel of a synchronous KernelManager, and its blocking client."""

    def __init__(self, kernel: str, **launch: Any) -> None:
        self.manager = KernelManager(kernel_name=kernel)
        self.manager.start_kernel(**launch)
        self.client: BlockingKernelClient = self.manager.client()
        self.client.start_channels()
        self.client.wait_for_ready(timeout=ANSWER_S)

    def run(self, code: str, *answers: str, **options: Any) -> list[dict[str, Any]]:
        """Run a cell and return what it published; ``answers`` are typed when it asks."""
        published: list[dict[str, Any]] = []
        typed = iter(answers)

        def answer(message: dict[str, Any]) -> None:
            published.append({**message["content"], "msg_type": "input_request"})
            self.client.input(next(typed))

        self.reply = self.client.execute_interactive(
            code,
            timeout=ANSWER_S,
            allow_stdin=True,
            stdin_hook=answer,
            output_hook=lambda message: published.append({**message["content"], "msg_type": message["msg_type"]}),
            **options,
        )["content"]
        return published

    def value(self, code: str, *answers: str) -> Any:
        """Return the last expression of a cell, by its text."""
        (found,) = (item for item in self.run(code, *answers) if item["msg_type"] == "execute_result")
        return found["data"]["text/plain"]

    def text(self, code: str, *answers: str) -> str:
        return "".join(item["text"] for item in self.run(code, *answers) if item["msg_type"] == "stream")

    def begin(self, code: str) -> None:
        """Have a cell run, and return when it says so: it prints ``begun``.

        The kernel does not stop on its error: what comes right behind its reply would be dropped.
        """
        self.client.execute(f"print('begun', flush=True)\n{code}", stop_on_error=False)
        while True:
            message = self.client.get_iopub_msg(timeout=ANSWER_S)
            if message["msg_type"] == "stream" and "begun" in message["content"]["text"]:
                return

    def end(self) -> dict[str, Any]:
        """Return the reply to the cell that was begun."""
        while True:
            message = self.client.get_shell_msg(timeout=ANSWER_S)
            if message["msg_type"] == "execute_reply":
                while self.client.stdin_channel.msg_ready():  # a question that was taken back
                    self.client.get_stdin_msg(timeout=ANSWER_S)
                content: dict[str, Any] = message["content"]
                return content

    def close(self) -> None:
        self.client.stop_channels()
        self.manager.shutdown_kernel()


@contextlib.contextmanager
def talk(kernel: str, **launch: Any) -> Iterator[Talk]:
    talking = Talk(kernel, **launch)
    try:
        yield talking
    finally:
        talking.close()


class Server:
    """A Jupyter server, as JupyterLab has it behind it."""

    def __init__(self, folder: Path, environment: Mapping[str, str]) -> None:
        self.token = secrets.token_hex(16)
        self.log: list[bytes] = []
        self._process = subprocess.Popen(
            [
                *(sys.executable, "-m", "jupyter_server", "--no-browser", "--ip=127.0.0.1", "--port=0"),
                *("--ServerApp.port_retries=0", f"--ServerApp.root_dir={folder}", "--allow-root"),
                *("--ServerApp.terminals_enabled=False", f"--IdentityProvider.token={self.token}"),
            ],
            stderr=subprocess.PIPE,
            env={**os.environ, **environment},
            cwd=folder,
        )
        self.port = int(self.wait_for(_PORT).group(1))
        until(self._listens, "the server, which tells its port before it listens")

    def _listens(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def wait_for(self, pattern: re.Pattern[bytes]) -> re.Match[bytes]:
        """Return the first match in a line of the log that has not been read yet."""
        assert self._process.stderr is not None
        for line in self._process.stderr:
            self.log.append(line)
            if found := pattern.search(line):
                return found
        raise AssertionError(b"".join(self.log).decode())

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}/api/{path}",
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Authorization": f"token {self.token}"},
        )
        with urllib.request.urlopen(request, timeout=ANSWER_S) as answer:
            return json.loads(answer.read() or b"null")

    def start(self, kernel: str) -> Page:
        return Page(self, self.ask("POST", "kernels", {"name": kernel})["id"])

    def close(self) -> None:
        for kernel in self.ask("GET", "kernels"):
            self.ask("DELETE", f"kernels/{kernel['id']}")
        self._process.terminate()
        try:
            self._process.communicate(timeout=ANSWER_S)
        finally:
            self._process.kill()


class Page:
    """One notebook in a browser: a WebSocket to its kernel."""

    def __init__(self, server: Server, kernel: str) -> None:
        self._server, self.kernel = server, kernel
        self._session = secrets.token_hex(8)
        self._closing = contextlib.ExitStack()
        self._socket = self._closing.enter_context(
            connect(
                f"ws://127.0.0.1:{server.port}/api/kernels/{kernel}/channels?session_id={self._session}",
                additional_headers={"Authorization": f"token {server.token}"},
                proxy=None,
            )
        )

    def send(self, code: str) -> str:
        message_id = secrets.token_hex(8)
        header = {
            **{"msg_id": message_id, "msg_type": "execute_request", "session": self._session},
            **{"username": "", "version": "5.3", "date": ""},
        }
        content = {"code": code, "silent": False, "store_history": True, "allow_stdin": False, "stop_on_error": False}
        message = {"channel": "shell", "header": header, "parent_header": {}, "metadata": {}, "content": content}
        self._socket.send(json.dumps(message))
        return message_id

    def until(self, message_id: str, kind: str, timeout_s: float = ANSWER_S) -> dict[str, Any]:
        """Return the content of the first message of that kind that answers a request."""
        while True:
            message = json.loads(self._socket.recv(timeout=timeout_s))
            if message["parent_header"].get("msg_id") == message_id and message["msg_type"] == kind:
                content: dict[str, Any] = message["content"]
                return content

    def value(self, code: str) -> str:
        return str(self.until(self.send(code), "execute_result")["data"]["text/plain"])

    def interrupt(self) -> None:
        self._server.ask("POST", f"kernels/{self.kernel}/interrupt")

    def restart(self) -> None:
        self._server.ask("POST", f"kernels/{self.kernel}/restart")

    def close(self) -> None:
        self._closing.close()
