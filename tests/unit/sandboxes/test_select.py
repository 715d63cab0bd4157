"""Tests of ``sandboxes.select``."""

from __future__ import annotations

from typing import Any

import pytest

from daytona_kernel_interp import DaytonaSandbox, LocalSandbox, RelaySandbox
from daytona_kernel_interp.errors import SandboxFailed, SessionNotFound
from daytona_kernel_interp.sandboxes.remote_relay import RunningRelaySandbox
from daytona_kernel_interp.sandboxes.select import adopt, select_sandbox


@pytest.fixture(autouse=True)
def no_choice(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    """No key and no sandbox in the environment."""
    for name in ("DAYTONA_API_KEY", "DAYTONA_JWT_TOKEN", "DAYTONA_KERNEL_SANDBOX"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)


def test_names_and_descriptions_are_selected() -> None:
    """A name makes a description with defaults; a description is returned as it is."""
    assert select_sandbox("local") == LocalSandbox()
    assert select_sandbox("daytona") == DaytonaSandbox()
    description = RelaySandbox("ws://host", "t")
    assert select_sandbox(description) is description


def test_the_environment_chooses(monkeypatch: pytest.MonkeyPatch) -> None:
    """A key means Daytona, unless a variable names another sandbox."""
    with pytest.raises(SandboxFailed, match="No sandbox was chosen"):
        select_sandbox(None)
    monkeypatch.setenv("DAYTONA_API_KEY", "key")
    assert select_sandbox(None) == DaytonaSandbox()
    monkeypatch.setenv("DAYTONA_KERNEL_SANDBOX", "local")
    assert select_sandbox(None) == LocalSandbox()


@pytest.mark.parametrize("wrong", ["dayton", 5, str, object()])
def test_anything_else_is_refused(wrong: Any) -> None:
    """The text says what to pass."""
    with pytest.raises(SandboxFailed, match='pass "daytona", "local", or a description'):
        select_sandbox(wrong)


def test_a_record_is_adopted_or_refused() -> None:
    """An unknown kind and an invalid record raise the same class."""
    record = {"kind": "relay", "url": "ws://host", "token": "t", "headers": {}, "resume_lifetime": 60}
    assert isinstance(adopt(record), RunningRelaySandbox)
    with pytest.raises(SessionNotFound, match="of kind 'moon'"):
        adopt({"kind": "moon"})
    for invalid in ({"kind": "relay"}, {"kind": "local"}, {"kind": "daytona"}, {**record, "resume_lifetime": "long"}):
        with pytest.raises(SessionNotFound, match="cannot be adopted"):
            adopt(invalid)
