"""``python -m daytona_kernel_interp.guest.relay``: start the relay.

Reads one JSON line from standard input, so that the secret stands neither in the arguments nor in the environment:
``{"secret": str, "port": int, "folder": str, "cwd": str, "remove": bool, "lifetime_s": float, "host": str}``
(``remove``: delete the folder in the end; ``host``: the address to listen on, if not 127.0.0.1). Writes one JSON line
to standard output, ``{"port": int}``, when it listens. Kernels that an earlier relay left in the folder are taken over.

With an argument, the line is read from the file of that name, which may come later, and which is deleted.

It ends, and its kernels with it, at the line ``end``, on SIGTERM, or when no host was heard of for ``lifetime_s``. That
its standard input ends says nothing: a host that was killed has a successor, perhaps.
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

from .kernel_processes import KernelProcesses
from .lifecycle import end_at_signals, parse_start_request, serve

_START_REQUEST_S = 60.0
_POLL_S = 0.01


async def main() -> None:
    """Serve until the host wants the end, or is gone for too long."""
    stdin = asyncio.StreamReader()
    if len(sys.argv) > 1:
        line = await _wait_for_file(Path(sys.argv[1]))
    else:
        await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(stdin), sys.stdin)
        line = await stdin.readline()
    request = parse_start_request(json.loads(line))

    # The kernel's imports take longest and websockets' come second, so they run side by side.
    kernels = KernelProcesses(request.folder, request.cwd, request.lifetime_s)
    end_at_signals(kernels)
    if not kernels.adopt():
        await kernels.warm_up()
    await serve(request, kernels, _print_port, _read_end(stdin))


def _print_port(port: int) -> None:
    print(json.dumps({"port": port}), flush=True)


async def _wait_for_file(path: Path) -> bytes:
    """Return the line in a file that somebody is about to write, and delete the file."""
    for _ in range(int(_START_REQUEST_S / _POLL_S)):
        if line := _read_and_delete_line(path):
            return line
        await asyncio.sleep(_POLL_S)
    raise SystemExit(f"no order came in {_START_REQUEST_S:g} s")


def _read_and_delete_line(path: Path) -> bytes:
    try:
        line = path.read_bytes()
    except FileNotFoundError:
        return b""
    if not line.endswith(b"\n"):
        return b""
    path.unlink()
    return line


async def _read_end(stdin: asyncio.StreamReader) -> None:
    """Return when the host says ``end``."""
    while line := await stdin.readline():
        if line.strip() == b"end":
            return
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())
