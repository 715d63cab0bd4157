"""Control of the emulator over HTTP, for tests in other processes and other languages. Needs an API key."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from aiohttp import web

from .faults import fault_from_json
from .model import Record, Refused, new_token
from .world import OUT_OF_MEMORY_S, World

if TYPE_CHECKING:
    from .preview import Previews

PREFIX = "/control"


class Control:
    """Operations on the service that its users do not have.

    ``POST /control/faults`` adds a fault, ``DELETE`` clears the plan; ``POST /control/clock`` with ``advance_s``;
    ``POST /control/sandboxes/ID/out-of-memory``, ``/kill-daemon`` and ``/rotate-token``; ``POST
    /control/tokens/forget`` empties the proxy's caches.
    """

    def __init__(self, world: World, previews: Previews) -> None:
        self._world, self._previews = world, previews

    async def handle(self, request: web.Request, path: str) -> web.Response:
        """Return the response to a request below ``/control``."""
        organization = self._world.keys.get(request.headers.get("Authorization", "").removeprefix("Bearer "))
        if organization is None:
            return web.json_response({"message": "an API key of the emulator is needed"}, status=401)
        try:
            value = json.loads(await request.read() or b"{}")
            return await self._do(organization, request.method, path.split("/"), value)
        except (ValueError, TypeError) as error:
            return web.json_response({"message": str(error)}, status=400)
        except Refused as error:
            return web.json_response({"message": error.message}, status=error.status)

    async def _do(self, organization: str, method: str, path: list[str], value: object) -> web.Response:
        match (method, *path):
            case ("POST", "faults"):
                self._world.faults.add(fault_from_json(value))
            case ("DELETE", "faults"):
                self._world.faults.clear()
            case ("POST", "clock"):
                seconds = value.get("advance_s") if isinstance(value, dict) else None
                if not isinstance(seconds, (int, float)):
                    raise ValueError("advance_s must be a number of seconds")
                await self._world.advance(seconds)
            case ("POST", "tokens", "forget"):
                self._previews.forget()
            case ("POST", "sandboxes", sandbox, what):
                await self.act(self._world.fleet.find(organization, sandbox), what)
            case _:
                raise Refused(404, f"no such control: {method} {'/'.join(path)}")
        return web.json_response({})

    async def act(self, record: Record, what: str) -> None:
        """Apply one of the control operations to a sandbox.

        Raises:
            Refused: If the operation does not exist.
        """
        if what == "out-of-memory":
            await self._world.lose_processes(record, stops_after_s=OUT_OF_MEMORY_S)
        elif what == "kill-daemon":
            await self._world.lose_processes(record, stops_after_s=None)
        elif what == "rotate-token":
            record.preview_token = new_token()
        else:
            raise Refused(404, f"no such control: {what}")
