"""Recipients of the three secrets of a session at Daytona: API key, preview token, relay secret."""

from __future__ import annotations

import logging
import traceback
from typing import TYPE_CHECKING

import psutil
import pytest
from aiohttp.web_protocol import RequestHandler

from daytona_kernel_interp import DaytonaSandbox, KernelInterpreter
from daytona_kernel_interp.interpreter.interpreter import CodeInterpreterError
from daytona_kernel_interp.sandboxes.daytona.sandbox import TOKEN_HEADER
from daytona_kernel_interp.testing import DaytonaEmulator
from daytona_kernel_interp.wire.hello import SECRET_HEADER
from tests.access import session_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.integration.daytona_service import Service


class Wire:
    """All bytes that an emulator receives, by connection."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.connections: dict[int, bytearray] = {}
        self._handlers: list[RequestHandler] = []  # kept, so that ids are not reused
        receive = RequestHandler.data_received

        def recorded(handler: RequestHandler, data: bytes) -> None:
            if id(handler) not in self.connections:
                self._handlers.append(handler)
            self.connections.setdefault(id(handler), bytearray()).extend(data)
            receive(handler, data)

        monkeypatch.setattr(RequestHandler, "data_received", recorded)

    def to_previews(self, domain: str) -> list[bytes]:
        """Return the requests to preview hosts, where every connection is one upgrade."""
        return [bytes(data) for data in self.connections.values() if f".{domain}:".encode() in head_of(data)]

    def elsewhere(self, domain: str) -> list[bytes]:
        """Return the requests to the API and the toolboxes."""
        return [bytes(data) for data in self.connections.values() if f".{domain}:".encode() not in head_of(data)]


def head_of(data: bytes | bytearray) -> bytes:
    return bytes(data).partition(b"\r\n\r\n")[0]


@pytest.fixture
def wire(monkeypatch: pytest.MonkeyPatch) -> Wire:
    return Wire(monkeypatch)


@pytest.fixture
def emulator(wire: Wire) -> Iterator[DaytonaEmulator]:
    with DaytonaEmulator() as made:
        yield made


@pytest.mark.parametrize("upload", [True, None], ids=["uploaded", "there"])
def test_each_secret_goes_where_it_belongs_and_nowhere_else(
    upload: bool | None, wire: Wire, daytona: Service, caplog: pytest.LogCaptureFixture
) -> None:
    """The session has a start, cells, a relay restart, a new token and an error.

    The check covers the wire, the sandbox's processes and files, logs of all levels, reprs and errors.
    """
    caplog.set_level(logging.DEBUG)
    emulator = daytona.emulator
    secrets: dict[str, set[str]] = {"key": {emulator.api_key}, "token": set(), "relay": set()}
    shown: list[str] = []
    interpreter = KernelInterpreter(sandbox=DaytonaSandbox(upload=upload, env_vars={"COLOUR": "red"}))

    def look() -> None:
        """Record the current secrets, and the texts that may have them."""
        session = session_of(interpreter)
        secrets["token"].add(session.sandbox.address.headers[TOKEN_HEADER])
        secrets["relay"].add(session.sandbox.address.secret)
        shown.extend(map(repr, (interpreter, session, session.sandbox, session.sandbox.address, session.tunnel)))
        shown.append(repr(interpreter._sandbox))
        box = emulator.server.world.boxes[daytona.only["id"]]
        assert box.machine is not None
        for process in psutil.Process(box.machine.pid).children(recursive=True):
            shown.append(f"{process.cmdline()} {process.environ()}")
        shown.extend(path.read_text("latin-1") for path in box.folder.rglob("*") if path.is_file())

    with interpreter:
        assert interpreter.execute("import os; x = 1; relay = os.getppid(); x") == 1
        look()
        interpreter.execute("os.kill(relay, 9); import time; time.sleep(0.5)")
        assert interpreter.execute("x") == 1
        look()
        emulator.rotate_token(daytona.only["id"])
        emulator.forget_tokens()
        for stream in session_of(interpreter).tunnel.streams:
            if stream.carrier.socket is not None:
                stream.carrier.socket.abort()
        assert interpreter.execute("x") == 1
        look()
        assert len(secrets["token"]) == 2
        daytona.ask("DELETE", f"/sandbox/{daytona.only['id']}")
        daytona.nothing_left()
        with pytest.raises(CodeInterpreterError) as caught:
            interpreter.execute("x")
        shown += traceback.format_exception(caught.value)
    shown.extend(record.getMessage() + str(record.args) for record in caplog.records)
    check_wire(wire, emulator, secrets)
    for kind, found in secrets.items():
        for secret in found:
            places = [text[max(0, text.index(secret) - 200) :][:300] for text in shown if secret in text]
            assert not places, f"the {kind} stands in {places}"


def check_wire(wire: Wire, emulator: DaytonaEmulator, secrets: dict[str, set[str]]) -> None:
    """Previews get token and relay secret, each in its header, and never the key; no secret is in a URL."""
    every = [secret for kind in secrets.values() for secret in kind]
    previews, elsewhere = wire.to_previews(emulator.options.domain), wire.elsewhere(emulator.options.domain)
    assert previews
    for data in previews:
        line, *headers = head_of(data).decode().split("\r\n")
        values = {name.lower(): value for name, _, value in (each.partition(": ") for each in headers)}
        assert values[TOKEN_HEADER.lower()] in secrets["token"]
        assert values[SECRET_HEADER.lower()] in secrets["relay"]
        assert "authorization" not in values
        assert not any(secret in line for secret in every)
        assert emulator.api_key.encode() not in data
    for data in elsewhere:
        lines = b"\n".join(line for line in data.split(b"\r\n") if line.endswith(b" HTTP/1.1"))
        assert not any(secret.encode() in lines for secret in every)
        assert not any(secret.encode() in data for secret in secrets["token"])
