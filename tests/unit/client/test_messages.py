"""Tests of ``client.messages``."""

from __future__ import annotations

from typing import Any

import pytest
from jupyter_client.session import Session

from daytona_kernel_interp.client.messages import parse

KEY = b"a key"


def parts(session: Session, content: Any = None, *buffers: bytes) -> list[Any]:
    message = session.msg("stream", content={"text": "2026-01-02T03:04:05.000006Z"} if content is None else content)
    _, found = session.feed_identities([*session.serialize(message), *buffers])
    return list(found)


def test_a_message_is_what_jupyter_client_makes_of_it_but_its_dates() -> None:
    """All parts are equal to those of jupyter_client, except that texts which look like dates stay str."""
    sent = parts(Session(key=KEY), None, b"one", b"two")
    ours, theirs = parse(Session(key=KEY), sent), Session(key=KEY).deserialize(sent)
    assert ours.keys() == theirs.keys()
    assert [bytes(buffer) for buffer in ours["buffers"]] == [b"one", b"two"]
    assert (ours["msg_id"], ours["msg_type"]) == (theirs["msg_id"], "stream")
    assert ours["content"] == {"text": "2026-01-02T03:04:05.000006Z"}
    assert isinstance(ours["header"]["date"], str)


@pytest.mark.parametrize("broken", ["key", "content", "short", "empty"])
def test_what_the_kernel_did_not_sign_is_refused(broken: str) -> None:
    """Messages with another key, a changed part or a missing part are refused."""
    sent = parts(Session(key=b"another" if broken == "key" else KEY))
    if broken == "content":
        sent[4] = b"{}"
    sent = sent[: {"short": 4, "empty": 1}.get(broken, len(sent))]
    with pytest.raises(ValueError, match="not signed with the session's key"):
        parse(Session(key=KEY), sent)


def test_what_is_signed_and_no_message_is_refused() -> None:
    """A kernel can sign malformed messages, because it runs untrusted code."""
    with pytest.raises(ValueError, match="not JSON objects"):
        parse(Session(key=KEY), parts(Session(key=KEY), "[1]"))
