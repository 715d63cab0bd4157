"""State events over Socket.IO for the SDK's clients."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import socketio

from .api import PREFIX, Api
from .bodies import sandbox_body

if TYPE_CHECKING:
    from aiohttp import web

    from .model import Record, State
    from .world import World


class Events:
    """The event stream of one service; an organisation receives the events of its own sandboxes."""

    def __init__(self, world: World, api: Api, app: web.Application) -> None:
        self._world, self._api = world, api
        self._server = socketio.AsyncServer(
            async_mode="aiohttp", transports=["websocket"], cors_allowed_origins=[], logger=False, engineio_logger=False
        )
        self._server.attach(app, socketio_path=f"{PREFIX}/socket.io")
        self._server.on("connect", self._connect)
        world.emit = self.emit

    async def _connect(self, sid: str, environ: dict[str, Any], auth: Any = None) -> bool:
        token = auth.get("token") if isinstance(auth, dict) else None
        organization = self._world.keys.get(token) if isinstance(token, str) else None
        if organization is None:
            return False
        await self._server.enter_room(sid, organization)
        return True

    async def emit(self, record: Record, old: State | None) -> None:
        """Publish a new sandbox or a changed state."""
        body = sandbox_body(record, self._api.toolbox_url)
        if old is None:
            await self._server.emit("sandbox.created", body, room=record.organization)
            return
        change = {"sandbox": body, "oldState": old.value, "newState": record.state.value}
        await self._server.emit("sandbox.state.updated", change, room=record.organization)

    async def close(self) -> None:
        """Disconnect all clients."""
        await self._server.shutdown()
