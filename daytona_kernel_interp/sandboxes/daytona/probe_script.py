"""Probe a new Daytona sandbox: report what it has, start the relay if possible, install requirements on request.

The host sends the text of this file to ``python -c`` with one argument, a JSON object. It imports only the standard
library, and its syntax is old on purpose, so that a Python that is too old can report its version. The answer is the
last line that it prints.
"""

import contextlib
import hashlib
import importlib.util
import json
import os
import pathlib
import secrets
import select
import shutil
import socket
import subprocess
import sys
import time

MARK = "daytona-kernel-answer:"
PARTS = ("wire", "codec", "transport", "guest")  # of the package, with its __init__: what runs in a sandbox
ORIGIN = "origin"  # a file in the image's package, with the hash of the sources
RELAY = "daytona_kernel_interp.guest.relay"
ENTRYPOINT = "daytona_kernel_interp.guest.relay.entrypoint"
ENTRYPOINTS = (ENTRYPOINT, "daytona_kernel_interp.guest.entrypoint")  # the second is in images of earlier versions
FIRST_PORT = 4290  # the relay's port, if it is free
_INSTALL_S = 280  # HTTP connections have been cut after 300 s
_MAX_OUTPUT_CHARS = 1500
_RELAY_S = 20.0  # limit of the wait for the image's relay
_START_S = 60.0  # limit of the start of another one
_APPEARS_S = 0.5  # from the sandbox's start until the relay is among its processes


def digest(package):
    # type: (pathlib.Path) -> str
    """Return a hash of the guest's modules: equal if host and sandbox have the same ones."""
    origin = package / ORIGIN
    if origin.is_file():
        return origin.read_text()
    found = hashlib.sha256()
    for path in modules(package):
        found.update(f"{path.relative_to(package).as_posix()}\0".encode() + path.read_bytes() + b"\0")
    return found.hexdigest()[:16]


def modules(package):
    # type: (pathlib.Path) -> list[pathlib.Path]
    """Return the files of the guest's modules, in order."""
    return [package / "__init__.py", *sorted(path for part in PARTS for path in (package / part).rglob("*.py"))]


def probe(request):
    # type: (dict[str, object]) -> dict[str, object]
    """Return what the sandbox has, and create this package's folder in it.

    A relay that waits for its start request gets it and is serving when this returns. Without one, a relay is started
    if nothing is missing.
    """
    port = _free_port(str(request["port"] or os.environ.get("DAYTONA_KERNEL_RELAY_PORT") or ""))
    relay = None if port is None else _waiting_relay(request, port)
    if relay is not None:
        return {"relay": relay}
    folder = _folder()
    found = {
        "relay": None,
        "python": sys.executable,
        "version": list(sys.version_info[:2]),
        "missing": [name for name, oldest in _requirements(request) if not _is_installed(name, oldest)],
        "installed": _package_matches(str(request["runtime"])),
        "folder": str(folder),
        "cwd": os.getcwd(),
        "port": port,
    }  # type: dict[str, object]
    if port is not None and found["installed"] and not found["missing"] and not request["upload"]:
        paths = {"path": "", "folder": f"{folder}/session-{os.urandom(4).hex()}", "cwd": os.getcwd(), "port": port}
        found.update(start(dict(request, **paths)))
    return found


def _waiting_relay(request, port):
    # type: (dict[str, object], int) -> dict[str, object] | None
    """Send the start request to the image's relay and return its answer; end a relay of another version."""
    where = os.environ.get("DAYTONA_KERNEL_WAITING")
    connection = _connection(os.path.expanduser(where)) if where else None
    if connection is None:
        return None
    try:
        with connection, connection.makefile("rwb") as lines:
            package = pathlib.Path(json.loads(lines.readline())["package"])
            good = bool(request["take_waiting"]) and digest(package) == request["runtime"]
            given = {"lifetime_s": request["lifetime_s"], "environment": request["environment"], "port": port}
            lines.write(json.dumps(given if good else {"end": True}).encode() + b"\n")
            lines.flush()
            answer = json.loads(lines.readline()) if good else None
            return None if answer is None else dict(answer, path="", started=_started(int(answer["pid"])))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _connection(path):
    # type: (str) -> socket.socket | None
    """Return a connection to the image's relay, which may not have started yet."""
    started_at = time.monotonic()
    while time.monotonic() - started_at < _RELAY_S:
        made = socket.socket(socket.AF_UNIX)
        made.settimeout(_RELAY_S)
        try:
            made.connect(path)
            return made
        except OSError:
            made.close()
        if time.monotonic() - started_at > _APPEARS_S and not _relay_runs():
            break
        time.sleep(0.01)
    return None


def start(request):
    # type: (dict[str, object]) -> dict[str, object]
    """Start a relay in its folder and return its facts, or an error with the end of its log.

    Its secret is made here: code in the sandbox could read arguments and files that a host writes.
    """
    paths = {name: request[name] for name in ("path", "folder", "cwd", "port")}
    folder = pathlib.Path(str(paths["folder"]))
    folder.mkdir(mode=0o700, exist_ok=True)
    env = dict(os.environ)
    if paths["path"]:
        env["PYTHONPATH"] = os.pathsep.join(filter(None, (str(paths["path"]), env.get("PYTHONPATH"))))
    secret = secrets.token_urlsafe(32)
    given = dict(
        paths, secret=secret, remove=True, lifetime_s=request["lifetime_s"], environment=request["environment"]
    )
    with (folder / "relay.log").open("a+b") as log:
        # In a session of its own, and without the pipes: Daytona reads them until every process has closed them.
        # In its folder, because cells may have written a json.py elsewhere.
        process = subprocess.Popen(
            [sys.executable, "-m", RELAY],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            start_new_session=True,
            env=env,
            cwd=str(folder),
        )
        assert process.stdin is not None
        assert process.stdout is not None
        with contextlib.suppress(OSError), process.stdin:
            process.stdin.write(json.dumps(given).encode() + b"\n")
        if select.select([process.stdout], [], [], _START_S)[0] and process.stdout.readline():
            facts = {"python": sys.executable, "pid": process.pid, "started": _started(process.pid)}
            return {"relay": dict(paths, secret=secret, **facts)}
        process.kill()
        code = process.wait()
        log.seek(0)
        text = log.read().decode("utf-8", "replace").strip()
        return {"error": f"its relay ended with exit code {code}: {text[-_MAX_OUTPUT_CHARS:]}"}


def _started(pid):
    # type: (int) -> str
    """Return the start time of a process from /proc; an empty text for one that has ended, or without /proc."""
    try:
        # proc(5): the state follows the command in parentheses, the start time 19 fields later
        fields = pathlib.Path("/proc", str(pid), "stat").read_text().rpartition(")")[2].split()
        return "" if fields[0] == "Z" else fields[19]
    except (OSError, IndexError):
        return ""


def _is_alive(pid, started):
    # type: (int, str) -> bool
    try:
        os.kill(pid, 0)
    except OSError:
        return False
    return _started(pid) == started


def _relay_runs():
    # type: () -> bool
    """Return whether a relay that waits for a start request is among the processes."""
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
    """Install the requirements into a virtual environment that also has the packages of the sandbox's Python."""
    environment = _folder() / "environment"
    python = str(environment / "bin" / "python")
    requirements = [f"{name}>={'.'.join(map(str, oldest))}" for name, oldest in _requirements(request)]
    # Without pip: on Debian, ensurepip is in a package of its own.
    make = [sys.executable, "-m", "venv", "--without-pip", "--system-site-packages", str(environment)]
    uv = shutil.which("uv")
    if uv is not None:
        fill = [uv, "pip", "install", "--quiet", "--python", python]
    elif importlib.util.find_spec("pip") is not None:
        fill = [sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--disable-pip-version-check"]
        fill += ["--retries", "1"]
    else:
        return {"error": "it has neither pip nor uv"}
    for command in (make, [*fill, *requirements]):
        failure = _run(command)
        if failure is not None:
            return {"error": failure}
    return {"python": python}


def check(request):
    # type: (dict[str, object]) -> dict[str, object]
    """Return whether the relay is alive, and whether a kernel of its folder is; None if none was started.

    A relay that ends on request, as at a stop of the sandbox, deletes its folder.
    """
    pid, _, started = str(request["process"]).partition(" ")
    folder = pathlib.Path(str(request["folder"]))
    kernels = None if folder.is_dir() else False
    for path in folder.glob("kernel-*.state"):
        kernels = kernels or False
        try:
            state = json.loads(path.read_text())
            kernels = kernels or _is_alive(int(state["pid"]), state["started"])
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return {"relay": not pid or _is_alive(int(pid), started), "kernels": kernels}


def _run(command):
    # type: (list[str]) -> str | None
    """Run a command; return its output if it failed."""
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
    """Return a folder that only this user can read. The home folder may be missing or read-only."""
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
    raise SystemExit(f"none of {', '.join(homes)} is writable")


def _requirements(request):
    # type: (dict[str, object]) -> list[tuple[str, list[int]]]
    wanted = request["wanted"]
    assert isinstance(wanted, dict)
    return sorted(wanted.items())


def _is_installed(name, oldest):
    # type: (str, list[int]) -> bool
    import importlib.metadata  # slow to import, and not needed if a relay is waiting

    try:
        if importlib.util.find_spec(name) is None:
            return False
        version = importlib.metadata.version(name).split(".")
        return [int(part) for part in version[: len(oldest)] if part.isdigit()] >= oldest
    except (ImportError, ValueError):
        return False


def _package_matches(wanted):
    # type: (str) -> bool
    """Return whether the sandbox has the host's version of the package."""
    try:
        found = importlib.util.find_spec("daytona_kernel_interp")
        return found is not None and found.origin is not None and digest(pathlib.Path(found.origin).parent) == wanted
    except (ImportError, OSError, ValueError):
        return False


def _free_port(wanted):
    # type: (str) -> int | None
    """Return the requested port, or a free one that previews reach; None if it is taken."""
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
    answer = {"look": probe, "install": install, "start": start, "check": check}[given["do"]](given)
    print(MARK + json.dumps(answer))
