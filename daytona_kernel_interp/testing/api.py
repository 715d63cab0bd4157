"""The REST API, one method per operation."""

from __future__ import annotations

import base64
import json
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any

from aiohttp import web

from .bodies import (
    ARRAY,
    BOOLEAN,
    INTEGER,
    NUMBER,
    OBJECT,
    STRING,
    answer_with,
    api_error,
    list_item,
    number_in,
    port_in,
    read_object,
    sandbox_body,
    snapshot_body,
    string_map,
)
from .clock import stamp
from .images import DEFAULT_SNAPSHOT, Image, Snapshot, check_tag, entrypoint_command, image_from_dockerfile
from .model import CONTAINER, LINUX_VM, Act, Record, Refused, State
from .operations import API, match

if TYPE_CHECKING:
    from .faults import Fault
    from .preview import Previews
    from .world import World

PREFIX = "/api"
MAX_LIMIT = 200
DEFAULT_LIMIT = 100
_LIMITS = {"cpu": 4, "memory": 8, "disk": 10}

_CREATE_FIELDS = {
    "name": STRING,
    "snapshot": STRING,
    "user": STRING,
    "env": OBJECT,
    "labels": OBJECT,
    "public": BOOLEAN,
    "networkBlockAll": BOOLEAN,
    "networkAllowList": STRING,
    "domainAllowList": STRING,
    "outboundProxyUrl": STRING,
    "otelEndpointOverride": STRING,
    "target": STRING,
    "cpu": INTEGER,
    "gpu": INTEGER,
    "memory": INTEGER,
    "disk": INTEGER,
    "autoStopInterval": NUMBER,
    "autoPauseInterval": NUMBER,
    "autoArchiveInterval": NUMBER,
    "autoDeleteInterval": NUMBER,
    "ttlMinutes": NUMBER,
    "queueTimeout": INTEGER,
    "volumes": ARRAY,
    "secrets": ARRAY,
    "spot": BOOLEAN,
    "kvm": BOOLEAN,
    "linkedSandbox": STRING,
    "buildInfo": OBJECT,
}
# Fields that only the real service supports: refused unless they have no effect.
_NOT_EMULATED = (
    "networkAllowList",
    "domainAllowList",
    "outboundProxyUrl",
    "otelEndpointOverride",
    "gpu",
    "volumes",
    "secrets",
    "spot",
    "kvm",
    "linkedSandbox",
)
_LIST_FILTERS = {"labels", "limit", "cursor", "states", "id", "name", "includeErroredDeleted", "includeWarm"}


class Call:
    """One authenticated request to the API."""

    def __init__(self, request: web.Request, organization: str, parameters: Mapping[str, str]) -> None:
        self.request, self.organization, self.parameters = request, organization, parameters

    def query(self, name: str, default: str = "") -> str:
        """Return a query parameter."""
        return self.request.query.get(name, default)


Handler = Callable[[Call], Awaitable[web.StreamResponse]]


class Api:
    """The API of one service."""

    def __init__(self, world: World, previews: Previews) -> None:
        self._world, self._previews = world, previews
        prefix = "_op_"
        self._handlers: dict[str, Handler] = {
            name.removeprefix(prefix): getattr(self, name) for name in dir(self) if name.startswith(prefix)
        }

    def served(self) -> set[str]:
        """Return the names of the operations that are served."""
        return set(self._handlers)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Return the response to a request below ``/api``."""
        path = request.raw_path.partition("?")[0]
        try:
            return await self._answer(request, path.removeprefix(PREFIX) or "/")
        except Refused as error:
            return api_error(error, path, self._world.clock.now())

    async def _answer(self, request: web.Request, path: str) -> web.StreamResponse:
        found = match(API, request.method, path)
        if found is None:
            raise Refused(404, f"Cannot {request.method} {request.rel_url.raw_path}")
        operation, parameters = found
        organization = self._organization(request)
        faults = self._world.faults.take(API, operation.name, self._names(parameters, organization))
        for fault in faults:
            if fault.answers and not fault.after:
                return await self._faulty(request, fault)
        handler = self._handlers.get(operation.name)
        if handler is None:
            raise Refused(501, f"The emulator has no {operation.name} ({operation.method} {operation.path})")
        answer = await handler(Call(request, organization, parameters))
        for fault in faults:
            if fault.answers:
                return await self._faulty(request, fault)
        return answer

    async def _faulty(self, request: web.Request, fault: Fault) -> web.StreamResponse:
        return await answer_with(fault, request, self._world.clock.now())

    def _organization(self, request: web.Request) -> str:
        scheme, _, key = request.headers.get("Authorization", "").partition(" ")
        organization = self._world.keys.get(key.strip()) if scheme.lower() == "bearer" else None
        if organization is None:
            raise Refused(401, "Invalid credentials" if key else "Unauthorized")
        return organization

    def _names(self, parameters: Mapping[str, str], organization: str) -> tuple[str, ...]:
        try:
            record = self._world.fleet.find(organization, parameters.get("sandbox", ""))
        except Refused:
            return ()
        return record.id, record.name

    def _record(self, call: Call) -> Record:
        return self._world.fleet.find(call.organization, call.parameters["sandbox"])

    def _sandbox(self, record: Record) -> web.Response:
        return web.json_response(sandbox_body(record, self.toolbox_url))

    @property
    def toolbox_url(self) -> str:
        """The base URL of the toolboxes."""
        return f"http://{self._world.address}/toolbox"

    # Sandboxes

    async def _op_createSandbox(self, call: Call) -> web.StreamResponse:
        asked = await read_object(call.request, _CREATE_FIELDS)
        for name in _NOT_EMULATED:
            if asked.get(name):
                raise Refused(501, f"The emulator has no createSandbox with {name}")
        if asked.get("networkBlockAll") and not self._world.options.isolated:
            raise Refused(501, "The emulator has no createSandbox with networkBlockAll where unshare -rn does not work")
        if asked.get("autoPauseInterval"):
            raise Refused(400, "Auto-pause is not available for containers")
        record = _record_from(asked, call.organization, self._world.clock.now())
        await self._world.create(record, self._image_for(record, asked, call.organization))
        return self._sandbox(record)

    def _image_for(self, record: Record, asked: Mapping[str, Any], organization: str) -> Image:
        resources = {name: asked[name] for name in _LIMITS if name in asked}
        for name, value in resources.items():
            if not 1 <= value <= _LIMITS[name]:
                raise Refused(400, f"{name} must be between 1 and {_LIMITS[name]}: {value} is not")
        if "buildInfo" not in asked:
            if resources:
                raise Refused(400, "Cannot specify Sandbox resources when using a snapshot")
            snapshot = self._world.images.usable(organization, asked.get("snapshot") or DEFAULT_SNAPSHOT)
            record.snapshot, record.sandbox_class = snapshot.name, snapshot.sandbox_class
            record.cpu, record.memory, record.disk = snapshot.cpu, snapshot.mem, snapshot.disk
            return snapshot.image
        image = self._image(asked["buildInfo"])
        now = stamp(record.created_at)
        record.build_info = {
            "dockerfileContent": image.dockerfile,
            "snapshotRef": f"emulated/{record.id}",
            "createdAt": now,
            "updatedAt": now,
        }
        record.state = State.PENDING_BUILD
        for name, value in resources.items():
            setattr(record, name, value)
        return image

    def _image(self, build_info: Mapping[str, Any]) -> Image:
        text = build_info.get("dockerfileContent")
        if not isinstance(text, str):
            raise Refused(400, "buildInfo.dockerfileContent must be a string")
        if build_info.get("contextHashes"):
            raise Refused(501, "The emulator has no buildInfo with contextHashes")
        return image_from_dockerfile(text)

    async def _op_listSandboxes(self, call: Call) -> web.StreamResponse:
        if unknown := set(call.request.query) - _LIST_FILTERS:
            raise Refused(501, f"The emulator has no listSandboxes with {', '.join(sorted(unknown))}")
        limit = number_in(call.query("limit", str(DEFAULT_LIMIT)), "limit", 1, MAX_LIMIT)
        try:
            labels = json.loads(call.query("labels", "{}"))
        except ValueError:
            labels = None
        if not isinstance(labels, dict):
            raise Refused(400, "Invalid labels JSON format")
        start = _from_cursor(call.query("cursor"))
        states = {state for value in call.request.query.getall("states", []) for state in value.split(",")}
        found = [
            record
            for record in self._world.fleet.of(call.organization)
            if labels.items() <= record.labels.items()
            and (not states or record.state.value in states)
            and call.query("name") in ("", record.name)
            and record.id.startswith(call.query("id"))
        ]
        page = [record for record in found if start is None or (record.created_at, record.id) < start]
        page.sort(key=lambda record: (record.created_at, record.id), reverse=True)
        rest = len(page) > limit
        items = [list_item(record, self.toolbox_url) for record in page[:limit]]
        return web.json_response({"items": items, "nextCursor": _to_cursor(page[limit - 1]) if rest else None})

    async def _op_getSandbox(self, call: Call) -> web.StreamResponse:
        return self._sandbox(self._record(call))

    async def _op_deleteSandbox(self, call: Call) -> web.StreamResponse:
        return await self._changed(call, Act.DESTROY)

    async def _op_startSandbox(self, call: Call) -> web.StreamResponse:
        if self._record(call).state is State.STARTED:
            return self._sandbox(self._record(call))
        return await self._changed(call, Act.START)

    async def _op_stopSandbox(self, call: Call) -> web.StreamResponse:
        return await self._changed(call, Act.STOP, force=call.query("force") == "true")

    async def _op_archiveSandbox(self, call: Call) -> web.StreamResponse:
        return await self._changed(call, Act.ARCHIVE)

    async def _op_recoverSandbox(self, call: Call) -> web.StreamResponse:
        return await self._changed(call, Act.RECOVER)

    async def _op_pauseSandbox(self, call: Call) -> web.StreamResponse:
        return await self._changed(call, Act.PAUSE)

    async def _changed(self, call: Call, act: Act, *, force: bool = False) -> web.StreamResponse:
        record = self._record(call)
        await self._world.change(record, act, force=force)
        return self._sandbox(record)

    async def _op_updateLastActivity(self, call: Call) -> web.StreamResponse:
        self._world.fleet.touch(self._record(call), self._world.clock.now())
        return web.Response(status=201)

    async def _op_setAutostopInterval(self, call: Call) -> web.StreamResponse:
        return self._interval(call, "interval", "auto_stop", 0)

    async def _op_setAutoArchiveInterval(self, call: Call) -> web.StreamResponse:
        return self._interval(call, "interval", "auto_archive", 0)

    async def _op_setAutoDeleteInterval(self, call: Call) -> web.StreamResponse:
        return self._interval(call, "interval", "auto_delete", -1)

    async def _op_setTtl(self, call: Call) -> web.StreamResponse:
        return self._interval(call, "ttlMinutes", "ttl", 0)

    def _interval(self, call: Call, parameter: str, attribute: str, low: int) -> web.Response:
        record = self._record(call)
        setattr(record, attribute, number_in(call.parameters[parameter], parameter, low))
        return self._sandbox(record)

    async def _op_replaceLabels(self, call: Call) -> web.StreamResponse:
        record = self._record(call)
        asked = await read_object(call.request, {"labels": OBJECT}, "labels")
        record.labels = string_map(asked, "labels")
        return web.json_response({"labels": record.labels})

    async def _op_updatePublicStatus(self, call: Call) -> web.StreamResponse:
        record = self._record(call)
        if call.parameters["isPublic"] not in ("true", "false"):
            raise Refused(400, "Validation failed (boolean string is expected)")
        record.public = call.parameters["isPublic"] == "true"
        self._world.on_public_change(record.id)
        return self._sandbox(record)

    async def _op_getToolboxProxyUrl(self, call: Call) -> web.StreamResponse:
        self._record(call)
        return web.json_response({"url": self.toolbox_url})

    # Previews

    async def _op_getPortPreviewUrl(self, call: Call) -> web.StreamResponse:
        record, port = self._record(call), port_in(call.parameters["port"])
        url = f"http://{port}-{record.id}.{self._previews.authority}"
        return web.json_response({"sandboxId": record.id, "url": url, "token": record.preview_token})

    async def _op_getSignedPortPreviewUrl(self, call: Call) -> web.StreamResponse:
        record, port = self._record(call), port_in(call.parameters["port"])
        seconds = number_in(call.query("expiresInSeconds", "60"), "expiresInSeconds", 1, 24 * 3600)
        token = self._previews.sign(record, port, seconds)
        url = f"http://{port}-{token}.{self._previews.authority}"
        return web.json_response({"sandboxId": record.id, "port": port, "token": token, "url": url})

    async def _op_expireSignedPortPreviewUrl(self, call: Call) -> web.StreamResponse:
        record, port = self._record(call), port_in(call.parameters["port"])
        self._previews.expire(record, port, call.parameters["token"])
        return web.Response()

    # Images and snapshots

    async def _op_getBuildLogsUrl(self, call: Call) -> web.StreamResponse:
        record = self._record(call)
        if record.build_info is None:
            raise Refused(404, f"Sandbox with ID {record.id} has no build info")
        return web.json_response({"url": f"http://{self._world.address}/sandboxes/{record.id}/build-logs"})

    async def _op_createSandboxSnapshot(self, call: Call) -> web.StreamResponse:
        record = self._record(call)
        asked = await read_object(call.request, {"name": STRING, "includeMemory": BOOLEAN}, "name")
        if asked.get("includeMemory"):
            raise Refused(501, "The emulator has no createSandboxSnapshot with includeMemory")
        if record.state not in (State.STARTED, State.STOPPED):
            raise Refused(400, f"Sandbox is in {record.state.value} state: a snapshot is not possible")
        await self._world.snapshot(record, asked["name"])
        return self._sandbox(record)

    async def _op_createSnapshot(self, call: Call) -> web.StreamResponse:
        fields = {"name": STRING, "imageName": STRING, "entrypoint": ARRAY, "buildInfo": OBJECT, "regionId": STRING}
        fields |= {"sandboxClass": STRING, "gpu": INTEGER, **dict.fromkeys(_LIMITS, INTEGER)}
        asked = await read_object(call.request, fields, "name")
        sandbox_class = asked.get("sandboxClass", CONTAINER)
        if asked.get("gpu") or sandbox_class not in (CONTAINER, LINUX_VM):
            raise Refused(501, "The emulator has no createSnapshot with gpu or this sandboxClass")
        if "buildInfo" in asked:
            image, image_name = self._image(asked["buildInfo"]), ""
        elif "imageName" in asked:
            image_name = asked["imageName"]
            check_tag(image_name)
            image = image_from_dockerfile(f"FROM {image_name}\n")
        else:
            raise Refused(400, "imageName must be a string")
        if asked.get("entrypoint"):
            image.entrypoint = entrypoint_command(asked["entrypoint"])
        snapshot = Snapshot(
            asked["name"],
            image,
            self._world.clock.now(),
            call.organization,
            image_name or f"emulated/{asked['name']}:1",
            cpu=asked.get("cpu", 1),
            mem=asked.get("memory", 1),
            disk=asked.get("disk", 3),
            state="building" if "buildInfo" in asked else "pending",
            entrypoint=asked.get("entrypoint"),
            sandbox_class=sandbox_class,
        )
        self._world.images.add(snapshot)
        self._world.background(self._world.images.build(snapshot))
        return web.json_response(snapshot_body(snapshot))

    async def _op_getAllSnapshots(self, call: Call) -> web.StreamResponse:
        page = number_in(call.query("page", "1"), "page", 1)
        limit = number_in(call.query("limit", str(DEFAULT_LIMIT)), "limit", 1, MAX_LIMIT)
        found = self._world.images.of(call.organization)
        items = [snapshot_body(known) for known in found[(page - 1) * limit : page * limit]]
        pages = -(-len(found) // limit)
        return web.json_response({"items": items, "total": len(found), "page": page, "totalPages": pages})

    def _snapshot(self, call: Call) -> Snapshot:
        return self._world.images.find(call.organization, call.parameters["id"])

    async def _op_getSnapshot(self, call: Call) -> web.StreamResponse:
        return web.json_response(snapshot_body(self._snapshot(call)))

    async def _op_removeSnapshot(self, call: Call) -> web.StreamResponse:
        self._world.images.remove(self._snapshot(call))
        return web.Response()

    async def _op_activateSnapshot(self, call: Call) -> web.StreamResponse:
        return self._switched(call, "inactive", "active")

    async def _op_deactivateSnapshot(self, call: Call) -> web.StreamResponse:
        self._switched(call, "active", "inactive")
        return web.Response(status=204)

    def _switched(self, call: Call, before: str, after: str) -> web.Response:
        snapshot = self._snapshot(call)
        if snapshot.organization is None:
            raise Refused(403, "You cannot change a general snapshot")
        if snapshot.state != before:
            raise Refused(400, f"Snapshot {snapshot.name} is {snapshot.state}, not {before}")
        snapshot.state = after
        return web.json_response(snapshot_body(snapshot))

    async def _op_getSnapshotBuildLogsUrl(self, call: Call) -> web.StreamResponse:
        snapshot = self._snapshot(call)
        return web.json_response({"url": f"http://{self._world.address}/snapshots/{snapshot.id}/build-logs"})


def _record_from(asked: Mapping[str, Any], organization: str, now: float) -> Record:
    for name, low in (("autoStopInterval", 0), ("autoArchiveInterval", 0), ("ttlMinutes", 0), ("queueTimeout", 1)):
        if asked.get(name, low) < low:
            raise Refused(400, f"{name} must not be less than {low}")
    record = Record(
        organization,
        now,
        name=asked.get("name", ""),
        labels=string_map(asked, "labels"),
        env=string_map(asked, "env"),
        user=asked.get("user", "daytona"),
        target=asked.get("target", "us"),
        public=asked.get("public", False),
        network_block_all=asked.get("networkBlockAll", False),
    )
    names = {"autoStopInterval": "auto_stop", "autoArchiveInterval": "auto_archive"}
    names |= {"autoDeleteInterval": "auto_delete", "ttlMinutes": "ttl"}
    for name, attribute in names.items():
        if name in asked:
            setattr(record, attribute, asked[name])
    return record


def _to_cursor(record: Record) -> str:
    return base64.urlsafe_b64encode(json.dumps([record.created_at, record.id]).encode()).decode()


def _from_cursor(text: str) -> tuple[float, str] | None:
    if not text:
        return None
    try:
        created_at, sandbox_id = json.loads(base64.urlsafe_b64decode(text))
        return float(created_at), str(sandbox_id)
    except (ValueError, TypeError):
        raise Refused(400, "Invalid cursor") from None
