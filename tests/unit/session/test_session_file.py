"""Tests of session files, by which processes of a user find sessions."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings

from daytona_kernel_interp.errors import SessionNotFound
from daytona_kernel_interp.session import session_file as records
from daytona_kernel_interp.session.session_file import SessionRecord, find_session, list_records
from daytona_kernel_interp.transport.process_identity import process_start_mark
from tests import examples
from tests.unit import strategies

if TYPE_CHECKING:
    from pathlib import Path

ID, OTHER = "00c0ffee", "0badcafe"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give the test a runtime folder of its own."""
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(tmp_path / "runtime"))
    return tmp_path / "runtime"


def record(session_id: str = ID, **changes: Any) -> SessionRecord:
    """Return a record of this process."""
    made = SessionRecord.of_this_process(
        session_id,
        kernel="1-ab",
        key="k3y",
        connection_file="/nowhere/kernel.json",
        sandbox={"secret": "5ec12e7"},
    )
    return replace(made, **changes)


def test_a_record_is_found_as_it_was_written() -> None:
    """All fields are read back, and the process that wrote the file is alive."""
    written = record()
    written.write()
    found = find_session(ID)
    assert found == written
    assert (found.pid, found.mark, found.host_lives) == (os.getpid(), process_start_mark(os.getpid()), True)


def test_a_record_is_this_users_alone(folder: Path) -> None:
    """The folder has mode 0700 and the file 0600 for any umask; no other file remains."""
    umask = os.umask(0)
    try:
        record().write()
        record().write()
    finally:
        os.umask(umask)
    assert folder.stat().st_mode & 0o777 == 0o700
    assert [(path.name, path.stat().st_mode & 0o777) for path in folder.iterdir()] == [
        (f"daytona-kernel-{ID}.json", 0o600)
    ]


def test_secrets_are_in_the_file_only() -> None:
    """The kernel's key and the relay's secret are not in a repr."""
    made = record()
    made.write()
    assert "5ec12e7" in made.path.read_text()
    assert "k3y" not in repr(made)
    assert "5ec12e7" not in repr(made)


def test_what_lies_in_the_way_of_a_record_is_not_written_through(folder: Path, tmp_path: Path) -> None:
    """A link at the path of the temporary file is replaced, not followed, and a wide mode is not kept."""
    made, victim = record(), tmp_path / "victim"
    victim.write_text("mine")
    folder.mkdir(mode=0o700)
    made.path.with_suffix(f".{os.getpid()}.tmp").symlink_to(victim)
    made.path.symlink_to(victim)
    made.write()
    assert victim.read_text() == "mine"
    assert not made.path.is_symlink()
    assert made.path.stat().st_mode & 0o777 == 0o600
    assert find_session(ID) == made


def test_the_newest_session_comes_first() -> None:
    """A deleted record is not listed; a second delete does nothing."""
    for number, name in enumerate((ID, OTHER)):
        record(name, started=float(number)).write()
    assert [found.id for found in list_records()] == [OTHER, ID]
    find_session(OTHER).delete()
    record(OTHER).delete()
    assert [found.id for found in list_records()] == [ID]


def test_without_a_folder_there_is_no_session() -> None:
    """The error lists the existing sessions."""
    assert list_records() == []
    with pytest.raises(SessionNotFound, match=r"no session 'x'.*: none"):
        find_session("x")
    record().write()
    with pytest.raises(SessionNotFound, match=ID):
        find_session("x")


# --- ownership ----------------------------------------------------------------------------------------------


def test_a_session_whose_host_ended_has_no_living_owner() -> None:
    """The same holds if the process id was reused, or after a detach."""
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, stderr=subprocess.DEVNULL)
    try:
        record(pid=child.pid, mark=process_start_mark(child.pid)).write()
        assert find_session(ID).host_lives
    finally:
        child.kill()
        child.communicate()
    assert not find_session(ID).host_lives
    record(mark="1").write()
    assert not find_session(ID).host_lives
    made = record()
    made.clear_host()
    assert (find_session(ID).pid, find_session(ID).mark, find_session(ID).host_lives) == (0, "", False)


@pytest.mark.parametrize("pid", [0, -1, -os.getpid(), 2**22 + 1, 2**80], ids=["0", "-1", "-own", "2^22+1", "2^80"])
def test_an_impossible_owner_does_not_live(pid: int) -> None:
    """Any impossible process id counts as ended."""
    assert not record(pid=pid).host_lives


def test_another_users_record_is_not_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a shared folder, a user sees only the user's own sessions."""
    record().write()
    monkeypatch.setattr(os, "getuid", lambda: 12345)
    assert list_records() == []


# --- endpoints ----------------------------------------------------------------------------------------------


def test_the_endpoints_of_a_killed_host_are_deleted(tmp_path: Path) -> None:
    """Endpoints of a running host and unrelated folders are kept."""
    for name in ("dk-1", "other"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "1-ab-1").touch()
    ours = record(connection_file=str(tmp_path / "dk-1" / "kernel.json"))
    ours.remove_endpoints()
    assert (tmp_path / "dk-1").exists()
    replace(ours, pid=0).remove_endpoints()
    assert not (tmp_path / "dk-1").exists()
    record(connection_file=str(tmp_path / "other" / "kernel.json"), pid=0).remove_endpoints()
    assert (tmp_path / "other" / "1-ab-1").exists()


# --- invalid files --------------------------------------------------------------------------------------------


def write_fields(folder: Path, text: str, session_id: str = ID) -> None:
    """Write a session file with the given fields."""
    folder.mkdir(mode=0o700, exist_ok=True)
    (folder / f"daytona-kernel-{session_id}.json").write_text(text)


FIELDS: dict[str, Any] = {
    "id": ID,
    "pid": 1,
    "mark": "1",
    "started": 1.5,
    "kernel": "1-ab",
    "connection_file": "",
    "sandbox": {},
    "key": "k",
    "version": 1,
}


CHANGES: list[dict[str, Any]] = [
    {"version": 2},
    {"version": None},
    {"more": 1},
    {"pid": "1"},
    {"pid": True},
    {"pid": 1.5},
    {"started": "now"},
    {"started": None},
    {"connection_file": 5},
    {"sandbox": []},
    {"key": None},
    {"id": OTHER},
    {"id": 5},
    {"id": "../../../etc/passwd"},
    {"id": f"../runtime/{ID}"},
]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "5",
        "null",
        "[" * 100_000,
        "\x00",
        json.dumps({}),
        json.dumps(FIELDS)[:-1],
        " " * (2 << 20) + json.dumps(FIELDS),
        *(json.dumps({**FIELDS, **changes}) for changes in CHANGES),
        *(json.dumps({k: v for k, v in FIELDS.items() if k != name}) for name in FIELDS if name != "mark"),
    ],
    ids=lambda text: text[-40:],
)
def test_a_file_that_is_no_record_is_passed_over(folder: Path, text: str) -> None:
    """A partial, foreign or invented file hides no session and raises no error in a listing."""
    write_fields(folder, json.dumps(FIELDS))
    assert [found.id for found in list_records()] == [ID]
    write_fields(folder, text)
    record(OTHER).write()
    assert [found.id for found in list_records()] == [OTHER]


@settings(examples.at_most(40), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(fields=strategies.JSON_OBJECTS)
def test_any_fields_are_a_record_or_passed_over(folder: Path, fields: dict[str, Any]) -> None:
    """An accepted record can be sorted, checked for its host and found by its id."""
    write_fields(folder, json.dumps({**FIELDS, **fields}))
    for found in list_records():
        assert found.id == ID
        assert found.host_lives in (True, False)
        assert "/" not in found.path.name


def test_links_folders_and_pipes_are_no_records(folder: Path, tmp_path: Path) -> None:
    """Links are not followed, folders not entered, and FIFOs do not block."""
    secret = tmp_path / "elsewhere.json"
    secret.write_text(json.dumps(FIELDS))
    folder.mkdir()
    (folder / f"daytona-kernel-{ID}.json").symlink_to(secret)
    (folder / "daytona-kernel-00000001.json").mkdir()
    os.mkfifo(folder / "daytona-kernel-00000002.json")
    (folder / "daytona-kernel-00000003.json").symlink_to(folder / "missing")
    (folder / "kernel-12.json").write_text("{}")
    (folder / f"daytona-kernel-{OTHER}.5.tmp").write_text("{")
    assert list_records() == []


@pytest.mark.parametrize("session_id", ["../elsewhere", "/etc/passwd", "", ".", "*", f"{ID}.json", ID.upper(), "\0"])
def test_an_id_is_no_path(folder: Path, tmp_path: Path, session_id: str) -> None:
    """An id only selects a listed session, not another file on the disk."""
    (tmp_path / "elsewhere.json").write_text(json.dumps(FIELDS))
    record().write()
    with pytest.raises(SessionNotFound, match=ID):
        find_session(session_id)


def test_the_folder_is_jupyters(folder: Path) -> None:
    """The folder is the one of Jupyter's connection files."""
    assert records._folder() == folder
