"""``python -m daytona_kernel_interp.guest``: start the relay.

Reads one JSON line from standard input, so that the secret stands neither in the arguments nor in the environment:
``{"secret": str, "port": int, "folder": str, "cwd": str, "remove": bool}`` (``remove``: delete the folder in the end).
Writes one JSON line to standard output, ``{"port": int}``, when it listens. It ends, and its kernels with it, when
standard input ends or on SIGTERM.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import signal
import sys
from pathlib import Path

from .kernels import Kernels


async def main() -> None:
    """Serve until the host is gone."""
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    stdin = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(stdin), sys.stdin)
    order = json.loads(await stdin.readline())
    folder, cwd = Path(order["folder"]), Path(order["cwd"])

    # The kernel's imports take longest and websockets' come second, so they run side by side.
    kernels = Kernels(folder, cwd)
    await kernels.warm_up()
    try:
        from .relay import Relay

        server = await Relay(order["secret"], kernels).listen(order["port"])
        print(json.dumps({"port": server.sockets[0].getsockname()[1]}), flush=True)
        await _until_host_is_gone(stdin, stop)
        server.close()
    finally:
        await kernels.end_all()
        if order.get("remove"):  # a folder made for this relay; a host that was killed cannot delete it
            shutil.rmtree(folder, ignore_errors=True)


async def _until_host_is_gone(stdin: asyncio.StreamReader, stop: asyncio.Event) -> None:
    gone, told = asyncio.ensure_future(stdin.read(1)), asyncio.ensure_future(stop.wait())
    await asyncio.wait([gone, told], return_when=asyncio.FIRST_COMPLETED)
    gone.cancel()
    told.cancel()


if __name__ == "__main__":
    asyncio.run(main())
