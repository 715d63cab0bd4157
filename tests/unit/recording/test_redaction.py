"""What must not enter a recording: found in whatever form it is written, for as long as it opens anything."""

from __future__ import annotations

import json

import pytest

from daytona_kernel_interp.codec import values
from daytona_kernel_interp.recording.redaction import REPLACEMENT, Secrets

AWKWARD = ['pa"ss"word-1234', "back\\slash\\12", "zwölf-zeichen", "two\nlines-of-it", "surrogate\udcff-escaped"]


@pytest.mark.parametrize("secret", AWKWARD)
def test_a_secret_is_found_as_json_has_it(secret: str) -> None:
    """Quotes, backslashes and letters beyond ASCII stand otherwise in JSON than in the text itself."""
    known = Secrets()
    known.add(secret)
    for ascii_only in (False, True):
        assert known.found_in(json.dumps({"text": f"a {secret} b"}, ensure_ascii=ascii_only))
    assert known.scrub(f"a {secret} b") == f"a {REPLACEMENT} b"


def test_a_buffer_that_is_nothing_but_a_secret() -> None:
    """The shortest that can have one; a shorter one is not looked through."""
    known = Secrets()
    known.add("a-secret-of-17-ch", "another-secret-of-26-chars")
    assert known.scrub_bytes(b"a-secret-of-17-ch") == REPLACEMENT.encode("ascii")
    assert known.scrub_bytes(b"a-secret-of-17-c") == b"a-secret-of-17-c"


@pytest.mark.parametrize("secret", AWKWARD[:4])
@pytest.mark.parametrize("much", [1, 100_000])
def test_a_secret_is_found_in_a_value(secret: str, much: int) -> None:
    """The encoding of a value is still one afterwards, with the replacement in it; small or large."""
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
    """Small bytes stand in a value as base64, and so does a text with lone surrogates; zeros take its place."""
    known = Secrets()
    known.add(secret)
    told = secret.encode("utf-8", "surrogateescape")
    for value in (b"x" * before + told + b"y", f"{'x' * before}{secret}\ud800"):
        clean = [known.scrub_bytes(buffer) for buffer in values.dumps([value])]
        found = values.loads(clean)[0]
        assert type(found) is type(value)
        found = found if isinstance(found, bytes) else found.encode("utf-8", "surrogatepass")
        assert told[1:-1] not in found
        assert found.startswith(b"x" * before)
        assert found.endswith((b"y", "\ud800".encode("utf-8", "surrogatepass")))


def test_what_two_sessions_share_is_known_until_both_are_over() -> None:
    """The token of a relay that two sessions use, or one that is in the environment too."""
    known = Secrets()
    known.add("a shared token", "a token of one")
    known.add("a shared token")
    known.discard("a shared token", "a token of one", "never added")
    assert known.found_in("says a shared token")
    assert not known.found_in("says a token of one")
    known.discard("a shared token")
    assert not known.found_in("says a shared token")


def test_named_settings_and_short_texts() -> None:
    """Of settings those whose names say so, headers included; what is short may be anything."""
    known = Secrets()
    known.add_named({"api_key": "sk-1234567890", "model": "some-model-name", "token": "short"})
    known.add_named({"headers": {"Authorization": "Bearer abcdefghijkl"}})
    assert (
        known.scrub("sk-1234567890 some-model-name short abcdefghijkl")
        == f"{REPLACEMENT} some-model-name short {REPLACEMENT}"
    )
