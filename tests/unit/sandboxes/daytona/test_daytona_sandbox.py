"""Tests of ``DaytonaSandbox``: its options, and the SDK parameters that ``sdk_params`` makes of them."""

from __future__ import annotations

import pickle
from typing import Any

import pytest
from daytona import CreateSandboxFromImageParams, CreateSandboxFromSnapshotParams, Image, Resources, VolumeMount

from daytona_kernel_interp import DaytonaSandbox, KernelImage
from daytona_kernel_interp.sandboxes.daytona import REPLACED_OPTIONS
from daytona_kernel_interp.sandboxes.daytona.api import create_params

LABELS = {"daytona-kernel": "1"}


def params_of(**options: Any) -> dict[str, Any]:
    """Return what the create request has for a description, without what is not set."""
    description = DaytonaSandbox(**options)
    return create_params(description, LABELS, description.source_image).model_dump(exclude_none=True)


def test_a_description_can_be_pickled_and_hides_secrets() -> None:
    """A copy is equal; variables and the SDK's parameters are not in its text."""
    description = DaytonaSandbox(snapshot="s", env_vars={"TOKEN": "hush"}, keep=True)
    assert pickle.loads(pickle.dumps(description)) == description
    params = DaytonaSandbox(params=CreateSandboxFromSnapshotParams(env_vars={"TOKEN": "hush"}))
    assert pickle.loads(pickle.dumps(params)) == params
    assert "hush" not in repr(description) + repr(params)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"snapshot": "a", "image": "b:1"}, "give one of them"),
        ({"snapshot": ""}, "snapshot must not be empty"),
        ({"resources": {"cpu": 2}}, "resources come with the snapshot"),
        ({"image": "a:1", "resources": {"cores": 2}}, "resources may have cpu, memory, disk, gpu, not 'cores'"),
        ({"image": "a:1", "resources": {"cpu": 0}}, "cpu must be 1 or more, not 0"),
        ({"auto_stop_interval": 10, "resume_lifetime": 600}, "must be longer than resume_lifetime"),
        ({"auto_stop_interval": 0}, "auto_stop_interval must be 1 or more, not 0"),
        ({"ttl_minutes": 5}, "must be longer than resume_lifetime"),
        ({"ttl_minutes": -1}, "ttl_minutes must be 0 or more, not -1"),
        ({"port": 80}, "port must be from 3000 to 9999, not 80"),
        ({"resume_lifetime": 0}, "resume_lifetime must be a positive number of seconds, not 0"),
        ({"resume_lifetime": float("inf")}, "resume_lifetime must be a positive number of seconds, not inf"),
        ({"start_timeout": 0}, "start_timeout must be a positive number of seconds, not 0"),
        ({"params": CreateSandboxFromSnapshotParams(), "target": "eu"}, "target must be set in params"),
        ({"params": CreateSandboxFromSnapshotParams(auto_stop_interval=5)}, "must be longer than resume_lifetime"),
        ({"params": CreateSandboxFromSnapshotParams(ephemeral=True), "keep": True}, "keep=True contradicts params"),
    ],
)
def test_a_value_out_of_range_is_a_value_error(options: dict[str, Any], words: str) -> None:
    """One sentence names the option and its range."""
    with pytest.raises(ValueError, match=words) as caught:
        DaytonaSandbox(**options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"snapshot": 5}, "snapshot must be a text, not 5"),
        ({"image": 3}, "image must be KernelImage.*, not 3"),
        ({"image": "a:1", "resources": 2}, "resources must be a mapping or a daytona.Resources, not 2"),
        ({"image": "a:1", "resources": {"cpu": "four"}}, "cpu must be a whole number, not 'four'"),
        ({"image": "a:1", "resources": {"memory": 0.5}}, "memory must be a whole number, not 0.5"),
        ({"env_vars": {"A": 1}}, "env_vars must have texts as names and as values"),
        ({"env_vars": ["A=1"]}, "env_vars must be a mapping of texts, not list"),
        ({"volumes": "v:/data"}, "volumes must be a mapping of texts or a list of daytona.VolumeMount"),
        ({"resume_lifetime": "1"}, "resume_lifetime must be a number of seconds, not '1'"),
        ({"start_timeout": True}, "start_timeout must be a number of seconds, not True"),
        ({"auto_stop_interval": 20.5}, "auto_stop_interval must be a whole number, not 20.5"),
        ({"keep": 1}, "keep must be True or False, not 1"),
        ({"upload": "yes"}, "upload must be True or False, not 'yes'"),
        ({"resolve": "127.0.0.1"}, "resolve must be a function"),
        ({"params": {"snapshot": "s"}}, "params must be a CreateSandboxFromSnapshotParams or .*, not dict"),
    ],
)
def test_a_wrong_type_is_a_type_error(options: dict[str, Any], words: str) -> None:
    """One sentence names the option and its type."""
    with pytest.raises(TypeError, match=words) as caught:
        DaytonaSandbox(**options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", REPLACED_OPTIONS)
def test_a_former_or_foreign_option_names_its_replacement(name: str) -> None:
    """So do options of the SDK and of its guide to DSPy's RLM."""
    with pytest.raises(TypeError, match=f"^DaytonaSandbox has no option '{name}': ") as caught:
        DaytonaSandbox(**{name: 1})  # type: ignore[arg-type]
    assert REPLACED_OPTIONS[name] in str(caught.value)


def test_an_unknown_option_is_refused_with_the_most_similar_one() -> None:
    """And with the list of all."""
    with pytest.raises(TypeError, match=r"no option 'labls'; did you mean 'labels'\? It has .*, volumes$"):
        DaytonaSandbox(labls={})  # type: ignore[call-arg]


def test_defaults_limit_the_life_of_a_sandbox() -> None:
    """It stops 5 minutes after its relay, and is deleted then, and after a day in any case."""
    assert params_of() == {
        "labels": LABELS,
        "public": False,
        "auto_stop_interval": 15,
        "auto_delete_interval": 0,
        "ttl_minutes": 24 * 60,
    }
    kept = params_of(keep=True)
    assert "auto_delete_interval" not in kept
    assert "ttl_minutes" not in kept


def test_options_reach_the_sdk_by_their_names() -> None:
    """Each with the value that was given; labels are added."""
    made = params_of(
        snapshot="s",
        target="eu",
        env_vars={"A": "1"},
        volumes={"v": "/data"},
        labels={"team": "a"},
        network_allow_list="10.0.0.0/8",
        domain_allow_list="pypi.org",
        auto_stop_interval=30,
        ttl_minutes=60,
    )
    assert (made["snapshot"], made["target"], made["env_vars"]) == ("s", "eu", {"A": "1"})
    assert [(mount["volume_id"], mount["mount_path"]) for mount in made["volumes"]] == [("v", "/data")]
    assert made["labels"] == {"team": "a", **LABELS}
    assert (made["network_allow_list"], made["domain_allow_list"]) == ("10.0.0.0/8", "pypi.org")
    assert (made["auto_stop_interval"], made["ttl_minutes"]) == (30, 60)


@pytest.mark.parametrize("resources", [{"cpu": 2, "memory": 4}, Resources(cpu=2, memory=4)])
def test_an_image_takes_resources(resources: Any) -> None:
    """As a mapping or as the SDK's object."""
    description = DaytonaSandbox(image="a:1", resources=resources)
    made: Any = create_params(description, LABELS, "a:1")
    assert isinstance(made, CreateSandboxFromImageParams)
    assert made.resources is not None
    assert (made.image, made.resources.cpu, made.resources.memory, made.resources.disk) == ("a:1", 2, 4, None)


def test_images_and_volume_mounts_of_the_sdk_are_taken() -> None:
    """As is the package's own image."""
    mount = VolumeMount(volume_id="v", mount_path="/data", subpath="a")
    assert params_of(volumes=[mount])["volumes"][0]["subpath"] == "a"
    assert DaytonaSandbox(image=Image.base("debian:12")).effective_start_timeout == 900
    assert DaytonaSandbox(image=KernelImage()).effective_start_timeout == 900


def test_params_keep_what_they_say() -> None:
    """Only what they leave open is set; the object itself is unchanged."""
    given = CreateSandboxFromSnapshotParams(snapshot="s", name="mine", labels={"team": "a"}, auto_stop_interval=60)
    made: Any = create_params(DaytonaSandbox(params=given), LABELS, None)
    assert (made.snapshot, made.name, made.auto_stop_interval) == ("s", "mine", 60)
    assert (made.auto_delete_interval, made.ttl_minutes, made.public) == (0, 24 * 60, False)
    assert made.labels == {"team": "a", **LABELS}
    assert (given.labels, given.ttl_minutes) == ({"team": "a"}, None)


def test_params_may_name_an_image() -> None:
    """Then a start may take as long as a build."""
    description = DaytonaSandbox(params=CreateSandboxFromImageParams(image="a:1", ttl_minutes=30), start_timeout=None)
    made: Any = create_params(description, LABELS, "a:1")
    assert (description.source_image, description.effective_start_timeout) == ("a:1", 900)
    assert (made.image, made.ttl_minutes) == ("a:1", 30)


def test_the_environment_names_a_snapshot(monkeypatch: pytest.MonkeyPatch) -> None:
    """For descriptions and for params that name none."""
    monkeypatch.setenv("DAYTONA_KERNEL_SNAPSHOT", "from-env")
    assert DaytonaSandbox().snapshot_name == "from-env"
    assert DaytonaSandbox(snapshot="s").snapshot_name == "s"
    made: Any = create_params(DaytonaSandbox(params=CreateSandboxFromSnapshotParams()), LABELS, None)
    assert made.snapshot == "from-env"
