"""The recipe of the sandbox image: checks of its files, and runs in an environment of the same files."""

from __future__ import annotations

import base64
import bz2
import io
import json
import os
import re
import shlex
import subprocess
import sys
import types
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from daytona_kernel_interp import KernelImage, KernelInterpreter, RelaySandbox
from daytona_kernel_interp.interpreter.interpreter import CodeInterpreterError
from daytona_kernel_interp.sandboxes.daytona import guest_archive as runtime
from daytona_kernel_interp.sandboxes.daytona import probe_script as prepare
from daytona_kernel_interp.sandboxes.daytona import snapshot_image as image
from tests.environments import IMAGE, PROJECT, find_python

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

RECIPE = PROJECT / "sandbox_image"
TOKEN = "a-token-of-decent-length"
BIN = Path(sys.executable).parent
# A Dockerfile without other files needs several steps in a row.
ONE_FILE = ("--ignore", "DL3059")

Relay = tuple[subprocess.Popen[str], str]


def instructions(text: str) -> list[tuple[str, str]]:
    joined = re.sub(r"\\\n", "", text)
    lines = [line for line in joined.splitlines() if line.strip() and not line.startswith("#")]
    return [(word, rest.strip()) for word, _, rest in (line.partition(" ") for line in lines)]


def variables(text: str) -> dict[str, str]:
    """Return the variables of ENV as Docker reads them, without expansion of tildes and shell variables."""
    words = [word for name, rest in instructions(text) if name == "ENV" for word in shlex.split(rest)]
    return dict(word.partition("=")[::2] for word in words)


@pytest.mark.parametrize("options", [(), ("one file",)], ids=["as it lies there", "as one file"])
def test_a_linter_finds_nothing(options: tuple[str, ...], tmp_path: Path) -> None:
    """hadolint, in its strictest mode, accepts the recipe and the Dockerfile for Daytona."""
    path = tmp_path / "Dockerfile"
    path.write_text(
        KernelImage(packages=("tabulate",)).dockerfile() if options else (RECIPE / "Dockerfile").read_text()
    )
    command = [BIN / "hadolint", "--no-color", "--failure-threshold", "style", *(ONE_FILE if options else ()), path]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    # A package without a version is the user's choice.
    found = [line[:200] for line in done.stdout.splitlines() if not (options and " DL3013" in line)]
    assert found == []


def entrypoint() -> list[str]:
    """Return the entrypoint of the recipe."""
    found = instructions((RECIPE / "Dockerfile").read_text())
    (words,) = (json.loads(rest) for word, rest in found if word == "ENTRYPOINT")
    return [str(word) for word in words]


def test_it_is_not_root_and_starts_the_relay() -> None:
    """The last user is a number other than 0; the entrypoint has the form that receives signals."""
    found = instructions((RECIPE / "Dockerfile").read_text())
    assert [rest for word, rest in found if word == "USER"] == ["1000"]
    assert entrypoint()[-1] == "daytona_kernel_interp.guest.relay.entrypoint"


def test_every_pin_is_exact_and_none_comes_from_elsewhere() -> None:
    """Pins have only name and version, and are equal in both files."""
    pins: dict[str, str] = {}
    for path in RECIPE.glob("requirements*.txt"):
        for line in path.read_text().splitlines():
            found = re.fullmatch(r"([a-z0-9-]+)==([0-9.]+)", line)
            assert found is not None, line
            assert pins.setdefault(found[1], found[2]) == found[2]
    assert {"ipykernel", "websockets", "numpy", "pandas"} <= set(pins)


def test_one_file_has_all_that_the_recipe_copies(tmp_path: Path) -> None:
    """Its steps write the files of the build context; packages are installed before the user is set."""
    wanted = KernelImage(packages=("torch>=2", "x[y]"), data=False)
    image.write_context(tmp_path, wanted)
    text = wanted.dockerfile()
    assert "COPY" not in text
    assert len(text) < 100_000
    written = {}
    for word, rest in instructions(text):
        if word == "RUN" and "b85decode" in rest:
            *_, path, data = shlex.split(rest)
            plain = data.translate(str.maketrans(",.:/", "<$`#"))
            written[Path(path).name] = bz2.decompress(base64.b85decode(plain))
    assert written == {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.name != "Dockerfile"}
    assert written["requirements-data.txt"] == b""
    assert text.index("RUN pip install 'torch>=2' 'x[y]'") < text.index("USER 1000")
    assert max(map(len, text.splitlines())) < 65_000


def test_a_step_of_one_file_writes_it(tmp_path: Path) -> None:
    """The shell and Python of a step write its file."""
    data = os.urandom(50_000)
    step = image.write_file_step(f"{tmp_path}/below/file", data)
    command = re.sub(r"\\\n", "", step).removeprefix("RUN ")
    path = f"{BIN}:{os.environ['PATH']}"
    subprocess.run(["sh", "-c", command], check=True, env={"PATH": path})
    assert (tmp_path / "below" / "file").read_bytes() == data


@pytest.mark.parametrize("packages", ["torch", ("a\nRUN evil",), ("-r other.txt",)])
def test_packages_that_are_none_are_refused(packages: tuple[str, ...]) -> None:
    """One sentence describes the valid form."""
    with pytest.raises((TypeError, ValueError), match="requirements"):
        KernelImage(packages=packages)


def test_the_wheel_is_what_the_host_has(tmp_path: Path) -> None:
    """It has all modules with the same code on the same lines; a host recognises it by its hash."""
    with zipfile.ZipFile(io.BytesIO(image.wheel())) as archive:
        archive.extractall(tmp_path)
    package = tmp_path / "daytona_kernel_interp"
    ours = PROJECT / "daytona_kernel_interp"
    assert prepare.digest(package) == prepare.digest(ours) == runtime.guest_archive().digest
    for path in prepare.modules(ours):
        here, there = (compile((place / path.relative_to(ours)).read_text(), "", "exec") for place in (ours, package))
        assert lines_of(here) == lines_of(there), path


def lines_of(code: types.CodeType) -> list[Any]:
    """Return the names of the functions in compiled code, with their lines."""
    inner = [lines_of(value) for value in code.co_consts if isinstance(value, types.CodeType)]
    text = code.co_consts[:1] if code.co_consts and isinstance(code.co_consts[0], str) else ()
    lines = {line for _, _, line in code.co_lines() if line}
    return [code.co_name, sorted(lines)[1 if text or code.co_name == "<module>" else 0 :], inner]


def test_the_same_files_make_the_same_image() -> None:
    """Its name identifies its contents."""
    assert image.wheel.__wrapped__() == image.wheel()
    assert KernelImage().name() == KernelImage().name() != KernelImage(data=False).name()


@pytest.mark.timeout(300)
def test_the_installed_package_has_the_recipe(tmp_path: Path) -> None:
    """A wheel of this project has the recipe, for users without the repository."""
    subprocess.run([BIN / "uv", "build", "--quiet", "--wheel", "--out-dir", tmp_path, PROJECT], check=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        inside = {name for name in archive.namelist() if name.startswith("daytona_kernel_interp/sandbox_image/")}
        archive.extractall(tmp_path / "site")
    names = {f"daytona_kernel_interp/sandbox_image/{path.name}" for path in RECIPE.iterdir() if path.is_file()}
    assert names <= inside
    code = "from daytona_kernel_interp import KernelImage as I; print(I().name(), end='')"
    told = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path / "site", capture_output=True, text=True, check=True
    )
    assert told.stdout == KernelImage().name()


# --- the environment ----------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Provide the programs folder of an environment that is built like the image."""
    if not IMAGE.is_current():
        if find_python(IMAGE.version) is None:
            pytest.skip(f"there is no Python {IMAGE.version} here")
        pytest.skip("not built: run `make environments`")
    wheel = tmp_path_factory.mktemp("wheel") / image.wheel_name()
    wheel.write_bytes(image.wheel())
    install = ["pip", "install", "--quiet", "--offline", "--no-deps", "--no-index", "--reinstall", "--python"]
    subprocess.run([BIN / "uv", *install, IMAGE.python, wheel], check=True)
    return IMAGE.python.parent


@pytest.fixture
def start(environment: Path, tmp_path: Path) -> Iterator[Callable[..., Relay]]:
    """Start the relay exactly as a container does, and return the process and its address."""
    home = tmp_path / "home"
    home.mkdir()
    processes = []

    def run(given: str = "", **more: str) -> Relay:
        stated = variables((RECIPE / "Dockerfile").read_text())
        process = subprocess.Popen(
            entrypoint(),
            executable=environment / entrypoint()[0],
            env={"PATH": f"{environment}:/usr/bin:/bin", "HOME": str(home), **stated, **more},
            cwd=home,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        processes.append(process)
        assert process.stdin is not None
        assert process.stderr is not None
        process.stdin.write(given)
        process.stdin.close()
        line = process.stderr.readline()
        found = re.fullmatch(r"relay listens on (\S+) port (\d+)\n", line)
        return process, f"http://127.0.0.1:{found[2]}" if found else line

    yield run
    for process in processes:
        process.terminate()
        process.wait(20)
        for pipe in (process.stdout, process.stderr):
            if pipe is not None:
                pipe.close()


LOOPBACK = {"DAYTONA_KERNEL_HOST": "127.0.0.1", "DAYTONA_KERNEL_RELAY_PORT": "0"}
IMPORTS = """
import importlib.util, sys, numpy  # to import them all for the first time, uncompiled, takes most of a minute
names = "bs4 lxml matplotlib networkx openpyxl pandas PIL polars pyarrow pydantic dateutil yaml requests"
missing = [name for name in (names + " scipy sklearn sympy tabulate").split() if not importlib.util.find_spec(name)]
print(sys.version_info[:2], missing, numpy.arange(3).sum())
"""
READABLE = """
import os, pathlib
seen = [repr(dict(os.environ)).encode()]
for process in pathlib.Path("/proc").glob("[0-9]*"):
    for name in ("cmdline", "environ"):
        try:
            if b"daytona_kernel_interp.guest" in (process / "cmdline").read_bytes():
                seen.append((process / name).read_bytes())
        except OSError:
            continue
seen += [path.read_bytes() for path in pathlib.Path.home().rglob("*") if path.is_file() and path.stat().st_size < 10**6]
b"".join(seen).decode("latin-1")
"""


@pytest.mark.timeout(180)
def test_cells_run_in_it_and_do_not_see_the_token(start: Callable[..., Relay]) -> None:
    """As with `docker run -e`, all libraries are installed, and the token is in no environment, argument or file."""
    _, url = start(DAYTONA_KERNEL_TOKEN=TOKEN, **LOOPBACK)
    with KernelInterpreter(sandbox=RelaySandbox(url, TOKEN)) as interpreter:
        version = tuple(map(int, IMAGE.version.split(".")))
        assert interpreter.execute(IMPORTS) == f"{version} [] 3\n"
        seen = interpreter.execute(READABLE)
        assert "daytona_kernel_interp.guest.relay.entrypoint" in seen
        assert TOKEN not in seen
    with pytest.raises(CodeInterpreterError, match="401"):
        KernelInterpreter(sandbox=RelaySandbox(url, TOKEN[:-1])).start()


@pytest.mark.parametrize("way", ["standard input", "a file"])
def test_the_token_may_come_otherwise(start: Callable[..., Relay], tmp_path: Path, way: str) -> None:
    """The token is read from standard input, or from a file, which is deleted."""
    file = tmp_path / "token"
    if way == "a file":
        file.write_text(f"{TOKEN}\n")
    place = str(file) if way == "a file" else "/dev/stdin"
    _, url = start(TOKEN, DAYTONA_KERNEL_TOKEN_FILE=place, **LOOPBACK)
    assert not file.exists()
    with KernelInterpreter(sandbox=RelaySandbox(url, TOKEN)) as interpreter:
        assert interpreter.execute("1 + 1") == 2


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"DAYTONA_KERNEL_TOKEN": "short"}, "needs a token of 16 characters or more, and this one has 5"),
        ({"DAYTONA_KERNEL_TOKEN": ""}, "the token is empty"),
        ({"DAYTONA_KERNEL_TOKEN_FILE": "/nowhere"}, "/nowhere cannot be read"),
        (
            {"DAYTONA_KERNEL_TOKEN": TOKEN, "DAYTONA_KERNEL_LIFETIME": "long"},
            "DAYTONA_KERNEL_LIFETIME must be a number",
        ),
        ({"HOME": "/proc/nowhere"}, "no folder for the session"),
    ],
)
def test_what_it_cannot_do_is_told(start: Callable[..., Relay], given: dict[str, str], words: str) -> None:
    """It prints one sentence, opens no port, and has an exit code."""
    process, said = start(**given)
    assert words in said
    assert "short" not in said
    assert process.wait(20) == 1


def test_without_a_token_it_says_what_it_waits_for(start: Callable[..., Relay]) -> None:
    """A manual start without settings prints what is missing and listens on no port."""
    _, said = start()
    assert "elsewhere set DAYTONA_KERNEL_TOKEN" in said


def test_prepare_knows_where_it_waits() -> None:
    """Host and image use the same variable and the same program."""
    stated = variables((RECIPE / "Dockerfile").read_text())
    text = Path(prepare.__file__).read_text()
    assert set(re.findall(r"DAYTONA_KERNEL_WAITING", text)) <= set(stated)
    assert entrypoint()[-1] == prepare.ENTRYPOINT
