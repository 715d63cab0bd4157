"""``python -m daytona_kernel_interp.guest.entrypoint``: the former name of ``guest.relay.entrypoint``.

Dockerfiles and service units written for version 0.1 name it.
"""

from __future__ import annotations

import sys

from .relay.entrypoint import main

if __name__ == "__main__":
    sys.exit(main())
