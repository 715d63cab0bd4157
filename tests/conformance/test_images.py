"""Images and snapshots."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING

import pytest
from daytona import CreateSandboxFromImageParams, CreateSnapshotParams, Image, Resources
from daytona.common.errors import DaytonaBadRequestError, DaytonaNotFoundError

from .facts import Known, fact
from .service import LABEL

if TYPE_CHECKING:
    from .service import Service

SNAPSHOT = {
    "id": str,
    "general": bool,
    "name": str,
    "state": str,
    "createdAt": str,
    "updatedAt": str,
}
NULLABLE = ("size", "entrypoint", "errorReason", "lastUsedAt", "sourceSandboxId")
NUMBERS = ("cpu", "gpu", "mem", "disk")


@fact("a sandbox is made from an image, with resources, and tells of its building", Known.SDK)
def test_create_from_image(service: Service) -> None:
    image = Image.base("python:3.12-slim").env({"FROM_IMAGE": "yes"})
    lines: list[str] = []
    params = CreateSandboxFromImageParams(
        image=image, resources=Resources(cpu=2, memory=2, disk=4), labels={LABEL: service.run}, auto_delete_interval=30
    )
    made = service.sdk.create(params, timeout=600, on_snapshot_create_logs=lines.append)
    try:
        assert (made.cpu, made.memory, made.disk) == (2, 2, 4)
        assert made.process.exec("echo $FROM_IMAGE").result == "yes\n"
        body = service.api.get(f"/sandbox/{made.id}").json()["buildInfo"]
        assert {name: type(body[name]) for name in ("createdAt", "updatedAt", "snapshotRef")} == {
            "createdAt": str,
            "updatedAt": str,
            "snapshotRef": str,
        }
    finally:
        made.delete()
    # The log callback is only called if the service responds that a build is pending.
    assert not lines or any("FROM" in line for line in lines)


@fact("a snapshot has fifteen keys, its memory being called mem", Known.SDK)
def test_fields_of_a_snapshot(service: Service) -> None:
    page = service.api.get("/snapshots", params={"limit": 1}).json()
    assert {name: type(page[name]) for name in ("items", "total", "page", "totalPages")} == {
        "items": list,
        "total": int,
        "page": int,
        "totalPages": int,
    }
    (item, *_) = page["items"]
    assert {name: type(item[name]) for name in SNAPSHOT} == SNAPSHOT
    assert all(isinstance(item[name], (int, float)) for name in NUMBERS)
    assert set(NULLABLE) <= item.keys()


@fact("a snapshot is made, found by name, used, and deleted", Known.SDK)
def test_snapshot(service: Service) -> None:
    name = f"conformance-{uuid.uuid4().hex[:8]}"
    image = Image.base("python:3.12-slim").env({"FROM_SNAPSHOT": "yes"})
    lines: list[str] = []
    made = service.sdk.snapshot.create(CreateSnapshotParams(name=name, image=image), on_logs=lines.append, timeout=600)
    try:
        assert made.state == "active"
        assert any("FROM" in line for line in lines)
        assert service.sdk.snapshot.get(name).id == made.id
        with service.sandbox(snapshot=name) as sandbox:
            assert sandbox.process.exec("echo $FROM_SNAPSHOT").result == "yes\n"
            assert sandbox.snapshot == name
    finally:
        service.sdk.snapshot.delete(made)
    with pytest.raises(DaytonaNotFoundError):
        service.sdk.snapshot.get(name)


@pytest.mark.parametrize("tag", ["latest", "lts", "stable"])
@fact("a tag that moves is refused for a snapshot's image", Known.OLD_SERVER)
def test_moving_tags(service: Service, tag: str) -> None:
    with pytest.raises(DaytonaBadRequestError):
        service.sdk.snapshot.create(CreateSnapshotParams(name=f"conformance-{tag}", image=f"debian:{tag}"))
