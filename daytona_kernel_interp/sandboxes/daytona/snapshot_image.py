"""The kernel image: the recipe in ``sandbox_image/`` as a Dockerfile that needs no other file.

Files next to a Dockerfile would need Daytona's object storage, and permissions of their own. So the files that the
recipe copies are written into the Dockerfile: a wheel of the part of this package that runs in a sandbox, and the pins.
"""

from __future__ import annotations

import ast
import base64
import bz2
import contextlib
import functools
import hashlib
import io
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

if TYPE_CHECKING:
    from collections.abc import Iterator

    from daytona import Image


# A name, extras, and a version, URL or marker after it, or a URL; no option and no second requirement.
_REQUIREMENT = re.compile(
    r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?[ ]*(?:\[[^\]\n]*\])?[ ]*(?:[=<>!~;@(][^\n]*)?|[a-z][a-z+]*://\S+"
)
_PACKAGE = Path(__file__).resolve().parent.parent.parent
_EPOCH = (1980, 1, 1, 0, 0, 0)
# Daytona's API accepts a body of at most 100 kB (the default of NestJS, unchanged in apps/api/src/main.ts).
_MAX_DOCKERFILE = 96_000
_LINE = 16_000  # BuildKit refuses lines of 64 KiB, and Linux arguments of 128 KiB
_MAX_ARGUMENT = 120_000
# Base 85 without the characters that are special in a Dockerfile or in a shell's single quotes.
_SAFE = str.maketrans("<$`#", ",.:/")
_UNPACK = (
    "import base64,bz2,sys;"
    'text="".join(sys.argv[2].split()).translate(str.maketrans(",.:/","<$`#"));'
    'open(sys.argv[1],"wb").write(bz2.decompress(base64.b85decode(text)))'
)


def recipe_folder() -> Path:
    """Return the folder of the recipe: next to the package in a checkout, inside it in an installation."""
    found = [place / "sandbox_image" for place in (_PACKAGE.parent, _PACKAGE) if (place / "sandbox_image").is_dir()]
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

    def dockerfile(self) -> str:
        """Return the text of the Dockerfile, which needs no other file."""
        files = {path.name: path.read_bytes() for path in sorted(recipe_folder().glob("requirements*.txt"))}
        if not self.data:
            files["requirements-data.txt"] = b""
        files[wheel_name()] = wheel()
        lines = []
        for line in (recipe_folder() / "Dockerfile").read_text(encoding="utf-8").splitlines():
            if line.startswith("COPY "):
                *patterns, folder = line.split()[1:]
                lines += [
                    write_file_step(f"{folder}{name}", files[name]) for name in files if _matching_files(name, patterns)
                ]
            else:
                if line.startswith("USER ") and self.packages:
                    lines.append(f"RUN pip install {shlex.join(self.packages)}")
                lines.append(line)
        return "\n".join(lines) + "\n"

    def name(self) -> str:
        """Return a name for the image's snapshot; equal recipes have equal names."""
        return f"daytona-kernel-{__version__}-{hashlib.sha256(self.dockerfile().encode()).hexdigest()[:8]}"

    @contextlib.contextmanager
    def for_sdk(self) -> Iterator[Image]:
        """Yield the image as the SDK's ``Image``, whose files exist for the time of the block."""
        from daytona import Image

        with tempfile.TemporaryDirectory(prefix="daytona-kernel-") as folder:
            text = self.dockerfile()
            if len(text) > _MAX_DOCKERFILE:  # then the files go through the object storage after all
                text = write_context(Path(folder), self)
            path = Path(folder) / "Dockerfile"
            path.write_text(text, encoding="utf-8")
            yield Image.from_dockerfile(path)


def entrypoint() -> list[str]:
    """Return the entrypoint of the recipe."""
    import json

    (line,) = re.findall(
        r"^ENTRYPOINT (\[.*\])$", (recipe_folder() / "Dockerfile").read_text(encoding="utf-8"), re.MULTILINE
    )
    return [str(word) for word in json.loads(line)]


def wheel_name() -> str:
    """Return the wheel's file name."""
    return f"daytona_kernel_interp-{__version__}-py3-none-any.whl"


@functools.cache
def wheel() -> bytes:
    """Return a wheel of the guest, made from the installed files; equal files make equal wheels.

    Comments and docstrings, a third of it, are left out because of the Dockerfile's size.
    """
    info = f"daytona_kernel_interp-{__version__}.dist-info"
    files = {f"{_PACKAGE.name}/{path.relative_to(_PACKAGE).as_posix()}": path for path in prepare.modules(_PACKAGE)}
    contents = {name: _without_prose(path.read_text(encoding="utf-8")).encode() for name, path in files.items()}
    contents[f"{_PACKAGE.name}/{prepare.ORIGIN}"] = prepare.digest(_PACKAGE).encode()
    contents[f"{info}/METADATA"] = (
        f"Metadata-Version: 2.1\nName: daytona-kernel-interp\nVersion: {__version__}\n"
        "Summary: The part of daytona-kernel-interp that runs in a sandbox.\nRequires-Python: >=3.10\n"
    ).encode()
    contents[f"{info}/WHEEL"] = (
        f"Wheel-Version: 1.0\nGenerator: daytona-kernel {__version__}\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    ).encode()
    record = [f"{name},sha256={_urlsafe(data)},{len(data)}\n" for name, data in contents.items()]
    contents[f"{info}/RECORD"] = "".join([*record, f"{info}/RECORD,,\n"]).encode()
    buffer = io.BytesIO()
    with zipfile.ZipFile(
        buffer, "w"
    ) as archive:  # not compressed: the Dockerfile compresses the whole, which is better
        for name, data in contents.items():
            entry = zipfile.ZipInfo(name, _EPOCH)
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, data)
    return buffer.getvalue()


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


def write_context(folder: Path, image: KernelImage | None = None) -> str:
    """Write the files that ``docker build`` needs into a folder, and return the Dockerfile's text."""
    folder.mkdir(parents=True, exist_ok=True)
    text = (recipe_folder() / "Dockerfile").read_text(encoding="utf-8").replace("COPY *.whl", f"COPY {wheel_name()}")
    if image is not None and image.packages:
        text = text.replace("\nUSER ", f"\nRUN pip install {shlex.join(image.packages)}\nUSER ", 1)
    for path in recipe_folder().glob("requirements*.txt"):
        empty = image is not None and not image.data and path.name == "requirements-data.txt"
        (folder / path.name).write_bytes(b"" if empty else path.read_bytes())
    (folder / wheel_name()).write_bytes(wheel())
    (folder / "Dockerfile").write_text(text, encoding="utf-8")
    return text


def _matching_files(name: str, patterns: list[str]) -> bool:
    return name in patterns or any(pattern.startswith("*") and name.endswith(pattern[1:]) for pattern in patterns)


def write_file_step(path: str, data: bytes) -> str:
    """Return the Dockerfile step that writes a file."""
    text = base64.b85encode(bz2.compress(data)).decode("ascii").translate(_SAFE)
    if len(text) > _MAX_ARGUMENT:
        raise SandboxFailed(f"{path} is too large for a Dockerfile")
    lines = "\\\n".join(text[at : at + _LINE] for at in range(0, len(text), _LINE))
    folder = path.rpartition("/")[0]
    return f"RUN mkdir -p {folder} && python -c '{_UNPACK}' {path} '{lines}'"


def _urlsafe(data: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
