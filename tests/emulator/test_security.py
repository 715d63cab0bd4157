"""Requests that the emulator refuses: foreign clients, path escapes, rebound names, and unsupported operations."""

from __future__ import annotations

import importlib
import inspect
import re
import socket
from typing import TYPE_CHECKING

import httpx
import psutil
import pytest
from daytona import CreateSandboxFromSnapshotParams, Daytona, DaytonaConfig
from daytona.common.errors import DaytonaError, DaytonaNotFoundError

from daytona_kernel_interp.testing import DaytonaEmulator
from daytona_kernel_interp.testing.operations import API, TOOLBOX, match, operations
from tests.conformance.service import TOKEN_HEADER, hang_up

if TYPE_CHECKING:
    from pathlib import Path

    from .conftest import Local


def test_loopback_only(local: Local) -> None:
    """It listens only on 127.0.0.1."""
    port = httpx.URL(local.emulator.api_url).port
    found = [known.laddr for known in psutil.Process().net_connections("tcp") if known.status == psutil.CONN_LISTEN]
    assert [address.ip for address in found if address.port == port] == ["127.0.0.1"]


def test_other_names_lead_nowhere(local: Local) -> None:
    """A foreign host name that resolves to loopback has no access to API and control."""
    for host in ("evil.example", "127.0.0.1.evil.example", "preview.daytona.localhost.evil.example"):
        headers = {"Host": host, "Authorization": f"Bearer {local.emulator.api_key}"}
        assert local.service.plain.get(f"{local.emulator.api_url}/sandbox", headers=headers).status_code == 404
        assert local.service.plain.post(f"{local.emulator.control_url}/faults", headers=headers).status_code == 404


def test_organisations_are_apart(local: Local) -> None:
    """Another organisation has no access to this one's sandboxes, also with its key."""
    key = local.emulator.add_organization()
    with httpx.Client(headers={"Authorization": f"Bearer {key}"}, trust_env=False) as foreign:
        shared = local.service.shared
        assert foreign.get(f"{local.emulator.api_url}/sandbox").json()["items"] == []
        assert foreign.get(f"{local.emulator.api_url}/sandbox/{shared.id}").status_code == 404
        assert foreign.delete(f"{local.emulator.api_url}/sandbox/{shared.id}").status_code == 404
        assert foreign.get(f"{shared.toolbox_proxy_url}/{shared.id}/work-dir").status_code == 401
        assert foreign.get(local.service.server.get_preview_link(local.service.port).url).status_code == 401
        assert foreign.post(f"{local.emulator.control_url}/sandboxes/{shared.id}/kill-daemon").status_code == 404


def test_uploads_stay_inside(local: Local, tmp_path: Path) -> None:
    """Dots, absolute paths and links do not let an upload or download leave the sandbox's folder."""
    made = local.service.shared
    made.process.exec(f"ln -s {tmp_path} way-out")
    secret = tmp_path / "secret.txt"
    secret.write_text("secret")
    for path in (str(tmp_path / "new.txt"), "../../../new.txt", "way-out/new.txt", "a/../../../../new.txt"):
        with pytest.raises(DaytonaError, match="permission denied"):
            made.fs.upload_file(b"x", path)
    for path in (str(secret), "way-out/secret.txt"):
        with pytest.raises(DaytonaError, match="permission denied"):
            made.fs.download_file(path)
        with pytest.raises(DaytonaError, match="permission denied"):
            made.fs.delete_file(path)
    assert list(tmp_path.iterdir()) == [secret]


def test_nothing_of_ours_in_the_sandbox(local: Local, monkeypatch: pytest.MonkeyPatch) -> None:
    """Environment variables of this process, such as keys, are not in a sandbox's processes."""
    monkeypatch.setenv("SOME_API_KEY", "in this process only")
    text = local.service.shared.process.exec("env").result
    assert "SOME_API_KEY" not in text
    assert local.emulator.api_key not in text


def test_key_is_not_shown(local: Local) -> None:
    """The key is in no repr, and a record's repr has no preview token."""
    record = local.emulator.server.world.fleet.by_id(local.service.shared.id)
    assert record is not None
    assert local.emulator.api_key not in repr(local.emulator)
    assert record.preview_token not in repr(record)


def test_shared_loopback_has_owners(tmp_path: Path) -> None:
    """If sandboxes share loopback, a preview only reaches ports of its own sandbox."""
    with DaytonaEmulator(isolated=False) as emulator, socket.create_server(("127.0.0.1", 0)) as ours:
        daytona = Daytona(DaytonaConfig(api_key=emulator.api_key, api_url=emulator.api_url))
        try:
            made = daytona.create()
            link = made.get_preview_link(ours.getsockname()[1])
            answer = httpx.get(link.url, headers={TOKEN_HEADER: link.token}, trust_env=False)
            assert answer.status_code == 502
            with pytest.raises(DaytonaError, match="networkBlockAll"):
                daytona.create(CreateSandboxFromSnapshotParams(network_block_all=True))
        finally:
            hang_up(daytona)


def _sdk_operations(package: str) -> set[tuple[str, str, str]]:
    """Return (method, path, name) of all operations of the SDK's generated clients."""
    api = importlib.import_module(f"{package}.api")
    found = set()
    for _, client in inspect.getmembers(api, inspect.isclass):
        text = inspect.getsource(client)
        pattern = r"def _(\w+)_serialize\(.*?method='(\w+)',\s*resource_path='([^']+)'"
        for name, method, path in re.findall(pattern, text, re.DOTALL):
            first, *words = name.split("_")
            found.add((method, re.sub(r"\{[^}]*\}", "{}", path), first + "".join(word.title() for word in words)))
    return found


@pytest.mark.parametrize(("side", "package"), [(API, "daytona_api_client"), (TOOLBOX, "daytona_toolbox_api_client")])
def test_every_operation_is_listed(side: str, package: str) -> None:
    """The list of operations is that of the installed SDK."""
    listed = {(known.method, re.sub(r"\{[^}]*\}", "{}", known.path), known.name) for known in operations(side)}
    assert listed == _sdk_operations(package)


@pytest.mark.parametrize("side", [API, TOOLBOX])
def test_what_is_not_emulated_says_so(local: Local, side: str) -> None:
    """Each operation is served, or refused with 501 and its name."""
    server = local.emulator.server
    served = server.api.served() if side == API else server.toolbox.served()
    refused = [known for known in operations(side) if known.name not in served]
    assert len(served) + len(refused) == len(operations(side))
    for known in refused:
        path = re.sub(r"\{[^}]*\}", "x", known.path.replace("{sandbox}", local.service.shared.id))
        if (found := match(side, known.method, path)) is not None and found[0].name in served:
            continue  # the parameter's value is part of the path of another operation
        if side == API:
            answer = local.service.api.request(known.method, path)
        else:
            answer = local.service.toolbox(known.method, path)
        assert answer.status_code == 501, known
        assert known.name in answer.json()["message"]


@pytest.mark.parametrize(
    "given",
    [
        {"volumes": [{"volumeId": "a", "mountPath": "/v"}]},
        {"secrets": [{"A": "b"}]},
        {"gpu": 1},
        {"networkAllowList": "10.0.0.0/8"},
        {"linkedSandbox": "x"},
    ],
    ids=lambda given: next(iter(given)),
)
def test_create_with_what_is_not_emulated(local: Local, given: dict[str, object]) -> None:
    """Unsupported options of a create are refused with their names."""
    answer = local.service.api.post("/sandbox", json=given)
    assert answer.status_code == 501
    assert next(iter(given)) in answer.json()["message"]


@pytest.mark.parametrize(
    "raw",
    [
        b"GET /api/sandbox HTTP/1.1\r\n\r\n",
        b"GET /api/sandbox HTTP/1.1\r\nHost: \r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: 99999999999999999999-x.preview.daytona.localhost\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: 3000-.preview.daytona.localhost\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: -.preview.daytona.localhost\r\n\r\n",
        b"NONSENSE\r\n\r\n",
    ],
)
def test_nonsense(local: Local, raw: bytes) -> None:
    """A malformed request gets a 4xx, and the next request is served."""
    with socket.create_connection(("127.0.0.1", httpx.URL(local.emulator.api_url).port or 80), timeout=10) as made:
        made.sendall(raw)
        assert re.match(rb"HTTP/1\.[01] 4\d\d ", made.recv(4096))
    with pytest.raises(DaytonaNotFoundError):
        local.service.sdk.get("no-such-sandbox")
