"""Network namespaces: real ports of a sandbox's own, and a real egress block."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

import pytest

from daytona_kernel_interp.testing.processes import can_isolate
from tests.conformance.service import TOKEN_HEADER, start_app

if TYPE_CHECKING:
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


def test_egress_is_blocked_and_previews_work(local: Local) -> None:
    """With ``network_block_all`` nothing leads out, and previews, toolbox and files go on."""
    with local.service.sandbox(network_block_all=True) as made:
        for host in ("192.0.2.1", "example.com"):  # RFC 5737: nobody's; and a name
            assert made.process.exec(DIAL.format(host=host, port=80)).exit_code != 0
        answer = made.process.exec(f"{DIAL.format(host='192.0.2.1', port=80)}")
        assert "Network is unreachable" in answer.result
        link = made.get_preview_link(start_app(made))
        assert local.service.plain.get(link.url, headers={TOKEN_HEADER: link.token}).status_code == 200
