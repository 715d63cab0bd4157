"""Run the command line: ``python -m daytona_kernel_interp`` is ``daytona-kernel``."""

import sys

from .cli import main

if __name__ == "__main__":
    sys.exit(main())
