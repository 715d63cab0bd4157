"""What the commands share: exit codes, the error that ends a command, terminal output, and argument types."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from ..client.outputs import DisplayData, ExecuteResult, Output, StreamText
from ..config import DAYTONA_KEY_VARIABLE, SANDBOX_VARIABLE, daytona_credential, sandbox_choice
from ..formatting import printable

if TYPE_CHECKING:
    from collections.abc import Iterator

PROGRAM = "daytona-kernel"
FAILED, BAD_INPUT, INTERRUPTED = 1, 2, 130


class CommandError(Exception):
    """A command cannot go on; the message is one sentence.

    ``exit_code`` is :data:`BAD_INPUT` if the arguments or their files are the reason, else :data:`FAILED`.
    """

    def __init__(self, message: str, exit_code: int = BAD_INPUT) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def sentence(error: object) -> str:
    """Return the text of an error with one full stop at its end."""
    return f"{str(error).rstrip('.')}."


@contextlib.contextmanager
def refusing(*errors: type[Exception], exit_code: int = BAD_INPUT) -> Iterator[None]:
    """End the command with the sentence of any of ``errors`` that is raised here.

    Raises:
        CommandError: If one is.
    """
    try:
        yield
    except errors as error:
        raise CommandError(sentence(error), exit_code) from error


def write(file: TextIO, text: str, *, raw: bool = False) -> None:
    """Write ``text`` at once. A closed pipe is ignored: the reader, such as ``head``, has enough.

    Control characters are escaped, unless the text is ``raw``: output of the user's own program, or a status line.
    """
    try:
        file.write(text if raw else printable(text))
        file.flush()
    except BrokenPipeError:  # the code still runs to its end
        with open(os.devnull, "w") as null:
            os.dup2(null.fileno(), file.fileno())


def write_output(output: Output, *, show_value: bool = True) -> None:
    """Write one output of a cell as it arrives. The error is left to the command, which knows how the cell ended."""
    match output:
        case StreamText(name=name, text=text):
            write(sys.stderr if name == "stderr" else sys.stdout, text, raw=True)
        case ExecuteResult() if not show_value:
            pass
        case ExecuteResult(data=data) | DisplayData(data=data):
            write(sys.stdout, f"{data.get('text/plain', '')}\n", raw=True)


def require_sandbox(name: str | None) -> None:
    """Check that an option, the environment or a key chooses a sandbox.

    Raises:
        CommandError: If none does.
    """
    if (name or sandbox_choice() or daytona_credential()) is None:
        raise CommandError(
            f"No sandbox was chosen: set {DAYTONA_KEY_VARIABLE} for one at Daytona, give --sandbox or set "
            f"{SANDBOX_VARIABLE}. With --sandbox local the code runs on this machine as you, without isolation."
        )


def require_daytona_key() -> None:
    """Check that a key for Daytona is set, before a command that needs one prints anything.

    Raises:
        CommandError: If none is set.
    """
    if daytona_credential() is None:
        raise CommandError(f"No key for Daytona: set {DAYTONA_KEY_VARIABLE}, in the environment or in .env.")


def is_session_id(text: str) -> bool:
    """Return whether ``text`` has the form of a session's id: eight hexadecimal digits."""
    return len(text) == 8 and set(text) <= set("0123456789abcdef")


def seconds(text: str) -> float:
    """Parse a positive, finite number."""
    with contextlib.suppress(ValueError):
        value = float(text)
        if 0 < value < float("inf"):
            return value
    raise argparse.ArgumentTypeError(f"{text!r} is not a positive number")


def step_and_file(text: str) -> tuple[int, Path]:
    """Parse ``N=FILE``."""
    number, equals, path = text.partition("=")
    if not (equals and number.isdecimal() and path):
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form N=FILE")
    return int(number), Path(path)
