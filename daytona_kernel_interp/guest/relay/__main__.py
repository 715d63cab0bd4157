"""``python -m daytona_kernel_interp.guest.relay [FILE]``: start a relay.

The start request (``start_request.py``) comes from standard input, or from FILE. Neither arguments nor environment have
the secret: other processes of the sandbox can read both. When the relay listens, it writes one line of JSON to standard
output, ``{"port": int}``. It adopts kernels that an earlier relay left in the folder.

The relay ends, and its kernels with it, at the line ``end`` on standard input, on SIGTERM, or when no host has
connected for ``lifetime_s``. End of file on standard input is no reason: after a host was killed, another may attach.
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

from .lifecycle import run
from .start_request import parse_start_request, read_start_file


async def main() -> None:
    """Serve until the host ends the relay, or no host has connected for the lifetime."""
    stdin = asyncio.StreamReader()
    if len(sys.argv) > 1:
        line = await read_start_file(Path(sys.argv[1]))
    else:
        await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(stdin), sys.stdin)
        line = await stdin.readline()
    await run(parse_start_request(line), _print_port, _read_end(stdin))


def _print_port(port: int) -> None:
    print(json.dumps({"port": port}), flush=True)


async def _read_end(stdin: asyncio.StreamReader) -> None:
    """Return at the line ``end``; wait forever after end of file."""
    while line := await stdin.readline():
        if line.strip() == b"end":
            return
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())
