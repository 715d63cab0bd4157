"""Runs inside a new Daytona sandbox, by whatever Python it has: looks at what is there, and installs what is not.

The host sends this file's text to ``python -c`` with one argument, a JSON object. It imports nothing of ours, and its
syntax is old on purpose: a Python that is too old shall say so itself. Its answer is the last line it prints.
"""

import hashlib
import importlib.util
import json
import os
import pathlib
import shutil
import socket
import subprocess
import sys
import time

MARK = "daytona-kernel-answer:"
PARTS = ("wire", "codec", "transport", "guest")  # what of the package runs in a sandbox, besides its __init__
ORIGIN = "origin"  # a file of our image's package, with the hash of what it was made of
ENTRYPOINT = "daytona_kernel_interp.guest.relay.entrypoint"
ENTRYPOINTS = (ENTRYPOINT, "daytona_kernel_interp.guest.entrypoint")  # the second is in images of earlier versions
FIRST_PORT = 4290  # the relay's, if it is free
_INSTALL_S = 280  # HTTP connections were seen to be cut after 300 s
_MAX_OUTPUT_CHARS = 1500
_RELAY_S = 20.0  # what the image's relay may take to come up
_APPEARS_S = 0.5  # after the sandbox has started, to be seen among its processes at all


def digest(package):
    # type: (pathlib.Path) -> str
    """Return a hash of the modules that run in a sandbox: equal where host and sandbox have the same ones."""
    origin = package / ORIGIN
    if origin.is_file():
        return origin.read_text()
    found = hashlib.sha256()
    for path in modules(package):
        found.update(f"{path.relative_to(package).as_posix()}\0".encode() + path.read_bytes() + b"\0")
    return found.hexdigest()[:16]


def modules(package):
    # type: (pathlib.Path) -> list[pathlib.Path]
    """Return the files of those modules, in order."""
    return [package / "__init__.py", *sorted(path for part in PARTS for path in (package / part).rglob("*.py"))]


def probe(request):
    # type: (dict[str, object]) -> dict[str, object]
    """Return what the sandbox has, and make our folder in it.

    A relay that waits for its order gets it, and serves when this returns; where nothing is missing one is started.
    """
    port = _free_port(str(request["port"] or os.environ.get("DAYTONA_KERNEL_RELAY_PORT") or ""))
    relay = None if port is None else _waiting_relay(request, port)
    if relay is not None:
        return {"relay": relay}
    folder = _folder()
    runtime = folder / str(request["runtime_file"])
    found = {
        "relay": None,
        "python": sys.executable,
        "version": list(sys.version_info[:2]),
        "missing": [name for name, oldest in _requirements(request) if not _is_installed(name, oldest)],
        "installed": _package_matches(str(request["runtime"])),
        "uploaded": runtime.is_file() and hashlib.sha256(runtime.read_bytes()).hexdigest() == request["runtime_sha256"],
        "folder": str(folder),
        "cwd": os.getcwd(),
        "port": port,
    }  # type: dict[str, object]
    if (
        port is not None
        and not request["upload"]
        and not found["missing"]
        and (found["installed"] or found["uploaded"])
    ):
        found["relay"] = _new_relay(request, port, folder, "" if found["installed"] else str(runtime))
    return found


def _waiting_relay(request, port):
    # type: (dict[str, object], int) -> dict[str, object] | None
    """Have the relay that our image started serve, and return its answer; one of another version is ended."""
    where = os.environ.get("DAYTONA_KERNEL_WAITING")
    connection = _connection(os.path.expanduser(where), None) if where else None
    return None if connection is None else _send_start_request(connection, request, port, None)


def _new_relay(request, port, folder, path):
    # type: (dict[str, object], int, pathlib.Path, str) -> dict[str, object] | None
    """Start a relay, as our image does, and have it serve; None if that does not work."""
    name = f"waiting-{os.urandom(4).hex()}"
    env = dict(os.environ, DAYTONA_KERNEL_WAITING=str(folder / name))
    if path:
        env["PYTHONPATH"] = os.pathsep.join(filter(None, (path, env.get("PYTHONPATH"))))
    with (folder / f"{name}.log").open("wb") as log:
        # A group of its own, and nothing of the pipes that Daytona reads until everybody has closed them.
        process = subprocess.Popen(
            [sys.executable, "-m", ENTRYPOINT],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            env=env,
        )
    connection = _connection(str(folder / name), process)
    answer = None if connection is None else _send_start_request(connection, request, port, process)
    if answer is None:
        process.kill()
        process.wait()
        return None
    return answer


def _connection(path, process):
    # type: (str, subprocess.Popen[bytes] | None) -> socket.socket | None
    """Return a connection to the relay that waits there: our own process, or the image's, which may still come."""
    started_at = time.monotonic()
    while time.monotonic() - started_at < _RELAY_S:
        made = socket.socket(socket.AF_UNIX)
        made.settimeout(_RELAY_S)
        try:
            made.connect(path)
            return made
        except OSError:
            made.close()
        waited = time.monotonic() - started_at
        if (waited > _APPEARS_S and not _relay_runs()) if process is None else process.poll() is not None:
            break
        time.sleep(0.01)
    return None


def _send_start_request(connection, request, port, process):
    # type: (socket.socket, dict[str, object], int, subprocess.Popen[bytes] | None) -> dict[str, object] | None
    """Give a relay its order and return its answer; the image's is ended if it does not suit."""
    try:
        with connection, connection.makefile("rwb") as lines:
            package = pathlib.Path(json.loads(lines.readline())["package"])
            good = process is not None or (bool(request["take_waiting"]) and digest(package) == request["runtime"])
            given = {"lifetime_s": request["lifetime_s"], "environment": request["environment"], "port": port}
            lines.write(json.dumps(given if good else {"end": True}).encode() + b"\n")
            lines.flush()
            answer = json.loads(lines.readline()) if good else None
            return None if answer is None else dict(answer, started=_started(int(answer["pid"])))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _started(pid):
    # type: (int) -> str
    """Return when a process was started, as /proc tells it; empty where there is none."""
    try:
        # proc(5): after the command in parentheses the state, and 19 fields on when it started
        return pathlib.Path("/proc", str(pid), "stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""


def _relay_runs():
    # type: () -> bool
    """Whether there is a process that was started to wait for us."""
    for path in pathlib.Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().split(b"\0")
        except OSError:
            continue
        if any(name.encode() in words for name in ENTRYPOINTS):
            return True
    return False


def install(request):
    # type: (dict[str, object]) -> dict[str, object]
    """Install what is missing into an environment of its own, which sees all that the sandbox's Python has."""
    environment = _folder() / "environment"
    python = environment / "bin" / "python"
    requirements = [f"{name}>={'.'.join(map(str, oldest))}" for name, oldest in _requirements(request)]
    make, fill = _tools(environment, python)
    if make is None:
        return {"error": "it has neither pip nor uv"}
    if not python.exists():
        done = _run(make)
        if done is not None:
            return {"error": done}
    done = _run([*fill, *requirements])
    return {"python": str(python)} if done is None else {"error": done}


def any_kernel_alive(request):
    # type: (dict[str, object]) -> dict[str, object]
    """Return whether a kernel of a relay's folder lives; None where none was started.

    A relay that is asked to end, as at a stop, deletes its folder; ``was_made`` says that there was one.
    """
    found = False if request["was_made"] and not os.path.isdir(str(request["folder"])) else None
    for path in pathlib.Path(str(request["folder"])).glob("kernel-*.state"):
        found = found or False
        try:
            state = json.loads(path.read_text())
            # proc(5): after the command in parentheses the state, and 19 fields on when it started
            fields = pathlib.Path("/proc", str(int(state["pid"])), "stat").read_text().rpartition(")")[2].split()
            found = found or (fields[0] != "Z" and fields[19] == state["started"])
        except (OSError, ValueError, KeyError, IndexError):
            continue
    return {"lives": found}


def _tools(environment, python):
    # type: (pathlib.Path, pathlib.Path) -> tuple[list[str] | None, list[str]]
    """Return how to make an environment, and how to install into it; None for the first where nothing can."""
    uv = shutil.which("uv")
    if uv is not None:
        make = [uv, "venv", "--quiet", "--system-site-packages", "--python", sys.executable, str(environment)]
        return make, [uv, "pip", "install", "--quiet", "--python", str(python)]
    if importlib.util.find_spec("pip") is None:
        return None, []
    # Without a pip of its own: Debian keeps what would be needed for that in another package.
    make = [sys.executable, "-m", "venv", "--without-pip", "--system-site-packages", str(environment)]
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--disable-pip-version-check"]
    return make, [*pip, "--retries", "1"]


def _run(command):
    # type: (list[str]) -> str | None
    """Run a command; return what it said if it failed."""
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=_INSTALL_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    text = done.stdout.decode("utf-8", "replace").strip()
    return None if done.returncode == 0 else text[-_MAX_OUTPUT_CHARS:] or f"exit code {done.returncode}"


def _folder():
    # type: () -> pathlib.Path
    """Return a folder that is ours alone; a home may be missing, or not writable."""
    homes = [os.path.expanduser("~"), os.environ.get("TMPDIR", "/tmp"), "/tmp"]
    for home in homes:
        folder = pathlib.Path(home) / f".daytona-kernel-{os.getuid()}"
        try:
            folder.mkdir(mode=0o700, exist_ok=True)
            if folder.stat().st_uid == os.getuid() and not folder.is_symlink():
                folder.chmod(0o700)
                return folder
        except OSError:
            continue
    raise SystemExit(f"none of {', '.join(homes)} can be written to")


def _requirements(request):
    # type: (dict[str, object]) -> list[tuple[str, list[int]]]
    wanted = request["wanted"]
    assert isinstance(wanted, dict)
    return sorted(wanted.items())


def _is_installed(name, oldest):
    # type: (str, list[int]) -> bool
    import importlib.metadata  # the slowest of what is needed here, and not needed where a relay waits

    try:
        if importlib.util.find_spec(name) is None:
            return False
        version = importlib.metadata.version(name).split(".")
        return [int(part) for part in version[: len(oldest)] if part.isdigit()] >= oldest
    except (ImportError, ValueError):
        return False


def _package_matches(wanted):
    # type: (str) -> bool
    """Whether the package is there, the same as the host's."""
    try:
        found = importlib.util.find_spec("daytona_kernel_interp")
        return found is not None and found.origin is not None and digest(pathlib.Path(found.origin).parent) == wanted
    except (ImportError, OSError, ValueError):
        return False


def _free_port(wanted):
    # type: (str) -> int | None
    """Return the port that is wanted, else one that previews reach and nobody uses; None if it is taken."""
    for port in [int(wanted)] if wanted else range(FIRST_PORT, FIRST_PORT + 100):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    return None


if __name__ == "__main__":
    given = json.loads(sys.argv[1])
    answer = {"install": install, "look": probe, "lives": any_kernel_alive}[given["do"]](given)
    print(MARK + json.dumps(answer))
