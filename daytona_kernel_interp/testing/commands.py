"""The toolbox's single commands: ``exec`` and ``code-run``."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from typing import TYPE_CHECKING

from .model import Refused
from .pipes import drop, reader_of, writer_of
from .sessions import shell

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from .processes import Machine


async def execute(
    machine: Machine, command: str, env: Mapping[str, str], cwd: Path, timeout_s: float | None
) -> tuple[str, int]:
    """Run a command from the standard input of a new shell; return its merged output and exit code.

    It returns after all processes have closed the output, so a background job must redirect its own.

    Raises:
        Refused: After the timeout, which also kills the shell's process group.
    """
    return await _run(machine, [shell()], command.encode(), env, cwd, timeout_s)


async def run_code(
    machine: Machine, code: str, arguments: Sequence[str], env: Mapping[str, str], cwd: Path, timeout_s: float | None
) -> tuple[str, int]:
    """Run Python code in a separate process; return its merged output and exit code.

    Raises:
        Refused: After the timeout.
    """
    command = [sys.executable, "-u", "-c", code, *arguments]
    return await _run(machine, command, b"", env, cwd, timeout_s)


async def _run(
    machine: Machine, arguments: Sequence[str], text: bytes, env: Mapping[str, str], cwd: Path, timeout_s: float | None
) -> tuple[str, int]:
    (child_in, ours_in), (ours_out, child_out) = os.pipe(), os.pipe()
    reader, out = await reader_of(ours_out)
    into = await writer_of(ours_in)
    try:
        try:
            child = await machine.spawn(arguments, env, cwd, (child_in, child_out, child_out))
        finally:
            os.close(child_in)
            os.close(child_out)
        into.write(text)
        into.close()
        ended = asyncio.ensure_future(asyncio.gather(reader.read(), child.exited))
        done, _ = await asyncio.wait((ended,), timeout=timeout_s)
        if not done:
            await machine.kill(child.pid)
            ended.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await ended
            raise Refused(408, "command execution timeout", code="REQUEST_TIMEOUT")
        output, code = ended.result()
        return output.decode("utf-8", "replace"), code
    finally:
        drop(into)
        out.close()
