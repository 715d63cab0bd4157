"""Build the image from a checkout: ``python sandbox_image/build.py build`` builds a Daytona snapshot of it.

``python sandbox_image/build.py files FOLDER`` writes the files for ``docker build``. Both are ``daytona-kernel image``
and have its options. They need this package's dependencies.
"""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    from daytona_kernel_interp.cli.command_line import main

    sys.exit(main(["image", *sys.argv[1:]]))
