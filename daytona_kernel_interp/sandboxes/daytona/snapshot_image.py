"""The kernel image: the recipe in ``sandbox_image/`` as a Dockerfile that needs no other file, and logs of builds.

Files next to a Dockerfile would need Daytona's object storage, and permissions of their own. So the files that the
recipe copies are written into the Dockerfile: a wheel of the part of this package that runs in a sandbox, and the pins.
"""

from __future__ import annotations

import ast
import base64
import bz2
import collections
import contextlib
import functools
import hashlib
import io
import logging
import re
import shlex
import tempfile
import tokenize
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ... import __version__
from ...errors import SandboxFailed
from ..option_checks import check_flag
from . import probe_script as prepare
from .guest_archive import PACKAGE, guest_modules, make_zip

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from daytona import Image

log = logging.getLogger(__name__)

# A name, extras, and a version, URL or marker after it, or a URL; no option and no second requirement.
_REQUIREMENT = re.compile(
    r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?[ ]*(?:\[[^\]\n]*\])?[ ]*(?:[=<>!~;@(][^\n]*)?|[a-z][a-z+]*://\S+"
)
_LOG_LINES = 15
_LOG_WIDTH = 240  # the kernel image's steps have up to 30,000 characters, and a build log repeats them
_LINE = 16_000  # BuildKit refuses lines of 64 KiB, and Linux arguments of 128 KiB
# Base 85 without the characters that are special in a Dockerfile or in a shell's single quotes.
_SAFE = str.maketrans("<$`#", ",.:/")
_UNPACK = (
    "import base64,bz2,sys;"
    'text="".join(sys.argv[2].split()).translate(str.maketrans(",.:/","<$`#"));'
    'open(sys.argv[1],"wb").write(bz2.decompress(base64.b85decode(text)))'
)


def recipe_folder() -> Path:
    """Return the folder of the recipe: next to the package in a checkout, inside it in an installation."""
    found = [place / "sandbox_image" for place in (PACKAGE.parent, PACKAGE) if (place / "sandbox_image").is_dir()]
    if not found:
        raise SandboxFailed("this installation has no recipe of the image: install the package's wheel again")
    return found[0]


@dataclass(frozen=True)
class KernelImage:
    """The image that has a warm relay and a spare kernel process: ``DaytonaSandbox(image=KernelImage())``.

    Daytona builds it at the first create, which takes minutes and needs no permission to create snapshots, and keeps it
    for about a day. ``daytona-kernel image build`` makes a permanent snapshot of it.

    Attributes:
        packages: Further packages to install, as pip's requirements.
        data: Whether to include the data-science set (``sandbox_image/requirements-data.txt``).
    """

    packages: tuple[str, ...] = ()
    data: bool = True

    def __post_init__(self) -> None:
        if isinstance(self.packages, str):
            raise TypeError(f"packages must be a tuple of requirements, not the text {self.packages!r}")
        for requirement in self.packages:
            if not isinstance(requirement, str):
                raise TypeError(f"packages must be texts such as 'torch>=2', not {requirement!r}")
            if _REQUIREMENT.fullmatch(requirement) is None:
                raise ValueError(f"packages must be requirements such as 'torch>=2', not {requirement!r}")
        check_flag("data", self.data)

    def _recipe(self) -> tuple[str, dict[str, bytes]]:
        """Return the text of the recipe's Dockerfile, and the files that it copies, by name."""
        folder = recipe_folder()
        text = (folder / "Dockerfile").read_text(encoding="utf-8")
        if self.packages:
            text = text.replace("\nUSER ", f"\nRUN pip install {shlex.join(self.packages)}\nUSER ", 1)
        files = {path.name: path.read_bytes() for path in sorted(folder.glob("requirements*.txt"))}
        if not self.data:
            files["requirements-data.txt"] = b""
        return text.replace("COPY *.whl", f"COPY {wheel_name()}"), {**files, wheel_name(): wheel()}

    def dockerfile(self) -> str:
        """Return the text of the Dockerfile, which needs no other file."""
        text, files = self._recipe()
        lines = []
        for line in text.splitlines():
            if line.startswith("COPY "):
                *names, folder = line.split()[1:]
                lines += [write_file_step(f"{folder}{name}", files[name]) for name in names]
            else:
                lines.append(line)
        return "\n".join(lines) + "\n"

    def name(self) -> str:
        """Return a name for the image's snapshot; equal recipes have equal names."""
        return f"daytona-kernel-{__version__}-{hashlib.sha256(self.dockerfile().encode()).hexdigest()[:8]}"

    @contextlib.contextmanager
    def for_sdk(self) -> Iterator[Image]:
        """Yield the image as the SDK's ``Image``, whose file exists for the time of the block."""
        from daytona import Image

        with tempfile.TemporaryDirectory(prefix="daytona-kernel-") as folder:
            path = Path(folder) / "Dockerfile"
            path.write_text(self.dockerfile(), encoding="utf-8")
            yield Image.from_dockerfile(path)


def wheel_name() -> str:
    """Return the wheel's file name."""
    return f"daytona_kernel_interp-{__version__}-py3-none-any.whl"


@functools.cache
def wheel() -> bytes:
    """Return a wheel of the guest, made from the installed files; equal files make equal wheels.

    Comments and docstrings, a third of it, are left out because of the Dockerfile's size: Daytona's API accepts a body
    of at most 100 kB (the default of NestJS, unchanged in apps/api/src/main.ts).
    """
    info = f"daytona_kernel_interp-{__version__}.dist-info"
    contents = {name: _without_prose(data.decode()).encode() for name, data in guest_modules().items()}
    contents[f"{PACKAGE.name}/{prepare.ORIGIN}"] = prepare.digest(PACKAGE).encode()
    contents[f"{info}/METADATA"] = (
        f"Metadata-Version: 2.1\nName: daytona-kernel-interp\nVersion: {__version__}\n"
        "Summary: The part of daytona-kernel-interp that runs in a sandbox.\nRequires-Python: >=3.10\n"
    ).encode()
    contents[f"{info}/WHEEL"] = (
        f"Wheel-Version: 1.0\nGenerator: daytona-kernel {__version__}\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    ).encode()
    record = [f"{name},sha256={_urlsafe(data)},{len(data)}\n" for name, data in contents.items()]
    contents[f"{info}/RECORD"] = "".join([*record, f"{info}/RECORD,,\n"]).encode()
    # Not compressed: the Dockerfile compresses the whole, which is better.
    return make_zip(contents, zipfile.ZIP_STORED)


def _without_prose(source: str) -> str:
    """Return a module without comments and docstrings; every line of code keeps its number."""
    lines = source.splitlines(keepends=True)
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            row, column = token.start
            lines[row - 1] = lines[row - 1][:column].rstrip() + "\n"
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, documented) and ast.get_docstring(node, clean=False) is not None:
            text = node.body[0]
            lines[text.lineno - 1] = " " * text.col_offset + '""\n'
            for row in range(text.lineno, text.end_lineno or 0):
                lines[row] = "\n"
    return "".join(lines)


def write_context(folder: Path, image: KernelImage) -> None:
    """Write the files that ``docker build`` needs into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    text, files = image._recipe()
    for name, data in {"Dockerfile": text.encode(), **files}.items():
        (folder / name).write_bytes(data)


def write_file_step(path: str, data: bytes) -> str:
    """Return the Dockerfile step that writes a file."""
    text = base64.b85encode(bz2.compress(data)).decode("ascii").translate(_SAFE)
    lines = "\\\n".join(text[at : at + _LINE] for at in range(0, len(text), _LINE))
    folder = path.rpartition("/")[0]
    return f"RUN mkdir -p {folder} && python -c '{_UNPACK}' {path} '{lines}'"


def _urlsafe(data: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()


class BuildLog:
    """A callable that receives the pieces of a build's log: logs them, and keeps the end for the error if it fails."""

    def __init__(self, on_line: Callable[[str], None] = lambda line: None) -> None:
        self._on_line = on_line
        self._last: collections.deque[str] = collections.deque(maxlen=_LOG_LINES)

    def __call__(self, text: str) -> None:
        """Log the lines of a piece."""
        for line in filter(None, map(str.rstrip, text.splitlines())):
            short = line if len(line) <= _LOG_WIDTH else f"{line[:_LOG_WIDTH]} ... ({len(line)} characters)"
            self._last.append(short)
            log.info("image: %s", short, extra={"progress": True})
            self._on_line(short)

    def end(self) -> str:
        """Return the last lines, to be appended to a sentence; an empty text if there are none."""
        return "\nThe last lines of its build:" + "".join(f"\n  {line}" for line in self._last) if self._last else ""
