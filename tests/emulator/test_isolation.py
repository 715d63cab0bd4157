"""Network namespaces: real ports of a sandbox's own, and a real egress block."""

from __future__ import annotations

import http.server
import socket
import threading
from typing import TYPE_CHECKING

import pytest

from daytona_kernel_interp.testing import egress, resolving
from daytona_kernel_interp.testing.processes import can_isolate
from tests.conformance.service import TOKEN_HEADER, start_app

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .conftest import Local

pytestmark = pytest.mark.skipif(not can_isolate(), reason="`unshare -rn` does not work here")

DIAL = "python3 -c \"import socket; socket.create_connection(('{host}', {port}), timeout=5)\""


def test_ports_are_a_sandboxes_own(local: Local) -> None:
    """Two sandboxes listen on the same port, and each preview reaches its own."""
    with local.service.sandbox() as one, local.service.sandbox() as two:
        assert start_app(one) == start_app(two)
        for made in (one, two):
            link = made.get_preview_link(3456)
            answer = local.service.plain.get(link.url, headers={TOKEN_HEADER: link.token})
            assert made.id in dict(answer.json()["headers"])["X-Forwarded-Host"]


def test_sandboxes_do_not_reach_one_another(local: Local) -> None:
    """A port of one sandbox, or of this machine, is not there in another."""
    assert local.service.server
    answer = local.service.shared.process.exec(DIAL.format(host="127.0.0.1", port=local.service.port))
    assert "ConnectionRefusedError" in answer.result
    with socket.create_server(("127.0.0.1", 0)) as ours:
        answer = local.service.shared.process.exec(DIAL.format(host="127.0.0.1", port=ours.getsockname()[1]))
        assert "ConnectionRefusedError" in answer.result


FETCH = "python3 -c \"import urllib.request; print(urllib.request.urlopen('{url}', timeout=10).read().decode())\""


class Page(http.server.BaseHTTPRequestHandler):
    """Says what it was asked for."""

    def do_GET(self) -> None:
        data = f"{self.path} of {self.headers['Host']}".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:
        return


@pytest.fixture
def outside() -> Iterator[int]:
    """A server at `outside.example`, for the egress proxy only: its port."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Page) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with resolving(lambda host: "127.0.0.1" if host == "outside.example" else None):
            yield server.server_port
        server.shutdown()


def test_egress(local: Local, outside: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a block the way out is a proxy that programs find in their environment: plain, and as a tunnel."""
    monkeypatch.setattr(egress, "_may_reach", lambda address: True)  # or a server of this test could not be outside
    made = local.service.shared
    answer = made.process.exec(FETCH.format(url=f"http://outside.example:{outside}/a?b=c"))
    assert answer.result == f"/a?b=c of outside.example:{outside}\n"
    tunnel = (
        "import http.client, os, urllib.parse; p = urllib.parse.urlsplit(os.environ['HTTPS_PROXY']); "
        "c = http.client.HTTPConnection(p.hostname, p.port); "
        f"c.set_tunnel('outside.example', {outside}); c.request('GET', '/t'); print(c.getresponse().read().decode())"
    )
    assert made.process.code_run(tunnel).result.startswith("/t of outside.example")


def test_egress_leads_not_to_this_machine(local: Local, outside: int) -> None:
    """The proxy reaches nothing on this machine's loopback, by whatever name."""
    for host in ("outside.example", "127.0.0.1", "[::1]", "0.0.0.0"):
        url = f"http://{host}:{outside}/"
        answer = local.service.shared.process.exec(f"unset NO_PROXY no_proxy; {FETCH.format(url=url)}")
        assert "403" in answer.result, host


def test_block_has_no_proxy(local: Local, outside: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """With ``network_block_all`` there is no proxy to be found."""
    monkeypatch.setattr(egress, "_may_reach", lambda address: True)
    with local.service.sandbox(network_block_all=True) as made:
        assert made.process.exec("env | grep -i proxy").result == ""
        assert made.process.exec(FETCH.format(url=f"http://outside.example:{outside}/")).exit_code != 0


def test_egress_is_blocked_and_previews_work(local: Local) -> None:
    """With ``network_block_all`` nothing leads out, and previews, toolbox and files go on."""
    with local.service.sandbox(network_block_all=True) as made:
        for host in ("192.0.2.1", "example.com"):  # a documentation address (RFC 5737), and a name
            assert made.process.exec(DIAL.format(host=host, port=80)).exit_code != 0
        answer = made.process.exec(f"{DIAL.format(host='192.0.2.1', port=80)}")
        assert "Network is unreachable" in answer.result
        link = made.get_preview_link(start_app(made))
        assert local.service.plain.get(link.url, headers={TOKEN_HEADER: link.token}).status_code == 200
