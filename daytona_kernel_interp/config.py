"""Defaults and environment variables, read when they are needed and never at import."""

from __future__ import annotations

import contextlib
import os

SANDBOX_VARIABLE = "DAYTONA_KERNEL_SANDBOX"
RLM_KEYWORD_VARIABLE = "DAYTONA_KERNEL_RLM_KEYWORD"
DAYTONA_KEY_VARIABLE = "DAYTONA_API_KEY"
DAYTONA_JWT_VARIABLE = "DAYTONA_JWT_TOKEN"
SNAPSHOT_VARIABLE = "DAYTONA_KERNEL_SNAPSHOT"
NAMES_VARIABLE = "DAYTONA_KERNEL_NAMES"

MAX_OUTPUT_CHARS = 200_000
MAX_VALUE_BYTES = 256 << 20

START_S = 60.0  # from create to a kernel that answers
DAYTONA_BUILD_S = 900.0  # the same, where an image may have to be built
DIAL_S = 10.0
HEARTBEAT_S = 5.0  # between signs of life in a session's record

# The timeout ladder. Interrupts reach most code within milliseconds; what does not react to any is in native code
# that never looks at signals, and only then the kernel has to die.
INTERRUPT_S = 0.5
ASYNC_EXCEPTION_S = 0.5
LAST_INTERRUPT_S = 4.0
INTERRUPT_LADDER = (("interrupt", INTERRUPT_S), ("exception", ASYNC_EXCEPTION_S), ("interrupt", LAST_INTERRUPT_S))
AFTER_SUBMIT_S = 5.0  # a cell that goes on after SUBMIT is interrupted
REPLY_GRACE_S = 1.0  # idle without reply after an interrupt, or reply without idle

CANCEL_S = 20.0  # what interrupting a cell may take whose caller was cancelled; less than loop.py waits for it

MAX_RECOVERIES = 20  # in a row, of one link
MAX_TOOL_THREADS = 64  # per interpreter
MAX_PENDING_CALLS = 4096  # of one cell
PENDING_CALL_BYTES = 1 << 30  # the arguments of those together, as they came; one call may have more
STORED_REPLY_BYTES = 64 << 20  # tool results of one cell, kept in case the link is lost with them


def sandbox_choice() -> str | None:
    """Return the sandbox named in the environment, if any."""
    return os.environ.get(SANDBOX_VARIABLE) or None


def daytona_setting(name: str) -> str | None:
    """Return a variable of Daytona's SDK where that finds it: the environment, else .env.local, else .env here.

    ``PYTHON_DOTENV_DISABLED`` keeps the files out, as it does for python-dotenv itself.
    """
    if name in os.environ:
        return os.environ[name] or None
    if os.environ.get("PYTHON_DOTENV_DISABLED", "").lower() in ("1", "true", "t", "yes", "y"):
        return None
    for file in (".env.local", ".env"):
        if os.path.isfile(file):
            from dotenv import dotenv_values

            with contextlib.suppress(OSError, ValueError):
                if found := dotenv_values(file).get(name):
                    return found
    return None


def daytona_credential() -> tuple[str, dict[str, str]] | None:
    """Return the variable that has what Daytona's API asks for, and the headers it goes in; None where none is set."""
    if key := daytona_setting(DAYTONA_KEY_VARIABLE):
        return DAYTONA_KEY_VARIABLE, {"Authorization": f"Bearer {key}"}
    if token := daytona_setting(DAYTONA_JWT_VARIABLE):
        organization = daytona_setting("DAYTONA_ORGANIZATION_ID") or ""
        return DAYTONA_JWT_VARIABLE, {
            "Authorization": f"Bearer {token}",
            "X-Daytona-Organization-ID": organization,
        }
    return None


def daytona_snapshot() -> str | None:
    """Return the snapshot that the environment names for Daytona sandboxes, if any."""
    return os.environ.get(SNAPSHOT_VARIABLE) or None


def preview_address(host: str) -> str | None:
    """Return the address that the environment gives for a preview's host, as ``.DOMAIN=ADDRESS,…``, if any."""
    for item in os.environ.get(NAMES_VARIABLE, "").split(","):
        domain, _, address = item.partition("=")
        if domain and address and host.endswith(domain):
            return address
    return None


def rlm_keyword_wanted() -> bool:
    """Return whether ``dspy.RLM`` may get its ``interpreter=`` keyword back."""
    return os.environ.get(RLM_KEYWORD_VARIABLE, "").lower() not in ("off", "0", "false", "no")
