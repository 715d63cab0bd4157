"""The service that the checks talk to: through the SDK, and by plain HTTP."""

from __future__ import annotations

import contextlib
import json
import time
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
from daytona import (
    AsyncSandbox,
    CreateSandboxFromSnapshotParams,
    Daytona,
    DaytonaConfig,
    Sandbox,
    SessionExecuteRequest,
)
from daytona.common.errors import DaytonaError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

APP = Path(__file__).with_name("app.py")
APP_PORT = "${DAYTONA_KERNEL_RELAY_PORT:-3456}"  # the variable is set where sandboxes share one loopback
OTHER_PORT = 3457  # a closed port
LABEL = "conformance"
TOKEN_HEADER = "X-Daytona-Preview-Token"
UNAUTHORIZED = (307, 401)  # old servers send to a login page, newer ones refuse
WAIT_S = 20.0


def until(condition: Callable[[], Any], what: str) -> Any:
    """Return what ``condition`` gives once that is true."""
    deadline = time.monotonic() + WAIT_S
    while not (value := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {WAIT_S} s for {what}")
        time.sleep(0.05)
    return value


def hang_up(daytona: Daytona) -> None:
    """Close the sync SDK's event socket: it has no close(), and its thread would connect again for ever."""
    dispatcher = daytona._event_dispatcher
    if dispatcher is not None:
        # A socket that is just being opened has no thread to be waited for yet (engineio 4.15).
        with contextlib.suppress(AttributeError):
            dispatcher.disconnect()


def state_of(sandbox: Sandbox | AsyncSandbox) -> str:
    """Return a sandbox's state as the SDK last heard of it."""
    return "" if sandbox.state is None else sandbox.state.value


class Service:
    """One Daytona, and a user of it."""

    def __init__(self, api_url: str, api_key: str) -> None:
        self.api_url, self.api_key = api_url, api_key
        self.sdk = Daytona(DaytonaConfig(api_key=api_key, api_url=api_url))
        self.plain = httpx.Client(trust_env=False, timeout=30)
        self.api = httpx.Client(
            base_url=api_url, headers={"Authorization": f"Bearer {api_key}"}, trust_env=False, timeout=30
        )
        self.run = uuid.uuid4().hex[:8]
        self._shared: Sandbox | None = None
        self._server: Sandbox | None = None
        self._port = 0

    def close(self) -> None:
        """Delete what the checks made and left."""
        for item in self.pages(labels=json.dumps({LABEL: self.run})):
            with contextlib.suppress(httpx.HTTPError):
                self.api.delete(f"/sandbox/{item['id']}")
        self.plain.close()
        self.api.close()
        hang_up(self.sdk)

    def pages(self, **query: str) -> list[dict[str, Any]]:
        """Return the items of all pages of a list."""
        found, cursor = [], ""
        for _ in range(100):
            page = self.api.get("/sandbox", params={**query, **({"cursor": cursor} if cursor else {})}).json()
            found += page["items"]
            cursor = page["nextCursor"]
            if not cursor:
                break
        return found

    def params(self, **given: Any) -> CreateSandboxFromSnapshotParams:
        """Return the parameters of a sandbox with the labels of this test and automatic deletion."""
        labels = {LABEL: self.run, **given.pop("labels", {})}
        return CreateSandboxFromSnapshotParams(
            **{"auto_stop_interval": 15, "auto_delete_interval": 30, **given}, labels=labels
        )

    @contextlib.contextmanager
    def sandbox(self, **given: Any) -> Iterator[Sandbox]:
        """Lend a sandbox of one's own."""
        made = self.sdk.create(self.params(**given))
        try:
            yield made
        finally:
            with contextlib.suppress(DaytonaError):
                made.delete()

    @property
    def shared(self) -> Sandbox:
        """A started sandbox for checks that leave it as it is."""
        if self._shared is None:
            self._shared = self.sdk.create(self.params())
        return self._shared

    @property
    def server(self) -> Sandbox:
        """A started sandbox in which :mod:`tests.conformance.app` listens."""
        if self._server is None:
            self._server = self.sdk.create(self.params())
            self._port = start_app(self._server)
        return self._server

    @property
    def port(self) -> int:
        """The port on which the app in :attr:`server` listens."""
        assert self.server is not None
        return self._port

    def toolbox(self, method: str, path: str, sandbox: Sandbox | None = None, **options: Any) -> httpx.Response:
        """Send a plain request to a sandbox's toolbox."""
        used = sandbox or self.shared
        base = self.api.get(f"/sandbox/{used.id}").json()["toolboxProxyUrl"]
        headers = {"Authorization": f"Bearer {self.api_key}", **options.pop("headers", {})}
        return self.plain.request(method, f"{base}/{used.id}{path}", headers=headers, **options)

    def preview(self, path: str = "/", **options: Any) -> httpx.Response:
        """Send a plain request with the token to the app in :attr:`server`."""
        link = self.server.get_preview_link(self.port)
        headers = {TOKEN_HEADER: link.token, **options.pop("headers", {})}
        return self.plain.request(options.pop("method", "GET"), link.url + path, headers=headers, **options)


def start_app(sandbox: Sandbox) -> int:
    """Start the app in a sandbox; returns its port when the preview reaches it."""
    port = int(sandbox.process.exec(f"echo {APP_PORT}").result)
    sandbox.fs.upload_file(APP.read_bytes(), "app.py")
    name = f"app-{uuid.uuid4().hex[:6]}"
    sandbox.process.create_session(name)
    request = SessionExecuteRequest(command=f"exec python3 app.py {port}", run_async=True)
    sandbox.process.execute_session_command(name, request)
    link = sandbox.get_preview_link(port)

    def answers() -> bool:
        return httpx.get(link.url, headers={TOKEN_HEADER: link.token}, trust_env=False).status_code == 200

    until(answers, "the app in the sandbox")
    return port
