"""Tests of ``error_text``: errors of Daytona's SDK become a sentence that says what to do."""

from __future__ import annotations

import pytest

from daytona_kernel_interp import DaytonaSandbox
from daytona_kernel_interp.sandboxes.daytona.error_text import advice, error_sentence, url_error

ENTERED = "Failed to create sandbox: Failure during waiting for sandbox to start: Sandbox 1-2 entered error state: "


class Said(Exception):
    """An error as the SDK raises it; its status is None if there was no response."""

    def __init__(self, text: str, status_code: int | None = None) -> None:
        super().__init__(text)
        self.status_code = status_code


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (Said("Invalid credentials", 401), "it does not accept the key in DAYTONA_API_KEY (Invalid credentials)"),
        (Said("Total CPU limit exceeded. Maximum allowed: 10.", 403), "a limit of the organisation is reached"),
        (Said("Snapshot quota exceeded", 400), "a limit of the organisation is reached"),
        (Said("Rate limit exceeded", 429), "too many requests, try again later"),
        (Said("no", 403), "has no permission for this (no)"),
        (
            Said("Failed to create sandbox: oops", 500),
            "the service or a proxy in front of it failed: try again later (oops)",
        ),
        (Said("Cannot connect to host x"), "is unreachable"),
        (Said("1 validation error for Sandbox"), "check DAYTONA_API_URL"),
        (Said(f"{ENTERED}SandboxState.ERROR, error reason: no room"), "no room"),
        (Said(f"{ENTERED}SandboxState.ERROR, error reason: None"), "it gave no reason"),
        (Said("Failed to create snapshot: Failed to create snapshot a:b, reason: bad step"), "bad step"),
        (Said(""), "Said"),
    ],
)
def test_each_error_says_what_to_do(error: Said, words: str) -> None:
    """The sentence has the service's reason, without the prefixes of the SDK."""
    said = error_sentence(error)
    assert words in said
    assert "Failed to create" not in said
    assert "entered error state" not in said


def test_what_else_helps() -> None:
    """gc if a limit is reached, the kernel image if the snapshot does not exist, otherwise nothing."""
    assert "daytona-kernel gc" in advice(DaytonaSandbox(), Said("Total CPU limit exceeded", 403))
    missing = Said("Snapshot x not found. Did you add it through the dashboard?", 400)
    assert "daytona-kernel image build" in advice(DaytonaSandbox(snapshot="x"), missing)
    assert advice(DaytonaSandbox(image="a:1"), missing) == advice(DaytonaSandbox(), Said("no", 403)) == ""


@pytest.mark.parametrize(
    ("url", "good"), [("https://app.daytona.io/api", True), ("app.daytona.io", False), ("https:///api", False)]
)
def test_an_address_that_is_none(url: str, good: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The sentence has the invalid URL and an example."""
    monkeypatch.setenv("DAYTONA_API_URL", url)
    assert (url_error() is None) is good
    assert good or repr(url) in str(url_error())
