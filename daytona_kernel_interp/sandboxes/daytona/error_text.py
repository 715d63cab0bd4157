"""Errors of Daytona's SDK as one sentence that says what to do, and the URL of the API."""

from __future__ import annotations

import contextlib
import html
import os
import re
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from ...errors import SandboxFailed

if TYPE_CHECKING:
    from collections.abc import Iterator

    from . import DaytonaSandbox

_URL_VARIABLES = ("DAYTONA_API_URL", "DAYTONA_SERVER_URL")
_REAL_URL = "https://app.daytona.io/api"
# What the SDK puts before the service's reason: the operation, and the state as an enum member.
_PREFIXES = re.compile(
    r"^(Failed to create (sandbox|snapshot): |Failed to create snapshot \S+, reason: "
    r"|Failure during waiting for sandbox to start: |Sandbox \S+ entered error state: \S+ error reason: )*"
)
_PAGE = re.compile(r"(?i)<(!doctype|html|head|body|title)\b")
_MARKUP = re.compile(r"(?is)<(script|style|head)\b.*?</\1\s*>|<[^>]*>")
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_TEXT_CHARS = 500
_QUOTA = re.compile(r"(?i)\b(limit exceeded|quota)\b")


def error_sentence(error: Exception) -> str:
    """Return the meaning of an SDK error, and what to do about it."""
    status = getattr(error, "status_code", None)
    text = _plain_text(_PREFIXES.sub("", str(error))) or type(error).__name__
    if text == "None":
        return "it gave no reason"
    if status == 401:
        return f"it does not accept the key in DAYTONA_API_KEY ({text})"
    if _over_quota(error):
        return f"a limit of the organisation is reached: delete unneeded sandboxes, or request less ({text})"
    if status == 403:
        return f"the key or the organisation has no permission for this ({text})"
    if status == 429:
        return f"too many requests, try again later ({text})"
    if status is not None and status >= 500:
        return f"the service or a proxy in front of it failed: try again later ({text})"
    if status is None and ("Cannot connect" in text or "Max retries" in text):
        if (urlsplit(api_url()).hostname or "") not in text:  # the text names the host
            return f"the proxy of its sandboxes is unreachable ({text})"
        return f"its API at {api_url()} is unreachable ({text})"
    if "validation error" in text:  # from the SDK's models
        return f"{api_url()} sent an answer that is not the API's: check DAYTONA_API_URL, which must end in /api"
    return text


def _plain_text(text: str) -> str:
    """Return a text of the service without markup and control characters: a proxy may answer with a page."""
    if _PAGE.search(text):
        text = html.unescape(_MARKUP.sub(" ", text))
    text = " ".join(_CONTROLS.sub("", text).split())
    return (text if len(text) <= _TEXT_CHARS else f"{text[:_TEXT_CHARS]}...").removesuffix(":")


@contextlib.contextmanager
def sdk_errors(what: str) -> Iterator[None]:
    """Raise any error of the block as ``SandboxFailed``: the SDK passes on those of its HTTP client and its models."""
    try:
        yield
    except Exception as error:
        raise SandboxFailed(f"{what}: {error_sentence(error)}") from error


def api_url() -> str:
    """Return the URL at which the SDK finds the API."""
    return next((os.environ[name] for name in _URL_VARIABLES if os.environ.get(name)), _REAL_URL)


def _over_quota(error: Exception) -> bool:
    return getattr(error, "status_code", None) in (400, 403) and _QUOTA.search(str(error)) is not None


def url_error() -> str | None:
    """Return a sentence if the API's URL is invalid, else None."""
    if re.match(r"https?://[^/]", api_url()):
        return None
    return f"DAYTONA_API_URL must be a URL such as {_REAL_URL}, not {api_url()!r}"


def advice(description: DaytonaSandbox, error: Exception) -> str:
    """Return advice to append to an error; the service's own text mentions only its dashboard."""
    if _over_quota(error):
        return "; `daytona-kernel gc` deletes orphaned sandboxes"
    if description.source_image is None and "snapshot" in str(error).lower() and "not found" in str(error):
        return " Pass another one, or build one with `daytona-kernel image build`"
    return ""
