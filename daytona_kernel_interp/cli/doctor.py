"""``daytona-kernel doctor``: checks of each step from the key to a cell in a sandbox at Daytona.

The steps depend on each other, so the first failure usually ends the checks. A failed check has advice: one sentence
that says what to do. The sandbox that the checks create is deleted at the end.
"""

from __future__ import annotations

import contextlib
import email.utils
import http.client
import importlib.metadata
import os
import statistics
import sys
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from .. import __version__
from ..config import DAYTONA_KEY_VARIABLE, DIAL_S, daytona_credential
from ..errors import KernelError
from ..formatting import duration
from ..interpreter.interpreter import CodeInterpreterError, KernelInterpreter
from ..runtime.event_loop import io_loop
from ..sandboxes.daytona import DaytonaSandbox
from ..sandboxes.daytona.api import DaytonaAPI, begin_import
from ..sandboxes.daytona.error_text import api_url, error_sentence, url_error
from ..transport.websocket import connect_socket
from ..wire.hello import NO_SUCH_CHANNEL, PATH_PREFIX, RELAY_CHANNEL, SECRET_HEADER
from .terminal import FAILED, require_daytona_key, write

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterator

    from ..sandboxes.base import RelayAddress
    from ..sandboxes.daytona.sandbox import RunningDaytonaSandbox

_CLOCK_S = 60.0
_TIMES = 5
_REQUEST_S = 10.0
_RETRY_S = 0.5
_VERSIONS = """
import platform, ipykernel, websockets
f"Python {platform.python_version()}, ipykernel {ipykernel.__version__}, websockets {websockets.__version__}"
"""
_SNAPSHOT_STATES = {
    "missing": "no snapshot has this name: `daytona-kernel image build` makes one; or unset DAYTONA_KERNEL_SNAPSHOT",
    "inactive": "it has been inactive for long: activate it at Daytona, or make one with `daytona-kernel image build`",
    "build_failed": "delete it, and make one with `daytona-kernel image build`",
    "error": "delete it, and make one with `daytona-kernel image build`",
}
_PREVIEW_REFUSALS = {
    401: "the preview does not accept the sandbox's token: try again, and check whether a proxy drops the header "
    "X-Daytona-Preview-Token",
    403: "access to the preview is forbidden: check the organization's policy for previews",
    400: "the preview does not find a started sandbox: try again",
    502: "nothing listens in the sandbox: its relay has ended, or it is out of memory",
}
_PREVIEW_REFUSALS[307] = _PREVIEW_REFUSALS[401]


@dataclass(frozen=True)
class CheckResult:
    """The result of one check.

    Attributes:
        name: Name of the check.
        result: What was found, as a short text.
        took_s: Duration; None: the time since the step began; 0: none is shown.
        advice: What to do about a failure; empty if the check passed.
        final: Whether a failure makes further checks pointless.
    """

    name: str
    result: str
    took_s: float | None = None
    advice: str = ""
    final: bool = True


class _Diagnosis:
    """The state of one run: the description to check, and the sandbox and interpreter that were created."""

    def __init__(self, description: DaytonaSandbox, now: Callable[[], float]) -> None:
        self.description, self.now = description, now
        self.sandbox: RunningDaytonaSandbox | None = None
        self.interpreter: KernelInterpreter | None = None

    @property
    def running(self) -> RunningDaytonaSandbox:
        assert self.sandbox is not None
        return self.sandbox

    async def start(self) -> RunningDaytonaSandbox:
        """Return the sandbox that an earlier check started, so that the interpreter reuses it."""
        return self.running

    def delete(self) -> None:
        """Delete the sandbox and close the interpreter."""
        if self.interpreter is not None:
            self.interpreter.shutdown()
        if self.sandbox is not None:
            io_loop().run(self.sandbox.stop())


def run(options: argparse.Namespace) -> int:
    """Run the checks and print their results."""
    require_daytona_key()
    exit_code = 0
    for check in run_checks(DaytonaSandbox(snapshot=options.snapshot)):
        took = duration(check.took_s) if check.took_s else ""
        write(sys.stdout, f"{'FAILED' if check.advice else 'ok':8}{check.name:10}{took:>10}  {check.result}\n")
        if check.advice:
            exit_code = FAILED
            write(sys.stdout, f"{'':30}{check.advice}\n")
    return exit_code


def run_checks(sandbox: DaytonaSandbox | None = None, *, now: Callable[[], float] = time.time) -> Iterator[CheckResult]:
    """Run the checks in order and yield their results. A sandbox is created, and deleted at the end.

    Args:
        sandbox: The sandbox to check; None: the default one.
        now: The clock that is compared with the service's.
    """
    diagnosis = _Diagnosis(sandbox or DaytonaSandbox(), now)
    if daytona_credential() is not None:
        begin_import()  # runs in the background during the first checks
    steps: list[Callable[[_Diagnosis], Iterator[CheckResult]]] = [
        _key,
        _api,
        _snapshot,
        _sandbox,
        _preview,
        _websocket,
        _kernel,
        _versions,
    ]
    try:
        for step in steps:
            started_at = time.monotonic()
            try:
                checks = list(step(diagnosis))
            except Exception as error:  # whatever breaks a check is what the user must see, not a traceback
                checks = [CheckResult(step.__name__.strip("_"), "failed", None, str(error) or type(error).__name__)]
            for check in checks:
                took_s = time.monotonic() - started_at if check.took_s is None else check.took_s
                yield CheckResult(check.name, check.result, took_s, check.advice)
            if any(check.advice and check.final for check in checks):
                return
    finally:
        diagnosis.delete()


def _key(diagnosis: _Diagnosis) -> Iterator[CheckResult]:
    if (found := daytona_credential()) is not None:
        yield CheckResult("key", f"{found[0]} is set", 0.0)
    else:
        yield CheckResult("key", "none", 0.0, f"set {DAYTONA_KEY_VARIABLE}, in the environment or in .env")


def _api(diagnosis: _Diagnosis) -> Iterator[CheckResult]:
    """Check API, key and clock with one request; its duration, status and Date header are the results."""
    credential = daytona_credential()
    assert credential is not None
    if (wrong := url_error()) is not None:
        yield CheckResult("API", "none", None, wrong)
        return
    request = urllib.request.Request(f"{api_url()}/sandbox?limit=1")
    for name, value in credential[1].items():
        request.add_unredirected_header(name, value)  # not repeated to the target of a redirect
    status, server_date = 200, None
    started_at = time.monotonic()
    try:
        with urllib.request.urlopen(request, timeout=_REQUEST_S) as answer:
            server_date = answer.headers.get("Date")
    except urllib.error.HTTPError as error:
        with error:
            status, server_date = error.code, error.headers.get("Date")
    except OSError as error:
        reason = getattr(error, "reason", error)
        yield CheckResult(
            "API", f"{api_url()} does not answer", None, f"check DAYTONA_API_URL, proxy and network ({reason})"
        )
        return
    took_s = time.monotonic() - started_at
    advice = {
        200: "",
        401: "Daytona does not accept the key: copy it again, or create a new one in Daytona's dashboard",
        403: "the key has no permission for sandboxes: give it that permission, or create a new one",
        404: "no Daytona API at this address: check DAYTONA_API_URL, which ends in /api",
        429: "too many requests: try again later",
    }.get(status, "Daytona or a proxy in front of it fails: try again later")
    yield CheckResult("API", api_url() if status == 200 else f"{api_url()} answers {status}", took_s, advice)
    yield _clock(server_date, diagnosis.now())
    begin_import().result()  # here, so that the seconds of the SDK's import do not count as a later step's


def _clock(server_time: str | None, now: float) -> CheckResult:
    if server_time is None:
        return CheckResult("clock", "unknown: the API's answer has no Date header", 0.0)
    skew_s = now - email.utils.parsedate_to_datetime(server_time).timestamp()
    advice = "" if abs(skew_s) < _CLOCK_S else "set this machine's clock: tokens and certificates depend on it"
    return CheckResult("clock", f"{skew_s:+.0f} s from the API's", 0.0, advice, final=False)


def _snapshot(diagnosis: _Diagnosis) -> Iterator[CheckResult]:
    name = diagnosis.description.snapshot_name
    if name is None or diagnosis.description.source_image is not None:
        yield CheckResult(
            "snapshot", "Daytona's default; `daytona-kernel image build` makes one that starts faster", 0.0
        )
        return
    try:
        state = io_loop().run(_state_of_snapshot(name))
    except Exception as error:  # the SDK's own classes, which only the SDK's module may import
        if getattr(error, "status_code", None) == 404:
            yield CheckResult("snapshot", name, None, _SNAPSHOT_STATES["missing"])
        else:  # a key may have permission to use snapshots and none to read them
            yield CheckResult("snapshot", f"{name}: unknown ({error_sentence(error)})")
        return
    advice = _SNAPSHOT_STATES.get(state, "it is being built: try again when it is active")
    yield CheckResult("snapshot", f"{name} is {state}", None, "" if state == "active" else advice)


async def _state_of_snapshot(name: str) -> str:
    async with contextlib.aclosing(await DaytonaAPI.connect()) as service:
        return await service.snapshot_state(name)


def _sandbox(diagnosis: _Diagnosis) -> Iterator[CheckResult]:
    target = diagnosis.description.target or os.environ.get("DAYTONA_TARGET")
    try:
        sandbox = diagnosis.sandbox = io_loop().run(diagnosis.description.start())
    except KernelError as error:
        yield CheckResult("sandbox", "did not start", None, str(error))
        return
    yield CheckResult("sandbox", f"{sandbox.id} started, with a relay")
    region = sandbox.region
    if target and region and target != region:
        advice = "check DAYTONA_TARGET: the sandbox runs in another region than requested"
        yield CheckResult("region", f"{region}, not {target}", 0.0, advice, final=False)
    else:
        yield CheckResult("region", f"{region or 'unknown'}{'' if target else ' (the default)'}", 0.0)


def _preview(diagnosis: _Diagnosis) -> Iterator[CheckResult]:
    """Send plain requests through the preview; the relay answers each with its own 404."""
    address = diagnosis.running.address
    deadline = time.monotonic() + address.refused_timeout_s
    times: list[float] = []
    while len(times) < _TIMES:
        started_at = time.monotonic()
        try:
            status, text = _http_get(address)
        except (OSError, http.client.HTTPException) as error:
            advice = f"previews cannot be reached from here: check proxy, firewall and name service ({error})"
            yield CheckResult("preview", f"{address.url} does not answer", None, advice)
            return
        if (status, text) == (404, NO_SUCH_CHANNEL):
            times.append(time.monotonic() - started_at)
        elif time.monotonic() > deadline or status not in _PREVIEW_REFUSALS:
            advice = _PREVIEW_REFUSALS.get(status, "a proxy between here and the sandbox answers in its place")
            yield CheckResult("preview", f"answers {status}", None, advice)
            return
        else:
            time.sleep(_RETRY_S)
    yield CheckResult("preview", f"{_TIMES} requests to the relay; median time", statistics.median(times))


def _http_get(address: RelayAddress) -> tuple[int, str]:
    parts = urlsplit(address.url)
    secure = parts.scheme == "wss"
    connect = http.client.HTTPSConnection if secure else http.client.HTTPConnection
    connection = connect(address.host or parts.hostname or "", parts.port, timeout=_REQUEST_S)
    with contextlib.closing(connection):
        headers = {**address.headers, SECRET_HEADER: address.secret, "Host": parts.netloc}
        connection.request("GET", "/doctor", headers={**headers, "X-Daytona-Skip-Preview-Warning": "true"})
        answer = connection.getresponse()
        return answer.status, answer.read(4096).decode("utf-8", "replace")


class _NullSink:
    """A sink that ignores everything."""

    def message(self, *args: object, **kwargs: object) -> None:
        pass

    writable = lost = message


def _websocket(diagnosis: _Diagnosis) -> Iterator[CheckResult]:
    """Open a WebSocket without sending a hello: the relay accepts it, then closes it."""
    address = diagnosis.running.address

    async def upgrade() -> None:
        headers = {**address.headers, SECRET_HEADER: address.secret}
        url = f"{address.url}{PATH_PREFIX}{RELAY_CHANNEL}"
        socket = await connect_socket(url, headers, _NullSink(), timeout_s=DIAL_S, host=address.host)
        socket.abort()

    try:
        io_loop().run(upgrade())
    except Exception as error:  # sockets, TLS, HTTP and websockets have no common class below it
        proxies = [name for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY") if os.environ.get(name)]
        through = f" ({', '.join(proxies)} is set)" if proxies else ""
        advice = f"plain requests pass and WebSockets do not: allow them in the proxy or firewall{through} ({error})"
        yield CheckResult("WebSocket", "refused", None, advice)
        return
    yield CheckResult("WebSocket", "an upgrade through the preview")


def _kernel(diagnosis: _Diagnosis) -> Iterator[CheckResult]:
    diagnosis.interpreter = KernelInterpreter(sandbox=diagnosis)
    started_at = time.monotonic()
    try:
        diagnosis.interpreter.start()
        yield CheckResult("kernel", "started; answers on every channel", time.monotonic() - started_at)
        taken = []
        for _ in range(_TIMES):
            started_at = time.monotonic()
            diagnosis.interpreter.execute("None")
            taken.append(time.monotonic() - started_at)
    except CodeInterpreterError as error:
        yield CheckResult("kernel", "does not answer", None, str(error))
        return
    yield CheckResult("cell", f"{_TIMES} empty cells over the WebSocket; median time", statistics.median(taken))


def _versions(diagnosis: _Diagnosis) -> Iterator[CheckResult]:
    assert diagnosis.interpreter is not None
    versions = diagnosis.interpreter.execute(_VERSIONS)
    yield CheckResult(
        "versions", f"host: {__version__}, SDK {importlib.metadata.version('daytona')}; sandbox: {versions}", 0.0
    )
