"""Timers of sandboxes, on a clock that the test moves."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from websockets.sync.client import connect

from tests.conformance.service import TOKEN_HEADER, until

if TYPE_CHECKING:
    from collections.abc import Callable

    from daytona import Sandbox

    from tests.conformance.service import Service

    from .conftest import Local

MINUTE_S = 60.0


def state(service: Service, sandbox_id: str) -> str:
    answer = service.api.get(f"/sandbox/{sandbox_id}")
    return "gone" if answer.status_code == 404 else str(answer.json()["state"])


def test_auto_stop(own: Callable[..., Local]) -> None:
    """An idle sandbox is stopped at the first check after its interval, with or without processes."""
    emulator, service = own()
    with service.sandbox(auto_stop_interval=15) as made:
        made.process.exec("sleep 1000 > /dev/null 2>&1 &")
        emulator.advance(14 * MINUTE_S)
        assert state(service, made.id) == "started"
        emulator.advance(MINUTE_S + 10)
        assert state(service, made.id) == "stopped"


@pytest.mark.parametrize("activity", ["toolbox", "preview", "refresh"])
def test_activity(own: Callable[..., Local], activity: str) -> None:
    """Toolbox calls, previews and ``refresh_activity`` restart the interval."""
    emulator, service = own()
    acts: dict[str, Callable[[Sandbox], Any]] = {
        "toolbox": lambda made: made.process.exec("true"),
        "preview": lambda made: service.preview("/"),
        "refresh": lambda made: made.refresh_activity(),
    }
    made = service.server
    for _ in range(3):
        emulator.advance(10 * MINUTE_S)
        acts[activity](made)
    assert state(service, made.id) == "started"
    emulator.advance(16 * MINUTE_S)
    assert state(service, made.id) == "stopped"


@pytest.mark.parametrize("call", ["get", "list", "link", "skipped"])
def test_no_activity(own: Callable[..., Local], call: str) -> None:
    """Reading a sandbox is not activity, nor is a preview request with the header for it."""
    emulator, service = own()
    made = service.server
    calls: dict[str, Callable[[], Any]] = {
        "get": lambda: service.sdk.get(made.id),
        "list": lambda: list(service.sdk.list()),
        "link": lambda: made.get_preview_link(service.port),
        "skipped": lambda: service.preview("/", headers={"X-Daytona-Skip-Last-Activity-Update": "true"}),
    }
    emulator.advance(10 * MINUTE_S)
    calls[call]()
    emulator.advance(6 * MINUTE_S)
    assert state(service, made.id) == "stopped"


def test_open_socket_is_activity(own: Callable[..., Local]) -> None:
    """An open WebSocket keeps a sandbox running; the interval begins after it is closed."""
    emulator, service = own()
    made = service.server
    link = made.get_preview_link(service.port)
    url = link.url.replace("http", "ws", 1)
    with connect(url, additional_headers={TOKEN_HEADER: link.token}, proxy=None) as socket:
        socket.recv(timeout=10)
        for _ in range(5):
            emulator.advance(14 * MINUTE_S)
        assert state(service, made.id) == "started"
    record = emulator.server.world.fleet.by_id(made.id)
    assert record is not None
    until(lambda: record.open_sockets == 0, "the proxy to notice")
    emulator.advance(14 * MINUTE_S)
    assert state(service, made.id) == "started"
    emulator.advance(2 * MINUTE_S)
    assert state(service, made.id) == "stopped"


def test_auto_stop_off(own: Callable[..., Local]) -> None:
    """Auto-stop 0 disables the timer."""
    emulator, service = own()
    with service.sandbox(auto_stop_interval=0) as made:
        emulator.advance(30 * 24 * 60 * MINUTE_S)
        assert state(service, made.id) == "started"


def test_ephemeral_auto_stop(own: Callable[..., Local]) -> None:
    """Auto-stop destroys an ephemeral sandbox."""
    emulator, service = own()
    with service.sandbox(ephemeral=True, auto_delete_interval=None) as made:
        emulator.advance(16 * MINUTE_S)
        assert state(service, made.id) == "gone"


def test_auto_delete(own: Callable[..., Local]) -> None:
    """A sandbox is deleted after it was stopped for the interval without interruption."""
    emulator, service = own()
    with service.sandbox(auto_delete_interval=30) as made:
        made.stop()
        emulator.advance(29 * MINUTE_S)
        made.start()
        made.stop()
        emulator.advance(29 * MINUTE_S)
        assert state(service, made.id) == "stopped"
        emulator.advance(2 * MINUTE_S)
        assert state(service, made.id) == "gone"


def test_time_to_live(own: Callable[..., Local]) -> None:
    """The time to live ends a sandbox in any state."""
    emulator, service = own()
    with service.sandbox(ttl_minutes=60, auto_stop_interval=0) as made:
        emulator.advance(59 * MINUTE_S)
        assert made.process.exec("echo here").result == "here\n"
        emulator.advance(2 * MINUTE_S)
        assert state(service, made.id) == "gone"


def test_archive(own: Callable[..., Local]) -> None:
    """A stopped sandbox is archived after a week, and starts again with its files."""
    emulator, service = own()
    with service.sandbox(auto_delete_interval=None) as made:
        made.fs.upload_file(b"kept", "kept.txt")
        made.stop()
        emulator.advance(8 * 24 * 60 * MINUTE_S)
        assert state(service, made.id) == "archived"
        made.start()
        assert made.fs.download_file("kept.txt") == b"kept"


def test_signed_url_expires(own: Callable[..., Local]) -> None:
    """A signed token expires; its WebSocket stays open, and its cookie is valid for an hour."""
    emulator, service = own()
    signed = service.server.create_signed_preview_url(service.port, 60)
    assert service.plain.get(signed.url, headers={"X-Daytona-Skip-Last-Activity-Update": "true"}).status_code == 200
    cookie = {"Cookie": "; ".join(f"{name}={value}" for name, value in service.plain.cookies.items())}
    service.plain.cookies.clear()
    with connect(signed.url.replace("http", "ws", 1), proxy=None) as socket:
        socket.recv(timeout=10)
        emulator.advance(61)
        assert service.plain.get(signed.url).status_code == 401
        assert service.plain.get(signed.url, headers=cookie).status_code == 200
        socket.send("still open")
        assert socket.recv(timeout=10) == "still open"
        emulator.advance(3600)
        assert service.plain.get(signed.url, headers=cookie).status_code == 401


def test_public_is_remembered(own: Callable[..., Local]) -> None:
    """A change of ``public`` through the API has an immediate effect: the cache is updated."""
    _, service = own()
    made = service.server
    url = made.get_preview_link(service.port).url
    assert service.plain.get(url).status_code == 401
    assert service.api.post(f"/sandbox/{made.id}/public/true").status_code == 200
    assert service.plain.get(url).status_code == 200
    assert service.api.post(f"/sandbox/{made.id}/public/false").status_code == 200
    assert service.plain.get(url).status_code == 401


def test_clock_goes_forward_only(own: Callable[..., Local]) -> None:
    """The clock cannot be moved back."""
    with pytest.raises(ValueError, match="forward only"):
        own().emulator.advance(-1)
