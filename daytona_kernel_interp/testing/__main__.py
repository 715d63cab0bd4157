"""``python -m daytona_kernel_interp.testing``: run an emulator until Ctrl-C."""

from __future__ import annotations

import argparse
import shlex
import signal
import sys
import threading

from .emulator import DOMAIN, DaytonaEmulator


def main() -> int:
    """Serve, and print the environment variables that a client needs."""
    parser = argparse.ArgumentParser(
        prog="python -m daytona_kernel_interp.testing",
        description="Run a Daytona on loopback. Sandboxes are child processes of this one, and run as you.",
    )
    parser.add_argument("--port", type=int, default=0, help="port on 127.0.0.1 (default: a free one)")
    parser.add_argument("--api-key", help="the key to accept (default: a new one)")
    parser.add_argument("--generation", choices=("old", "new"), default="new", help="how refusals look")
    parser.add_argument("--domain", default=DOMAIN, help="domain of preview hosts")
    parser.add_argument("--shared", action="store_true", help="no network namespaces, even where they work")
    options = parser.parse_args()
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    try:
        emulator = DaytonaEmulator(
            port=options.port,
            api_key=options.api_key,
            isolated=False if options.shared else None,
            generation=options.generation,
            domain=options.domain,
        )
        with emulator:
            for name, value in emulator.environment().items():
                print(f"export {name}={shlex.quote(value)}", flush=True)
            stop.wait()
    except (OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
