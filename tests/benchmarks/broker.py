"""Tool calls through a polling HTTP broker, as interpreters without a push channel make them.

The sandbox's side is this module as a program: a broker, and cells whose stub posts each call to it. The request waits
there, looking every 50 ms whether a result has come. The host asks every 50 ms for calls, runs them and posts results.
Everything is on this machine's loopback, so a real sandbox's round trips come on top.
"""

from __future__ import annotations

import http.client
import itertools
import json
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import IO, Any

from . import cells, report

POLL_S = 0.05


class Broker(ThreadingHTTPServer):
    """Keeps calls until the host has asked for them, and results until the caller has."""

    daemon_threads = True
    request_queue_size = 128  # as many callers may connect at once

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.ids = itertools.count(1)
        self.calls: dict[int, Any] = {}
        self.results: dict[int, Any] = {}
        self.lock = threading.Lock()

    @property
    def port(self) -> int:
        return int(self.server_address[1])

    def call(self, arguments: Any) -> Any:
        call_id = next(self.ids)
        with self.lock:
            self.calls[call_id] = arguments
        while call_id not in self.results:
            time.sleep(POLL_S)
        return self.results.pop(call_id)

    def take_calls(self) -> list[Any]:
        with self.lock:
            taken, self.calls = self.calls, {}
        return list(taken.items())


class _Handler(BaseHTTPRequestHandler):
    server: Broker
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        answer: Any = None
        if self.path == "/call":
            answer = self.server.call(body)
        elif self.path == "/pending":
            answer = self.server.take_calls()
        else:
            self.server.results[int(self.path.removeprefix("/result/"))] = body
        data = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: Any) -> None:
        """Log nothing."""


class Connection:
    """A kept-alive connection to a broker."""

    def __init__(self, port: int) -> None:
        self._http = http.client.HTTPConnection("127.0.0.1", port)

    def post(self, path: str, body: Any) -> Any:
        self._http.request("POST", path, json.dumps(body))
        return json.loads(self._http.getresponse().read())


class BrokerPeer:
    """The host's side. It can only call tools; cells of its own it does not run."""

    name = report.BROKER

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None
        self._stopped = threading.Event()

    def start(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        port = int(self._ask(None))
        threading.Thread(target=self._poll, args=(port,), daemon=True).start()

    def evaluate(self, expression: str) -> Any:
        """Evaluate ``expression`` over there, where the benchmark's own functions are known."""
        return json.loads(self._ask(expression))

    def stop(self) -> None:
        self._stopped.set()
        if self._process is not None:
            self._process.communicate(timeout=10)  # its standard input ends, and so does it

    def _ask(self, line: str | None) -> str:
        assert self._process is not None
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        if line is not None:
            print(line, file=self._process.stdin, flush=True)
        return self._process.stdout.readline()

    def _poll(self, port: int) -> None:
        connection, local = Connection(port), threading.local()

        def run(call_id: int, arguments: list[int]) -> None:
            if not hasattr(local, "connection"):
                local.connection = Connection(port)
            local.connection.post(f"/result/{call_id}", cells.add(*arguments))

        with ThreadPoolExecutor(cells.THREADS) as workers:
            while not self._stopped.wait(POLL_S):
                try:
                    calls = connection.post("/pending", None)
                except OSError:
                    return  # the other side has ended
                for call_id, arguments in calls:
                    workers.submit(run, call_id, arguments)


def _serve(orders: IO[str], answers: IO[str]) -> None:
    broker, local = Broker(), threading.local()
    threading.Thread(target=broker.serve_forever, daemon=True).start()
    print(broker.port, file=answers, flush=True)

    def add(*arguments: int) -> Any:
        if not hasattr(local, "connection"):
            local.connection = Connection(broker.port)
        return local.connection.post("/call", arguments)

    namespace: dict[str, Any] = {"add": add}
    exec(cells.DEFINITIONS, namespace)
    for expression in orders:
        print(json.dumps(eval(expression, namespace)), file=answers, flush=True)


if __name__ == "__main__":
    _serve(sys.stdin, sys.stdout)
