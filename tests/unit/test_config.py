"""Daytona's key is found in the same places as by Daytona's SDK."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from daytona_kernel_interp.config import daytona_credential

if TYPE_CHECKING:
    from pathlib import Path

VARIABLES = ("DAYTONA_API_KEY", "DAYTONA_JWT_TOKEN", "DAYTONA_ORGANIZATION_ID", "PYTHON_DOTENV_DISABLED")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory, and an environment without Daytona's variables."""
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_key_in_a_file_counts_as_one(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment has priority over .env.local, and that over .env; an empty variable counts as unset."""
    assert daytona_credential() is None
    (folder / ".env").write_text("DAYTONA_API_KEY=of-env\n")
    assert daytona_credential() == ("DAYTONA_API_KEY", {"Authorization": "Bearer of-env"})
    (folder / ".env.local").write_text("OTHER=1\nDAYTONA_API_KEY='of-local'\n")
    assert daytona_credential() == ("DAYTONA_API_KEY", {"Authorization": "Bearer of-local"})
    monkeypatch.setenv("PYTHON_DOTENV_DISABLED", "1")
    assert daytona_credential() is None
    monkeypatch.setenv("DAYTONA_API_KEY", "of-environment")
    assert daytona_credential() == ("DAYTONA_API_KEY", {"Authorization": "Bearer of-environment"})
    monkeypatch.setenv("DAYTONA_API_KEY", "")
    assert daytona_credential() is None


def test_a_token_of_an_organisation_will_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """A token is used if there is no key."""
    monkeypatch.setenv("DAYTONA_JWT_TOKEN", "token")
    monkeypatch.setenv("DAYTONA_ORGANIZATION_ID", "org")
    found = daytona_credential()
    assert found is not None
    assert found == ("DAYTONA_JWT_TOKEN", {"Authorization": "Bearer token", "X-Daytona-Organization-ID": "org"})
    monkeypatch.setenv("DAYTONA_API_KEY", "key")
    found = daytona_credential()
    assert found is not None
    assert found[0] == "DAYTONA_API_KEY"


def test_a_file_that_cannot_be_read_has_none(folder: Path) -> None:
    """An unreadable file is ignored."""
    (folder / ".env").write_bytes(b"\xff\xfe\x00")
    assert daytona_credential() is None
