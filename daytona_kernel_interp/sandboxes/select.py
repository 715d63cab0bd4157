"""Select a sandbox by argument or environment, and adopt one by its record."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..config import SANDBOX_VARIABLE, daytona_credential, sandbox_choice
from ..errors import SandboxFailed, SessionNotFound
from .base import Sandbox
from .daytona import DaytonaSandbox
from .local import LocalSandbox, RunningLocalSandbox
from .remote_relay import RunningRelaySandbox

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .base import RunningSandbox

_LOCAL = (
    'sandbox="local" runs the kernel in a child process of this one, where the model\'s code runs as you, '
    "without isolation"
)


def select_sandbox(sandbox: object) -> Sandbox:
    """Return the sandbox for a description, a name, or None, which means the choice of the environment.

    Raises:
        SandboxFailed: If there is no such sandbox, or no choice; the text says what to pass.
    """
    choice = sandbox if sandbox is not None else sandbox_choice()
    if choice is None and daytona_credential() is not None:
        choice = "daytona"
    if choice == "local":
        return LocalSandbox()
    if choice == "daytona":
        return DaytonaSandbox()
    if choice is None:
        raise SandboxFailed(
            f"No sandbox was chosen: set DAYTONA_API_KEY for one at Daytona, pass one, or set {SANDBOX_VARIABLE}. "
            f"{_LOCAL}."
        )
    if isinstance(choice, (str, type)) or not isinstance(choice, Sandbox):
        raise SandboxFailed(
            f'There is no sandbox {choice!r}: pass "daytona", "local", or a description such as DaytonaSandbox() or '
            "LocalSandbox()."
        )
    return choice


def adopt(record: Mapping[str, object]) -> RunningSandbox:
    """Adopt the running sandbox of a session's record.

    Raises:
        SessionNotFound: If this version does not know its kind, or if the record is invalid.
    """
    try:
        match record.get("kind"):
            case "local":
                return RunningLocalSandbox.adopt(record)
            case "daytona":
                from .daytona.sandbox import RunningDaytonaSandbox  # imports pydantic

                return RunningDaytonaSandbox.adopt(record)
            case "relay":
                return RunningRelaySandbox.adopt(record)
            case kind:
                raise SessionNotFound(
                    f"the session runs in a sandbox of kind {kind!r}, which this version cannot attach to"
                )
    except (KeyError, TypeError, ValueError, SandboxFailed) as error:
        raise SessionNotFound(f"the session's sandbox cannot be adopted: {error}") from error
