"""Build the image from a checkout: ``python sandbox_image/build.py build`` makes a Daytona snapshot of it.

``python sandbox_image/build.py files FOLDER`` writes what ``docker build`` needs. Both are ``daytona-kernel image``,
whose options they take; needs this package's dependencies.
"""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    from daytona_kernel_interp.cli.command_line import main

    sys.exit(main(["image", *sys.argv[1:]]))
