"""``python -m daytona_kernel_interp.guest.relay``: start a relay.

The start request (``start_request.py``) comes from standard input. Neither arguments nor environment have the secret:
other processes of the sandbox can read both. When the relay listens, it writes one line of JSON to standard output,
``{"port": int}``. It adopts kernels that an earlier relay left in the folder.

The relay ends, and its kernels with it, on SIGTERM, or when no host has connected for ``lifetime_s``. End of file on
standard input is no reason: after a host was killed, another may attach.
"""

from __future__ import annotations

import asyncio
import json
import sys

from .lifecycle import run
from .start_request import parse_start_request


async def main() -> None:
    """Serve until a signal or the host ends the relay, or no host has connected for the lifetime."""
    await run(parse_start_request(sys.stdin.buffer.readline()), _print_port)


def _print_port(port: int) -> None:
    print(json.dumps({"port": port}), flush=True)


if __name__ == "__main__":
    asyncio.run(main())
