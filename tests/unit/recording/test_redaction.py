"""Secrets are found in each form in which they can be written, until every session has discarded them."""

from __future__ import annotations

import json

import pytest

from daytona_kernel_interp.codec import values
from daytona_kernel_interp.recording.redaction import REPLACEMENT, Secrets

AWKWARD = ['pa"ss"word-1234', "back\\slash\\12", "zwölf-zeichen", "two\nlines-of-it", "surrogate\udcff-escaped"]


def found(known: Secrets, text: str) -> bool:
    """Return whether ``text`` contains a secret."""
    return known.scrub(text) != text


@pytest.mark.parametrize("secret", AWKWARD)
def test_a_secret_is_found_as_json_has_it(secret: str) -> None:
    """A secret with quotes, backslashes or non-ASCII letters is found in JSON, where these are escaped."""
    known = Secrets()
    known.add(secret)
    for ascii_only in (False, True):
        assert found(known, json.dumps({"text": f"a {secret} b"}, ensure_ascii=ascii_only))
    assert known.scrub(f"a {secret} b") == f"a {REPLACEMENT} b"


def test_a_buffer_that_is_nothing_but_a_secret() -> None:
    """A buffer as long as the shortest secret is searched; a shorter one is not."""
    known = Secrets()
    known.add("a-secret-of-17-ch", "another-secret-of-26-chars")
    assert known.scrub_bytes(b"a-secret-of-17-ch") == REPLACEMENT.encode("ascii")
    assert known.scrub_bytes(b"a-secret-of-17-c") == b"a-secret-of-17-c"


@pytest.mark.parametrize("secret", AWKWARD[:4])
@pytest.mark.parametrize("much", [1, 100_000])
def test_a_secret_is_found_in_a_value(secret: str, much: int) -> None:
    """The encoding of a small or large value is still valid after the replacement."""
    known = Secrets()
    known.add(secret)
    text = f"a {secret} b " * much
    clean = [known.scrub_bytes(buffer) for buffer in values.dumps([text] if much == 1 else text)]
    if much == 1:
        assert values.loads(clean) == [text.replace(secret, REPLACEMENT)]
    assert not any(secret.encode() in bytes(buffer) for buffer in clean)
    data = b"nothing here"
    assert known.scrub_bytes(data) is data


@pytest.mark.parametrize("secret", AWKWARD)
@pytest.mark.parametrize("before", range(4))
def test_a_secret_is_found_in_the_base64_of_bytes(secret: str, before: int) -> None:
    """A secret is replaced by zeros in the base64 of bytes and of a text with lone surrogates."""
    known = Secrets()
    known.add(secret)
    encoded = secret.encode("utf-8", "surrogateescape")
    for value in (b"x" * before + encoded + b"y", f"{'x' * before}{secret}\ud800"):
        clean = [known.scrub_bytes(buffer) for buffer in values.dumps([value])]
        found = values.loads(clean)[0]
        assert type(found) is type(value)
        found = found if isinstance(found, bytes) else found.encode("utf-8", "surrogatepass")
        assert encoded[1:-1] not in found
        assert found.startswith(b"x" * before)
        assert found.endswith((b"y", "\ud800".encode("utf-8", "surrogatepass")))


def test_what_two_sessions_share_is_known_until_both_are_over() -> None:
    """A text that was added twice is found until it was discarded twice."""
    known = Secrets()
    known.add("a shared token", "a token of one")
    known.add("a shared token")
    known.discard("a shared token", "a token of one", "never added")
    assert found(known, "says a shared token")
    assert not found(known, "says a token of one")
    known.discard("a shared token")
    assert not found(known, "says a shared token")


def test_named_settings_and_short_texts() -> None:
    """Settings with a secret name are secrets, also within headers; a short text is ignored."""
    known = Secrets()
    known.add_named({"api_key": "sk-1234567890", "model": "some-model-name", "token": "short"})
    known.add_named({"headers": {"Authorization": "Bearer abcdefghijkl"}})
    assert (
        known.scrub("sk-1234567890 some-model-name short abcdefghijkl")
        == f"{REPLACEMENT} some-model-name short {REPLACEMENT}"
    )
