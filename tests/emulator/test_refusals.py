"""What the preview proxy says of sandboxes that do not answer, by their state."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.conformance.service import TOKEN_HEADER, start_app

if TYPE_CHECKING:
    from collections.abc import Callable

    from .conftest import Local


def test_stopped(local: Local) -> None:
    """A stopped sandbox has no address: 400 with the proxy's words, at the preview and at the toolbox."""
    with local.service.sandbox() as made:
        link = made.get_preview_link(3000)
        made.stop()
        answers = [
            local.service.plain.get(link.url, headers={TOKEN_HEADER: link.token}),
            local.service.toolbox("GET", "/work-dir", made),
        ]
    for answer in answers:
        body = answer.json()
        assert (answer.status_code, body["code"], body["source"]) == (400, "BAD_REQUEST", "DAYTONA_PROXY")
        assert "no IP address found. Is the Sandbox started?" in body["message"]


@pytest.mark.parametrize("end", ["archived", "destroyed"])
def test_no_runner(own: Callable[..., Local], end: str) -> None:
    """An archived one, or a destroyed one that the proxy still remembers, has no runner."""
    _, service = own()
    with service.sandbox() as made:
        link = made.get_preview_link(start_app(made))
        made.stop()
        if end == "archived":
            made.archive()
        else:
            made.delete(wait=True)
        answer = service.plain.get(link.url, headers={TOKEN_HEADER: link.token})
    assert answer.status_code == 400
    assert "failed to get runner info" in answer.json()["message"]


def test_destroyed_and_forgotten(local: Local) -> None:
    """Without the cache a destroyed sandbox's token is a wrong one."""
    made = local.service.sdk.create(local.service.params())
    link = made.get_preview_link(3000)
    made.delete(wait=True)
    assert local.service.plain.get(link.url, headers={TOKEN_HEADER: link.token}).status_code == 401


@pytest.mark.parametrize(("generation", "body"), [("old", b""), ("new", b"proxy upstream error")])
def test_nothing_listens(own: Callable[..., Local], generation: str, body: bytes) -> None:
    """Where nothing listens, old servers say nothing and newer ones a few words."""
    service = own(generation=generation).service
    link = service.shared.get_preview_link(3000)
    answer = service.plain.get(link.url, headers={TOKEN_HEADER: link.token})
    assert (answer.status_code, answer.content) == (502, body)


def test_ports_of_the_daemon_that_are_not_there(local: Local) -> None:
    """The web terminal's port is refused with its name, because the emulator has no terminal."""
    link = local.service.shared.get_preview_link(22222)
    answer = local.service.plain.get(link.url, headers={TOKEN_HEADER: link.token})
    assert answer.status_code == 501


def test_token_that_went_with_the_key(local: Local) -> None:
    """If a good key comes as bearer, a preview token beside it is handed on to the app."""
    service = local.service
    headers = {"Authorization": f"Bearer {service.api_key}", TOKEN_HEADER: "handed-on"}
    seen = dict(service.plain.get(service.server.get_preview_link(service.port).url, headers=headers).json()["headers"])
    assert {name.lower(): value for name, value in seen.items()}[TOKEN_HEADER.lower()] == "handed-on"
