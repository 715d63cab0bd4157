"""Defaults, limits and environment variables. The environment is read on use, never at import."""

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

START_S = 60.0  # from the creation of a sandbox to the first reply of its kernel
DAYTONA_BUILD_S = 900.0  # the same, where an image may have to be built
DIAL_S = 10.0
HEARTBEAT_S = 5.0  # interval in which a host updates its session's record

# Steps of a timeout. Interrupts reach most code within milliseconds. Native code that never checks for signals does
# not react to any of them; only then the kernel is killed.
INTERRUPT_LADDER = (("interrupt", 0.5), ("exception", 0.5), ("interrupt", 4.0))
SIGNAL_ANSWER_S = 2.5  # a relay that takes longer to send SIGINT is silent
KILL_ANSWER_S = 3.5  # the same for SIGKILL, and for the report of the exit after it
DROP_S = 2.0  # for taking back a request that is in transit, at least, before the kernel is killed
OVERRUN_S = 5.8  # from the interrupt of a cell that has to end to the end of its call, if relay and link answer
LAST_WORDS_S = 0.8  # of these, for killing the kernel and reading its journal
AFTER_SUBMIT_S = 5.0  # a cell that runs longer after SUBMIT is interrupted
REPLY_GRACE_S = 1.0  # wait for the reply after idle, or for idle after the reply
PROBE_AGAIN_S = 5.0  # between requests that prove that no message of a cell is in transit
CANCEL_S = 20.0  # limit for interrupting the cell of a cancelled call; below the limit in runtime/event_loop.py

LAST_OUTPUT_S = 30.0  # for reading the journal of a dead kernel, without a limit of time
RETRY_JOURNAL_S = 0.5  # before a journal is read again that could not be read
JOURNAL_SILENCE_S = 10.0  # a relay that sends no record of a journal for this long is silent
CLOSE_S = 9.0  # for ending a session; then it goes on in the background
RELAY_ANSWER_S = 10.0  # the same for its answer to a request that it answers at once
HELD_BYTES = 64 << 20  # of messages that wait until a journal was read; then no more are taken from the socket

MAX_RECOVERIES = 20  # of one link, one after another
MAX_TOOL_THREADS = 64  # per interpreter
MAX_PENDING_CALLS = 4096  # of one cell
PENDING_CALL_BYTES = 1 << 30  # encoded arguments of the pending calls together; a single call may have more
STORED_REPLY_BYTES = 64 << 20  # tool results of one cell, stored to be sent again after a lost link


def sandbox_choice() -> str | None:
    """Return the sandbox that the environment names, or None."""
    return os.environ.get(SANDBOX_VARIABLE) or None


def daytona_setting(name: str) -> str | None:
    """Return a variable from the places where Daytona's SDK looks: the environment, .env.local, .env.

    With ``PYTHON_DOTENV_DISABLED`` the files are not read, as in python-dotenv itself.
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
    """Return the variable that has the credential for Daytona's API and its HTTP headers, or None if none is set."""
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
    """Return the snapshot for Daytona sandboxes that the environment names, or None."""
    return os.environ.get(SNAPSHOT_VARIABLE) or None


def preview_address(host: str) -> str | None:
    """Return the address of a preview's host that the environment sets as ``.DOMAIN=ADDRESS,…``, or None."""
    for item in os.environ.get(NAMES_VARIABLE, "").split(","):
        domain, _, address = item.partition("=")
        if domain and address and host.endswith(domain):
            return address
    return None


def rlm_keyword_wanted() -> bool:
    """Return whether ``dspy.RLM`` may get its ``interpreter=`` keyword back."""
    return os.environ.get(RLM_KEYWORD_VARIABLE, "").lower() not in ("off", "0", "false", "no")
