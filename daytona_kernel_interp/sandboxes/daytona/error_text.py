"""What errors of Daytona's SDK mean, in a sentence that says what to do; and the address of the API, that they name."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from . import DaytonaSandbox

_URL_VARIABLES = ("DAYTONA_API_URL", "DAYTONA_SERVER_URL")
_REAL_URL = "https://app.daytona.io/api"
# What the SDK puts before a reason: what was tried, and the state as its own code spells it.
_PREFIXES = re.compile(
    r"^(Failed to create (sandbox|snapshot): |Failed to create snapshot \S+, reason: "
    r"|Failure during waiting for sandbox to start: |Sandbox \S+ entered error state: \S+ error reason: )*"
)
_QUOTA = re.compile(r"(?i)\b(limit exceeded|quota)\b")


def error_sentence(error: Exception) -> str:
    """Return what an error of the SDK's means, and what to do about it."""
    status = getattr(error, "status_code", None)
    text = _PREFIXES.sub("", str(error)).strip() or type(error).__name__
    if text == "None":
        return "it gave no reason"
    if status == 401:
        return f"it does not accept the key in DAYTONA_API_KEY ({text})"
    if _over_quota(error):
        return f"a limit of the organisation is reached: delete what is not needed, or ask for less ({text})"
    if status == 403:
        return f"the key, or the organisation, may not do this ({text})"
    if status == 429:
        return f"too many requests, try again later ({text})"
    if status is not None and status >= 500:
        return f"it has trouble, or something before it: try again later ({text})"
    if status is None and ("Cannot connect" in text or "Max retries" in text):
        return f"its API at {api_url()} cannot be reached ({text})"
    if "validation error" in text:  # the SDK's models did not take what came
        return f"{api_url()} gave an answer that is not the API's: check DAYTONA_API_URL, which ends in /api"
    return text


def api_url() -> str:
    """Where the SDK finds the API."""
    return next((os.environ[name] for name in _URL_VARIABLES if os.environ.get(name)), _REAL_URL)


def _over_quota(error: Exception) -> bool:
    return getattr(error, "status_code", None) in (400, 403) and _QUOTA.search(str(error)) is not None


def url_error() -> str | None:
    """Say what is wrong with that address, if it is none."""
    if re.match(r"https?://[^/]", api_url()):
        return None
    return f"DAYTONA_API_URL is no address of an API: it is like {_REAL_URL}, not {api_url()!r}"


def advice(description: DaytonaSandbox, error: Exception) -> str:
    """Return what else to do about it; the service's own words know of its dashboard only."""
    if _over_quota(error):
        return "; `daytona-kernel gc` deletes sandboxes that were left behind"
    if description.source_image is None and "snapshot" in str(error).lower() and "not found" in str(error):
        return " Name another one, or make ours with `daytona-kernel image build`"
    return ""
