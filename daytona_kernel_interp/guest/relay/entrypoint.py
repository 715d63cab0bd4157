"""``python -m daytona_kernel_interp.guest.relay.entrypoint``: the entrypoint of the image.

With a token it serves at once, for ``docker run``, Kubernetes and the like::

    DAYTONA_KERNEL_TOKEN        the relay's secret; removed from the environment of this process
    DAYTONA_KERNEL_TOKEN_FILE   or a file that has it (/dev/stdin, a mounted secret); deleted if that is possible
    DAYTONA_KERNEL_HOST         the address to listen on; default 127.0.0.1
    DAYTONA_KERNEL_RELAY_PORT   the port; default 4290
    DAYTONA_KERNEL_LIFETIME     seconds without a host after which it ends; default one day

Without a token it waits for its host at the Unix socket that DAYTONA_KERNEL_WAITING names: it runs in a Daytona
sandbox. A snapshot starts it before its secret is known, and anything that a host left in the environment or in a file
could be read by cells later. So the relay imports everything, starts a spare kernel process, and listens in a folder of
mode 0700. It greets each connection with the path of this package, which the host's probe (``probe_script.py``, run
through the toolbox) compares with its own modules. The first start request is served: it has the lifetime, the port and
the kernels' variables. The relay generates the secret and returns it in the answer, which goes to the host through the
toolbox and is stored nowhere. The socket is deleted before any cell runs.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import secrets
import stat
import sys
from pathlib import Path

from .kernel_processes import KernelProcesses
from .lifecycle import end_on_signals, load_relay, run, serve, wait_first
from .start_request import LOOPBACK, StartRequest, parse_start_request

TOKEN, TOKEN_FILE = "DAYTONA_KERNEL_TOKEN", "DAYTONA_KERNEL_TOKEN_FILE"
HOST, PORT, LIFETIME = "DAYTONA_KERNEL_HOST", "DAYTONA_KERNEL_RELAY_PORT", "DAYTONA_KERNEL_LIFETIME"
WAITING_SOCKET = "DAYTONA_KERNEL_WAITING"  # the path of the socket, set by the image and used by the probe
_PACKAGE = Path(__file__).resolve().parents[2]  # the host compares its modules with those of its own
_FOLDER = "~/.daytona-kernel"
_PORT = 4290
_DAY_S = 24 * 3600.0
_LINE_BYTES = 64 * 1024


class _StartRefused(Exception):
    """The relay cannot start as requested; the message is one sentence."""


def main() -> int:
    """Serve with the token from the environment, or wait for a host."""
    if TOKEN in os.environ:
        _restart_without_token()
    try:
        token = _read_token()
        if token is not None:
            asyncio.run(_serve_with_token(token, _make_private_folder(Path(_FOLDER).expanduser())))
        else:
            path = Path(os.environ.get(WAITING_SOCKET) or f"{_FOLDER}/waiting").expanduser()
            folder = _make_private_folder(path.parent)
            path.unlink(missing_ok=True)  # left by a run before the sandbox was stopped
            asyncio.run(_serve_first_request(folder, path))
    except (_StartRefused, ValueError, OSError, RuntimeError) as error:  # RuntimeError: no home folder
        print(f"daytona-kernel relay: {error}", file=sys.stderr)
        return 1
    return 0


# --- with a token -------------------------------------------------------------------------------------------


def _restart_without_token() -> None:
    """Execute this program again, with the token in a pipe: /proc shows the environment that a process started with."""
    token = os.environ.pop(TOKEN).encode()
    read, write = os.pipe()
    os.write(write, token)
    os.close(write)
    os.set_inheritable(read, True)
    os.environ[TOKEN_FILE] = f"/dev/fd/{read}"
    os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], dict(os.environ))


def _read_token() -> str | None:
    name = os.environ.pop(TOKEN_FILE, None)
    if name is None:
        return None
    path = Path(name)
    try:
        token = path.read_text(encoding="utf-8").strip()
        if name.startswith("/dev/fd/"):
            os.close(int(path.name))
        elif stat.S_ISREG(path.lstat().st_mode):
            _delete(path)
    except (OSError, ValueError) as error:
        raise _StartRefused(f"the token file {name} cannot be read: {error}") from error
    if not token:
        raise _StartRefused(f"the token is empty: put a secret of 16 characters or more into {TOKEN}")
    return token


def _delete(path: Path) -> None:
    try:
        path.unlink()
    except OSError as error:
        print(
            f"daytona-kernel relay: {path} cannot be deleted ({error.strerror}): code in cells can read the token",
            file=sys.stderr,
        )


async def _serve_with_token(token: str, folder: Path) -> None:
    request = StartRequest(
        secret=token,
        port=int(_number(PORT, _PORT)),
        folder=folder,
        cwd=Path.cwd(),
        lifetime_s=_number(LIFETIME, _DAY_S),
        remove=True,
        host=os.environ.get(HOST) or LOOPBACK,
    )

    def listening(port: int) -> None:
        print(f"relay listens on {request.host} port {port}", file=sys.stderr, flush=True)

    await run(request, listening)


def _number(name: str, default: float) -> float:
    text = os.environ.get(name)
    if not text:
        return default
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0 <= number < float("inf"):
        raise _StartRefused(f"{name} must be a number, not {text!r}")
    return number


# --- without a token --------------------------------------------------------------------------------------------------


async def _serve_first_request(folder: Path, path: Path) -> None:
    """Wait for a start request on the socket ``path``, and serve as it says."""
    kernels = KernelProcesses(folder, Path.cwd(), _DAY_S)
    end_on_signals(kernels)
    first: asyncio.Future[tuple[bytes, asyncio.StreamWriter]] = asyncio.get_running_loop().create_future()

    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        _send_answer(writer, {"package": str(_PACKAGE)})
        with contextlib.suppress(ValueError, OSError, RecursionError):
            line = await reader.readline()
            if isinstance(json.loads(line), dict) and not first.done():
                first.set_result((line, writer))
                return
        writer.close()  # not a request; the next connection may have one

    # Listen before the imports: a host that connects early is greeted at once, and answered when the relay is ready.
    server = await asyncio.start_unix_server(greet, path, limit=_LINE_BYTES)
    await kernels.warm_up()
    load_relay()  # while the kernel process imports
    print(
        f"waiting for a host of this sandbox; elsewhere set {TOKEN} (see the README of the image)",
        file=sys.stderr,
        flush=True,
    )
    try:
        await wait_first(asyncio.shield(first), kernels.ending.wait())
        _close(server, path)
        if first.done():
            await _answer_request(*first.result(), folder, kernels)
    finally:
        await kernels.end_all()


def _close(server: asyncio.Server, path: Path) -> None:
    path.unlink(missing_ok=True)
    server.close()


async def _answer_request(line: bytes, writer: asyncio.StreamWriter, folder: Path, kernels: KernelProcesses) -> None:
    """Serve as the host requests. A host whose package differs starts a relay of its own and ends this one."""
    if json.loads(line).get("end"):
        return
    request = parse_start_request(
        line, secret=secrets.token_urlsafe(32), folder=folder, cwd=Path.cwd(), remove=True, host=LOOPBACK
    )
    kernels.lifetime_s, kernels.environment = request.lifetime_s, request.environment

    def listening(port: int) -> None:
        paths = {"folder": str(folder), "cwd": str(request.cwd), "python": sys.executable, "pid": os.getpid()}
        _send_answer(writer, {**paths, "port": port, "secret": request.secret})
        writer.close()

    await serve(request, kernels, listening)


def _send_answer(writer: asyncio.StreamWriter, answer: dict[str, object]) -> None:
    writer.write(json.dumps(answer).encode("ascii") + b"\n")


# --- both -----------------------------------------------------------------------------------------------------


def _make_private_folder(above: Path) -> Path:
    """Return a new folder of mode 0700, in a folder that only this user can read.

    Raises:
        _StartRefused: If it cannot be created.
    """
    try:
        above.mkdir(mode=0o700, parents=True, exist_ok=True)
        if above.is_symlink() or above.stat().st_uid != os.getuid():
            raise _StartRefused(f"{above} does not belong to this user")
        above.chmod(0o700)
        folder = above / f"session-{secrets.token_hex(4)}"
        folder.mkdir(mode=0o700)
    except OSError as error:
        raise _StartRefused(f"no folder for the session: {error}") from error
    return folder


if __name__ == "__main__":
    sys.exit(main())
