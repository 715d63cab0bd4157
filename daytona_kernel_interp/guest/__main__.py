"""``python -m daytona_kernel_interp.guest``: the former name of ``python -m daytona_kernel_interp.guest.relay``."""

from __future__ import annotations

import asyncio

from .relay.__main__ import main

if __name__ == "__main__":
    asyncio.run(main())
