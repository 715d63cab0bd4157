"""The preview proxy: the sandbox and port of a host name, authentication, and refusals."""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, quote, unquote

from aiohttp import web

from .bodies import MAX_PORT, answer_with, daemon_error
from .faults import Fault, shape_of
from .model import Record, Refused, State, new_token
from .processes import MachineGone
from .upstream import REPLAYED_BYTES, Forwarded, Headers, NoAnswer, forward, send_and_drop

if TYPE_CHECKING:
    from collections.abc import Iterable

    from .toolbox import Toolbox
    from .world import World

TOKEN_HEADER = "X-Daytona-Preview-Token"
TOKEN_QUERY = "DAYTONA_SANDBOX_AUTH_KEY"
SKIP_ACTIVITY_HEADER = "X-Daytona-Skip-Last-Activity-Update"
SKIP_WARNING_HEADER = "X-Daytona-Skip-Preview-Warning"
DISABLE_CORS_HEADER = "X-Daytona-Disable-CORS"
WARNING_COOKIE = "daytona-preview-page-accepted"
TOOLBOX_PORT = 2280
_DAEMON_PORTS = (22222, 33333)  # web terminal and recording dashboard, which the emulator does not have
_ALWAYS_PRIVATE = (TOOLBOX_PORT, *_DAEMON_PORTS)
VALID_S, INVALID_S, PUBLIC_S = 120.0, 5.0, 3600.0
COOKIE_S = 3600.0
SIGNED_CHARS = 16
_BROWSER = re.compile(r"Mozilla/5\.0 .*(Chrome|Firefox|Safari|Edg|OPR|Vivaldi|SamsungBrowser)/")
_WARNING = (
    "<!doctype html><title>Preview</title><p>You are about to open a sandbox's preview.</p><button onclick=\""
    f"document.cookie='{WARNING_COOKIE}=true;path=/';location.reload()\">Go on</button>"
)


@dataclass
class Passed:
    """An authenticated request: its headers, its path, and the cookie to set."""

    headers: Headers
    target: str
    cookie: str | None = None


class Previews:
    """The proxy of one service."""

    def __init__(self, world: World, toolbox: Toolbox) -> None:
        self._world, self._toolbox = world, toolbox
        self._signed: dict[str, tuple[str, int, float]] = {}  # token -> sandbox, port, expiry
        self._known: dict[tuple[str, str], tuple[bool, float]] = {}  # (sandbox, credential) -> valid, expiry
        self._public: dict[str, tuple[bool, float]] = {}
        self._key = secrets.token_bytes(32)
        world.on_public_change = lambda sandbox_id: self._public.pop(sandbox_id, None) and None

    @property
    def authority(self) -> str:
        """The domain and port of all preview hosts."""
        return f"{self._world.options.domain}:{self._world.address.rpartition(':')[2]}"

    def sign(self, record: Record, port: int, seconds: float) -> str:
        """Return a new token for one port with a limited lifetime."""
        token = new_token(SIGNED_CHARS)
        self._signed[token] = record.id, port, self._world.clock.now() + seconds
        return token

    def expire(self, record: Record, port: int, token: str) -> None:
        """Revoke a signed token."""
        if self._signed.get(token, ("", 0, 0.0))[:2] == (record.id, port):
            del self._signed[token]

    def forget(self) -> None:
        """Empty the caches."""
        self._known.clear()
        self._public.clear()

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Return the response to a request for a preview host."""
        label = request.host.partition(".")[0]
        number, dash, rest = label.partition("-")
        if not dash or not number.isascii() or not number.isdigit() or not 1 <= int(number) <= MAX_PORT or not rest:
            return self._error(request, Refused(404, "not found"))
        port = int(number)
        signed = self._signed.get(rest)
        record = self._find(signed[0] if signed is not None else rest)
        if record is None:
            return self.unauthorized(request)
        faults = self._world.faults.take("preview", None, (record.id, record.name))
        for fault in faults:
            if fault.answers and not fault.after:
                return await self._faulty(request, fault)
        passed = self._pass(request, record, port, rest)
        if passed is None:
            return self.unauthorized(request)
        if _wants_warning(request, port):
            return web.Response(text=_WARNING, content_type="text/html")
        try:
            return await self._forward(request, record, port, passed, faults)
        except Refused as error:
            return self._error(request, error)

    async def toolbox(self, request: web.Request, sandbox_id: str, path: str) -> web.StreamResponse:
        """Return the response to a request for a sandbox's toolbox."""
        record = self._find(sandbox_id)
        if record is None or self._credentials(request, record, TOOLBOX_PORT, sandbox_id) is None:
            return self._error(request, Refused(401, "unauthorized: authentication failed"))
        try:
            return await self._call_toolbox(request, record, path)
        except Refused as error:
            return self._error(request, error)

    async def _call_toolbox(self, request: web.Request, record: Record, path: str) -> web.StreamResponse:
        self._touch(request, record)
        self._check_state(record)
        operation = self._toolbox.name_of(request.method, path)
        faults = self._world.faults.take("toolbox", operation, (record.id, record.name))
        for fault in faults:
            if fault.answers and not fault.after:
                return await self._faulty(request, fault)
        try:
            answer = await self._toolbox.handle(record, request, path)
        except MachineGone:
            return self._nobody()
        for fault in faults:
            if fault.answers:
                return await self._faulty(request, fault)
        return answer

    async def _forward(
        self, request: web.Request, record: Record, port: int, passed: Passed, faults: list[Fault]
    ) -> web.StreamResponse:
        self._touch(request, record)
        self._check_state(record)
        if port in _DAEMON_PORTS:
            raise Refused(501, f"The emulator has nothing on port {port}")
        if port == TOOLBOX_PORT:
            return await self._call_toolbox(request, record, passed.target.partition("?")[0])
        forwarded = Forwarded(request, port, passed.target, passed.headers, shape_of(faults))
        forwarded.added = [*_cors(request), *([("Set-Cookie", passed.cookie)] if passed.cookie else [])]
        if request.method == "OPTIONS" and "Access-Control-Request-Method" in request.headers and forwarded.added:
            return web.Response(status=204, headers=forwarded.added)
        body = None
        if forwarded.body_bytes is not None and forwarded.body_bytes <= REPLAYED_BYTES:
            body = await request.read()
        tries = 2 if body is not None and not forwarded.is_upgrade else 1
        if body is not None and any(fault.replay for fault in faults):
            await self._once_before(record, forwarded, body)
        record.open_sockets += forwarded.is_upgrade
        try:
            return await self._try(record, forwarded, body, tries)
        finally:
            record.open_sockets -= forwarded.is_upgrade
            if forwarded.is_upgrade:
                self._touch(request, record)

    async def _try(self, record: Record, forwarded: Forwarded, body: bytes | None, tries: int) -> web.StreamResponse:
        box = self._world.boxes[record.id]
        for _ in range(tries):
            try:
                made = None if box.machine is None else await box.machine.connect(forwarded.port)
            except MachineGone:
                made = None
            if made is None:
                return self._nobody()
            try:
                return await forward(made, forwarded, body, box.tubes)
            except (NoAnswer, ConnectionError):
                continue
        return self._nobody()

    async def _once_before(self, record: Record, forwarded: Forwarded, body: bytes) -> None:
        """Send a request and discard its response, as the proxy does when it assumes that its connection was lost."""
        machine = self._world.boxes[record.id].machine
        made = None if machine is None else await machine.connect(forwarded.port)
        if made is not None:
            await send_and_drop(made, forwarded, body)

    async def _faulty(self, request: web.Request, fault: Fault) -> web.StreamResponse:
        return await answer_with(fault, request, self._world.clock.now())

    def unauthorized(self, request: web.Request) -> web.Response:
        """Return the refusal of a preview host, in the form of old or new servers."""
        if self._world.options.generation == "new":
            return self._error(request, Refused(401, "unauthorized: authentication failed"))
        state = quote(str(request.url), safe="")
        answer = web.Response(status=307)
        answer.headers["Location"] = f"http://{self._world.address}/oidc/authorize?state={state}"
        answer.set_cookie("pkce_verifier", secrets.token_urlsafe(32), httponly=True)
        return answer

    def _nobody(self) -> web.Response:
        old = self._world.options.generation == "old"
        return web.Response(status=502) if old else web.Response(status=502, text="proxy upstream error")

    def _error(self, request: web.Request, error: Refused) -> web.Response:
        return daemon_error(error, request.method, request.path, self._world.clock.now(), "DAYTONA_PROXY")

    def _find(self, sandbox_id: str) -> Record | None:
        # Destroyed sandboxes too: a cached token is still valid for them.
        return next((record for record in self._world.fleet if record.id == sandbox_id), None)

    def _check_state(self, record: Record) -> None:
        if record.state in (State.ARCHIVED, State.DESTROYED):
            raise Refused(400, "bad request: failed to get runner info: sandbox has no runner")
        if record.state is not State.STARTED:
            raise Refused(400, "bad request: no IP address found. Is the Sandbox started?")

    def _touch(self, request: web.Request, record: Record) -> None:
        if request.headers.get(SKIP_ACTIVITY_HEADER, "").lower() != "true":
            self._world.fleet.touch(record, self._world.clock.now())

    def _pass(self, request: web.Request, record: Record, port: int, label: str) -> Passed | None:
        if port not in _ALWAYS_PRIVATE and label == record.id and self._is_public(record):
            return Passed(list(request.raw_headers), request.raw_path)
        return self._credentials(request, record, port, label)

    def _credentials(self, request: web.Request, record: Record, port: int, label: str) -> Passed | None:
        headers: Headers = list(request.raw_headers)
        scheme, _, key = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() == "bearer" and self._is_valid(record, f"key {key}", self._owns, key):
            return Passed(_without(headers, b"authorization"), request.raw_path)
        if (token := request.headers.get(TOKEN_HEADER)) is not None:
            headers = _without(headers, TOKEN_HEADER.lower().encode())
            if self._is_valid(record, f"token {token}", self._opens, token):
                return Passed(headers, request.raw_path)
        token = request.query.get(TOKEN_QUERY)
        if token is not None and self._is_valid(record, f"token {token}", self._opens, token):
            return Passed(headers, _without_query(request.raw_path, TOKEN_QUERY))
        cookie_name = f"daytona-sandbox-auth-{label}"
        if self._is_cookie(request.cookies.get(cookie_name, ""), label):
            return Passed(headers, request.raw_path)
        signed = self._signed.get(label)
        if signed is not None and signed[:2] == (record.id, port) and self._world.clock.now() < signed[2]:
            cookie = f"{cookie_name}={self._cookie(label)}; Path=/; Max-Age={COOKIE_S:.0f}; HttpOnly"
            return Passed(headers, request.raw_path, cookie)
        return None

    def _owns(self, record: Record, key: str) -> bool:
        return record.state is not State.DESTROYED and self._world.keys.get(key.strip()) == record.organization

    def _opens(self, record: Record, token: str) -> bool:
        if record.state is State.DESTROYED or not record.preview_token:
            return False
        return hmac.compare_digest(record.preview_token.encode(), token.encode())

    def _is_valid(self, record: Record, name: str, check: object, credential: str) -> bool:
        now = self._world.clock.now()
        valid, until = self._known.get((record.id, name), (False, 0.0))
        if self._world.options.token_caches and now < until:
            return valid
        valid = bool(check(record, credential))  # type: ignore[operator]
        self._known[record.id, name] = valid, now + (VALID_S if valid else INVALID_S)
        return valid

    def _is_public(self, record: Record) -> bool:
        now = self._world.clock.now()
        public, until = self._public.get(record.id, (False, 0.0))
        if self._world.options.token_caches and now < until:
            return public
        self._public[record.id] = record.public, now + PUBLIC_S
        return record.public

    def _cookie(self, label: str) -> str:
        until = f"{self._world.clock.now() + COOKIE_S:.0f}"
        return f"{until}.{self._mac(label, until)}"

    def _is_cookie(self, value: str, label: str) -> bool:
        until, _, mac = unquote(value).partition(".")
        if not hmac.compare_digest(mac.encode(), self._mac(label, until).encode()):
            return False
        return self._world.clock.now() < float(until)

    def _mac(self, label: str, until: str) -> str:
        return hmac.new(self._key, f"{label} {until}".encode(), hashlib.sha256).hexdigest()


def _without(headers: Iterable[tuple[bytes, bytes]], name: bytes) -> Headers:
    return [(known, value) for known, value in headers if known.lower() != name]


def _without_query(raw_path: str, name: str) -> str:
    path, _, query = raw_path.partition("?")
    kept = [pair for pair in query.split("&") if dict(parse_qsl(pair, keep_blank_values=True)).keys() != {name}]
    return f"{path}?{'&'.join(kept)}" if kept else path


def _cors(request: web.Request) -> list[tuple[str, str]]:
    origin = request.headers.get("Origin")
    if origin is None or request.headers.get(DISABLE_CORS_HEADER, "").lower() == "true":
        return []
    return [("Access-Control-Allow-Origin", origin), ("Access-Control-Allow-Credentials", "true")]


def _wants_warning(request: web.Request, port: int) -> bool:
    if port in _ALWAYS_PRIVATE or "Upgrade" in request.headers or WARNING_COOKIE in request.cookies:
        return False
    if request.headers.get(SKIP_WARNING_HEADER, "").lower() == "true":
        return False
    return _BROWSER.match(request.headers.get("User-Agent", "")) is not None
