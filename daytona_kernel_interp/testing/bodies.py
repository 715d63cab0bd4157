"""JSON bodies of requests and responses: checks as strict as the service's, and the exact sets of fields."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

from aiohttp import web

from .clock import stamp
from .model import Record, Refused

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .faults import Fault
    from .images import Snapshot

_REASONS = {
    400: "Bad Request",
    401: "Unauthorized",
    403: "Forbidden",
    404: "Not Found",
    408: "Request Timeout",
    409: "Conflict",
    410: "Gone",
    422: "Unprocessable Entity",
    429: "Too Many Requests",
    500: "Internal Server Error",
    501: "Not Implemented",
    502: "Bad Gateway",
    504: "Gateway Timeout",
}
_CODES = {400: "BAD_REQUEST", 401: "UNAUTHORIZED", 403: "FORBIDDEN", 404: "NOT_FOUND", 409: "CONFLICT", 410: "GONE"}
MAX_BODY_BYTES = 1 << 20
MAX_PORT = 65535

# Names of field types in the API's validation errors.
_KINDS: Mapping[str, tuple[type, ...]] = {
    "a string": (str,),
    "a boolean value": (bool,),
    "a number conforming to the specified constraints": (int, float),
    "an integer number": (int,),
    "an object": (dict,),
    "an array": (list,),
}
STRING, BOOLEAN, NUMBER, INTEGER, OBJECT, ARRAY = _KINDS


def api_error(error: Refused, path: str, now: float) -> web.Response:
    """Return an error response in the API's format."""
    body = {
        "path": path,
        "timestamp": stamp(now),
        "statusCode": error.status,
        "error": _REASONS.get(error.status, "Error"),
        "message": error.message,
    }
    return web.json_response(body, status=error.status)


async def answer_with(fault: Fault, request: web.Request, now: float) -> web.StreamResponse:
    """Return the response that a fault defines: none at all, a closed connection, or its status."""
    if fault.hang:
        await asyncio.Event().wait()
    if fault.refuse or fault.status is None:
        if request.transport is not None:
            request.transport.abort()
        return web.Response(status=500)
    if fault.body or fault.status == 502:
        return web.Response(status=fault.status, text=fault.body, headers=fault.headers)
    answer = api_error(Refused(fault.status, "a planned fault"), request.path, now)
    answer.headers.update(fault.headers)
    return answer


def daemon_error(error: Refused, method: str, path: str, now: float, source: str = "DAYTONA_DAEMON") -> web.Response:
    """Return an error response in the format of a sandbox's daemon or the proxy."""
    body = {
        "statusCode": error.status,
        "source": source,
        "message": error.message,
        "code": error.code or _CODES.get(error.status, _REASONS.get(error.status, "ERROR").upper().replace(" ", "_")),
        "timestamp": stamp(now),
        "path": path,
        "method": method,
    }
    return web.json_response(body, status=error.status)


async def read_object(request: web.Request, fields: Mapping[str, str], *required: str) -> dict[str, Any]:
    """Return a request's JSON object with checked fields; unknown fields are dropped, null counts as missing.

    Raises:
        Refused: With status 400 and the reason.
    """
    raw = await request.content.read(MAX_BODY_BYTES + 1)
    while not request.content.at_eof() and len(raw) <= MAX_BODY_BYTES:
        raw += await request.content.read(MAX_BODY_BYTES)
    if len(raw) > MAX_BODY_BYTES:
        raise Refused(413, "request entity too large")
    try:
        value = json.loads(raw or b"{}")
    except ValueError as error:
        raise Refused(400, f"Unexpected token in JSON: {error}") from None
    if not isinstance(value, dict):
        raise Refused(400, "the body must be an object")
    wrong = [
        f"{name} must be {fields[name]}" for name in value if name in fields and not _is(value[name], fields[name])
    ]
    wrong += [f"{name} must be {fields[name]}" for name in required if value.get(name) is None]
    if wrong:
        raise Refused(400, ", ".join(dict.fromkeys(wrong)))
    return {name: given for name, given in value.items() if name in fields and given is not None}


def _is(value: object, kind: str) -> bool:
    if value is None:
        return True
    if isinstance(value, bool):
        return kind == BOOLEAN
    return isinstance(value, _KINDS[kind])


def string_map(value: Mapping[str, Any], name: str) -> dict[str, str]:
    """Return a field that maps strings to strings.

    Raises:
        Refused: If a value is not a string.
    """
    given = value.get(name, {})
    if not all(isinstance(item, str) for item in given.values()):
        raise Refused(400, f"{name} must be an object of strings")
    return dict(given)


def number_in(text: str, name: str, low: float, high: float = float("inf")) -> int:
    """Return a whole number from a path or query.

    Raises:
        Refused: If the text is not a number, or out of range.
    """
    try:
        number = int(text)
    except ValueError:
        raise Refused(400, "Validation failed (numeric string is expected)") from None
    if not low <= number <= high:
        raise Refused(400, f"{name} must be between {low:.0f} and {high:.0f}: {number} is not")
    return number


def port_in(text: str) -> int:
    """Return a port from a path.

    Raises:
        Refused: If the text is not a port.
    """
    try:
        return number_in(text, "port", 1, MAX_PORT)
    except Refused as error:
        if error.message.startswith("Validation"):
            raise
        raise Refused(400, "Invalid port") from None


def sandbox_body(record: Record, toolbox_url: str) -> dict[str, Any]:
    """Return a sandbox with all fields that daytona SDK 0.226.1 requires, and the optional ones."""
    return {
        "id": record.id,
        "organizationId": record.organization,
        "name": record.name,
        "snapshot": record.snapshot,
        "user": record.user,
        "env": record.env,
        "labels": record.labels,
        "public": record.public,
        "networkBlockAll": record.network_block_all,
        "kvm": False,
        "target": record.target,
        "cpu": record.cpu,
        "gpu": record.gpu,
        "memory": record.memory,
        "disk": record.disk,
        "state": record.state.value,
        "desiredState": record.desired,
        "errorReason": record.error_reason,
        "recoverable": record.recoverable,
        "backupState": "None",
        "autoStopInterval": record.auto_stop,
        "autoPauseInterval": 0,
        "autoArchiveInterval": record.auto_archive,
        "autoDeleteInterval": record.auto_delete,
        "autoDestroyAt": stamp(record.created_at + record.ttl * 60) if record.ttl > 0 else None,
        "volumes": [],
        "buildInfo": record.build_info,
        "createdAt": stamp(record.created_at),
        "updatedAt": stamp(record.updated_at),
        "lastActivityAt": stamp(record.last_activity_at),
        "sandboxClass": record.sandbox_class,
        "daemonVersion": "v0.201.0",
        "runnerId": "emulated",
        "toolboxProxyUrl": toolbox_url,
    }


def list_item(record: Record, toolbox_url: str) -> dict[str, Any]:
    """Return a sandbox as an item of a list: without ``env`` and ``kvm``."""
    body = sandbox_body(record, toolbox_url)
    return {name: value for name, value in body.items() if name not in ("env", "kvm", "buildInfo")}


def snapshot_body(snapshot: Snapshot) -> dict[str, Any]:
    """Return a snapshot with its fifteen fields and its image's name."""
    return {
        "id": snapshot.id,
        "organizationId": snapshot.organization,
        "general": snapshot.organization is None,
        "name": snapshot.name,
        "imageName": snapshot.image_name,
        "state": snapshot.state,
        "size": 0.5 if snapshot.state == "active" else None,
        "entrypoint": snapshot.entrypoint,
        "cpu": snapshot.cpu,
        "gpu": snapshot.gpu,
        "mem": snapshot.mem,
        "disk": snapshot.disk,
        "errorReason": snapshot.image.error,
        "createdAt": stamp(snapshot.created_at),
        "updatedAt": stamp(snapshot.created_at),
        "lastUsedAt": None,
        "sourceSandboxId": snapshot.source_sandbox_id,
    }
