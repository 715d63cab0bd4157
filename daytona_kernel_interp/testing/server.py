"""The HTTP server: it dispatches requests by host and path to API, events, toolboxes, previews, build logs, control."""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING

from aiohttp import web

from .api import PREFIX, Api
from .bodies import daemon_error
from .control import PREFIX as CONTROL
from .control import Control
from .events import Events
from .model import Refused
from .preview import Previews
from .toolbox import Toolbox

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from .images import Image
    from .world import World

HOST = "127.0.0.1"  # loopback only, because sandboxes run as the user
_KEEP_ALIVE_S = 70.0
_READ_BYTES = 1 << 18
_FIELD_BYTES = 1 << 16
_UPLOAD_BYTES = 1 << 40  # no limit: uploads are streamed, and JSON bodies have a separate limit
_CLOSE_S = 0.2


class Server:
    """The HTTP server of one service."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.toolbox = Toolbox(world)
        self.previews = Previews(world, self.toolbox)
        self.api = Api(world, self.previews)
        self.control = Control(world, self.previews)
        app = web.Application(middlewares=[self._by_host], client_max_size=_UPLOAD_BYTES)
        self.events = Events(world, self.api, app)
        app.router.add_route("*", "/{path:.*}", self._by_path)
        self._runner = web.AppRunner(
            app,
            access_log=None,
            handle_signals=False,
            keepalive_timeout=_KEEP_ALIVE_S,
            auto_decompress=False,
            read_bufsize=_READ_BYTES,
            max_line_size=_FIELD_BYTES,
            max_field_size=_FIELD_BYTES,
            shutdown_timeout=_CLOSE_S,
        )

    async def start(self, port: int) -> None:
        """Listen on loopback; port 0 selects a free one."""
        await self._runner.setup()
        await web.TCPSite(self._runner, HOST, port).start()
        self.world.address = f"{HOST}:{self._runner.addresses[0][1]}"
        self.world.start()

    async def close(self) -> None:
        """Close all connections and end all sandboxes."""
        await self.events.close()
        await self.world.close()
        await self._runner.cleanup()

    @web.middleware
    async def _by_host(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        host = request.host.rpartition(":")[0] or request.host
        if host.lower().endswith(f".{self.world.options.domain}"):
            return await self.previews.handle(request)
        if not _is_loopback(host.lower()) and host.lower() != self.world.options.domain:
            # A foreign host name, for example of a web page that rebinds its DNS name to loopback.
            return self._not_found(request)
        return await handler(request)

    async def _by_path(self, request: web.Request) -> web.StreamResponse:
        path = request.raw_path.partition("?")[0]
        first, _, rest = path.lstrip("/").partition("/")
        if f"/{first}" == PREFIX:
            return await self.api.handle(request)
        if f"/{first}" == CONTROL:
            return await self.control.handle(request, rest)
        if first == "toolbox":
            sandbox_id, _, below = rest.partition("/")
            return await self.previews.toolbox(request, sandbox_id, f"/{below}")
        if first in ("sandboxes", "snapshots") and rest.endswith("/build-logs"):
            return await self._build_logs(request, first, rest.removesuffix("/build-logs"))
        if path == "/health":
            return web.json_response({"status": "ok"})
        return self._not_found(request)

    def _not_found(self, request: web.Request) -> web.Response:
        error = Refused(404, "not found")
        return daemon_error(error, request.method, request.path, self.world.clock.now(), "DAYTONA_PROXY")

    async def _build_logs(self, request: web.Request, kind: str, name: str) -> web.StreamResponse:
        organization = self.world.keys.get(request.headers.get("Authorization", "").removeprefix("Bearer "))
        if organization is None:
            error = Refused(401, "unauthorized: authentication failed")
            return daemon_error(error, request.method, request.path, self.world.clock.now(), "DAYTONA_PROXY")
        try:
            image = self._image(organization, kind, name)
        except Refused:
            return self._not_found(request)
        if request.query.get("follow") == "true":
            await image.finished.wait()
        response = web.StreamResponse()
        response.content_type = "text/plain"
        await response.prepare(request)
        for line in image.log:
            await response.write(line.encode())
        await response.write_eof()
        return response

    def _image(self, organization: str, kind: str, name: str) -> Image:
        if kind == "snapshots":
            return self.world.images.find(organization, name).image
        return self.world.boxes[self.world.fleet.find(organization, name).id].image


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
