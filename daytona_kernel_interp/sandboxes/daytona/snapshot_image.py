"""Our image: the recipe in ``sandbox_image/`` as a Dockerfile that needs no other file, and a snapshot made of it.

Files that go with a Dockerfile would need Daytona's object storage, and rights of their own. So what the recipe copies
is written into the Dockerfile: a wheel of the part of this package that runs in a sandbox, and the pins.
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
# A body of 100 kB is all that Daytona's API takes (NestJS's own limit, which apps/api/src/main.ts leaves as it is).
_MAX_DOCKERFILE = 96_000
_LINE = 16_000  # BuildKit refuses lines of 64 KiB, and the kernel arguments of 128 KiB
_MAX_ARGUMENT = 120_000
# Base 85 without what means something in a Dockerfile or to a shell between single quotes.
_SAFE = str.maketrans("<$`#", ",.:/")
_UNPACK = (
    "import base64,bz2,sys;"
    'text="".join(sys.argv[2].split()).translate(str.maketrans(",.:/","<$`#"));'
    'open(sys.argv[1],"wb").write(bz2.decompress(base64.b85decode(text)))'
)


def recipe_folder() -> Path:
    """Return the folder of the recipe: beside the package in the repository, within it where it was installed."""
    found = [place / "sandbox_image" for place in (_PACKAGE.parent, _PACKAGE) if (place / "sandbox_image").is_dir()]
    if not found:
        raise SandboxFailed("the image's recipe is not in this installation: install the package's wheel again")
    return found[0]


@dataclass(frozen=True)
class KernelImage:
    """The image in which relay and kernel are there and warm: ``DaytonaSandbox(image=KernelImage())``.

    Daytona builds it at the first create, which takes minutes and needs no right to make snapshots, and keeps it for
    about a day. ``daytona-kernel image build`` makes a snapshot of it, which lasts.

    Attributes:
        packages: What to install besides, as for pip.
        data: Whether the data-science set is in it (``sandbox_image/requirements-data.txt``).
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
        """Return the Dockerfile, which needs no other file."""
        files = {path.name: path.read_bytes() for path in sorted(recipe_folder().glob("requirements*.txt"))}
        if not self.data:
            files["requirements-data.txt"] = b""
        files[wheel_name()] = wheel()
        lines = []
        for line in (recipe_folder() / "Dockerfile").read_text(encoding="utf-8").splitlines():
            if line.startswith("COPY "):
                *patterns, folder = line.split()[1:]
                lines += [
                    _write_file_step(f"{folder}{name}", files[name])
                    for name in files
                    if _matching_files(name, patterns)
                ]
            else:
                if line.startswith("USER ") and self.packages:
                    lines.append(f"RUN pip install {shlex.join(self.packages)}")
                lines.append(line)
        return "\n".join(lines) + "\n"

    def name(self) -> str:
        """Return a name for its snapshot: equal recipes have equal names."""
        return f"daytona-kernel-{__version__}-{hashlib.sha256(self.dockerfile().encode()).hexdigest()[:8]}"

    @contextlib.contextmanager
    def for_sdk(self) -> Iterator[Image]:
        """Have it as the SDK's ``Image`` for a while."""
        from daytona import Image

        with tempfile.TemporaryDirectory(prefix="daytona-kernel-") as folder:
            text = self.dockerfile()
            if len(text) > _MAX_DOCKERFILE:  # then by way of the object storage after all
                text = write_context(Path(folder), self)
            path = Path(folder) / "Dockerfile"
            path.write_text(text, encoding="utf-8")
            yield Image.from_dockerfile(path)


def entrypoint() -> list[str]:
    """Return the entrypoint that the recipe names."""
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
    """Return a wheel of what runs in a sandbox, made of the installed files; the same files make the same wheel.

    What only people read is left out, a third of it, for the Dockerfile's sake.
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
    with zipfile.ZipFile(buffer, "w") as archive:  # not compressed: the whole is, better, on its way
        for name, data in contents.items():
            entry = zipfile.ZipInfo(name, _EPOCH)
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, data)
    return buffer.getvalue()


def _without_prose(source: str) -> str:
    """Return a module without comments and docstrings, every line of code where it was."""
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
    """Write into a folder what ``docker build`` needs, and return the Dockerfile's text."""
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


def _write_file_step(path: str, data: bytes) -> str:
    """Return the step that writes a file."""
    text = base64.b85encode(bz2.compress(data)).decode("ascii").translate(_SAFE)
    if len(text) > _MAX_ARGUMENT:
        raise SandboxFailed(f"{path} is too large to stand in a Dockerfile")
    lines = "\\\n".join(text[at : at + _LINE] for at in range(0, len(text), _LINE))
    folder = path.rpartition("/")[0]
    return f"RUN mkdir -p {folder} && python -c '{_UNPACK}' {path} '{lines}'"


def _urlsafe(data: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
