"""The SDK's parameters for the sandbox that a description asks for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ...errors import SandboxFailed

if TYPE_CHECKING:
    from daytona import CreateSandboxFromImageParams, CreateSandboxFromSnapshotParams, Image

    from . import DaytonaSandbox

    CreateParams = CreateSandboxFromSnapshotParams | CreateSandboxFromImageParams


def create_params(description: DaytonaSandbox, labels: Mapping[str, str], image: Image | str | None) -> CreateParams:
    """Return the parameters of the create request; ``image`` is the description's as the SDK takes it.

    Raises:
        SandboxFailed: If the installed SDK is too old for one of the options.
    """
    from daytona import CreateSandboxFromImageParams, CreateSandboxFromSnapshotParams, Resources, VolumeMount

    if description.params is not None:
        return _completed(description, labels)
    volumes = description.volumes
    if isinstance(volumes, Mapping):
        volumes = [VolumeMount(volume_id=name, mount_path=path) for name, path in volumes.items()]
    options: dict[str, object] = {
        "env_vars": dict(description.env_vars) or None,
        "labels": {**description.labels, **labels},
        "public": False,
        "auto_stop_interval": description.effective_auto_stop_interval,
        "auto_delete_interval": None if description.keep else 0,
        "ttl_minutes": description.effective_ttl_minutes or None,
        "target": description.target,
        "volumes": list(volumes) or None,
        "network_block_all": description.network_block_all or None,
        "network_allow_list": description.network_allow_list,
        "domain_allow_list": description.domain_allow_list,
    }
    options = {name: value for name, value in options.items() if value is not None}
    # The SDK's models drop a name that they do not know without an error.
    if unknown := options.keys() - CreateSandboxFromSnapshotParams.model_fields.keys():
        raise SandboxFailed(
            f"this version of Daytona's SDK has no option {', '.join(sorted(unknown))}: "
            "install a newer one with pip install --upgrade daytona"
        )
    if image is None:
        return CreateSandboxFromSnapshotParams.model_validate({"snapshot": description.snapshot_name, **options})
    resources: Any = description.resources
    if isinstance(resources, Mapping):
        resources = Resources(**resources)
    return CreateSandboxFromImageParams.model_validate({"image": image, "resources": resources, **options})


def _completed(description: DaytonaSandbox, labels: Mapping[str, str]) -> CreateParams:
    """Return a copy of the description's ``params`` with its open options set."""
    assert description.params is not None
    params = description.params.model_copy(deep=True)
    params.labels = {**(params.labels or {}), **labels}
    params.auto_stop_interval = description.effective_auto_stop_interval
    if params.auto_delete_interval is None and not description.keep:
        params.auto_delete_interval = 0
    if hasattr(params, "ttl_minutes"):  # not in the oldest SDKs
        params.ttl_minutes = description.effective_ttl_minutes or None
    if params.public is None:
        params.public = False
    if hasattr(params, "snapshot"):
        params.snapshot = description.snapshot_name
    return params
