"""The toolbox's files."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING

import pytest
from daytona import FileDownloadRequest, FileUpload
from daytona.common.errors import DaytonaError, DaytonaNotFoundError

from .facts import Known, fact

if TYPE_CHECKING:
    from .service import Service


def fresh() -> str:
    return f"files-{uuid.uuid4().hex[:8]}"


@fact("what is uploaded comes back byte for byte, folders made on the way", Known.SDK)
def test_round_trip(service: Service) -> None:
    data = bytes(range(256)) * 5000
    path = f"{fresh()}/a/b.bin"
    service.shared.fs.upload_file(data, path)
    assert service.shared.fs.download_file(path) == data


@fact("many files go up and down in one request", Known.SDK)
def test_bulk(service: Service) -> None:
    folder = fresh()
    contents = {f"{folder}/{number}.txt": f"file {number}".encode() for number in range(5)}
    service.shared.fs.upload_files([FileUpload(source=data, destination=path) for path, data in contents.items()])
    found = service.shared.fs.download_files([FileDownloadRequest(source=path) for path in contents])
    assert {answer.source: answer.result for answer in found} == contents


@fact("an upload tells path and size of each file", Known.SDK)
def test_upload_answer(service: Service) -> None:
    path = f"{fresh()}.txt"
    answer = service.toolbox(
        "POST", "/files/bulk-upload", data={"files[0].path": path}, files={"files[0].file": (path, b"12345")}
    )
    assert answer.status_code == 200
    assert answer.json()["files"][0]["bytes"] == 5


@fact("an upload without the paths is refused with 400 and a list of errors", Known.OLD_SERVER)
def test_upload_without_path(service: Service) -> None:
    answer = service.toolbox("POST", "/files/bulk-upload", files={"files[0].file": ("x", b"12345")})
    assert answer.status_code == 400
    assert answer.json()["errors"]


@fact("an upload that is no multipart body is refused with 400", Known.INFERRED)
def test_upload_of_no_multipart(service: Service) -> None:
    assert service.toolbox("POST", "/files/bulk-upload", content=b"hello").status_code == 400


@pytest.mark.parametrize("path", ["/proc/no-such-file", "../../../../../../../proc/no-such-file"])
@fact("a path where the user may not write is an error of that file, however it is spelled", Known.INFERRED)
def test_upload_where_nobody_may_write(service: Service, path: str) -> None:
    answer = service.toolbox(
        "POST", "/files/bulk-upload", data={"files[0].path": path}, files={"files[0].file": ("x", b"12345")}
    )
    assert answer.status_code == 400
    assert len(answer.json()["errors"]) == 1
    with pytest.raises(DaytonaError):
        service.shared.fs.upload_file(b"x", path)


@fact("a file that is not there is an error of its own among those that are", Known.SDK)
def test_download_of_a_missing_file(service: Service) -> None:
    path = f"{fresh()}.txt"
    service.shared.fs.upload_file(b"here", path)
    requests = [FileDownloadRequest(source=path), FileDownloadRequest(source="no-such-file")]
    there, missing = service.shared.fs.download_files(requests)
    assert (there.result, there.error) == (b"here", None)
    assert missing.error
    with pytest.raises(DaytonaError):
        service.shared.fs.download_file("no-such-file")


@fact("a download is multipart/form-data that ends with its last boundary", Known.SDK)
def test_download_is_multipart(service: Service) -> None:
    path = f"{fresh()}.txt"
    service.shared.fs.upload_file(b"here", path)
    answer = service.toolbox("POST", "/files/bulk-download", json={"paths": [path]})
    kind, _, boundary = answer.headers["Content-Type"].partition("; boundary=")
    assert kind == "multipart/form-data"
    assert answer.content.rstrip().endswith(f"--{boundary}--".encode())
    assert b'name="file"' in answer.content


@fact("a download of no paths is refused with 400", Known.OLD_SERVER)
def test_download_of_nothing(service: Service) -> None:
    assert service.toolbox("POST", "/files/bulk-download", json={"paths": []}).status_code == 400
    assert service.toolbox("POST", "/files/bulk-download", json={}).status_code == 400


@fact("a new folder has the mode asked for", Known.SDK)
def test_create_folder(service: Service) -> None:
    folder = fresh()
    answer = service.toolbox("POST", "/files/folder", params={"path": folder, "mode": "700"})
    assert answer.status_code == 201
    info = service.shared.fs.get_file_info(folder)
    assert (info.is_dir, info.permissions[-3:]) == (True, "700")


@fact("a mode that is none is refused with 400", Known.OLD_SERVER)
def test_wrong_mode(service: Service) -> None:
    answer = service.toolbox("POST", "/files/folder", params={"path": fresh(), "mode": "rwx"})
    assert answer.status_code == 400


@fact("files are listed with their facts", Known.SDK)
def test_list(service: Service) -> None:
    folder = fresh()
    service.shared.fs.upload_file(b"12345", f"{folder}/a.txt")
    service.shared.fs.create_folder(f"{folder}/b", "755")
    found = {item.name: item for item in service.shared.fs.list_files(folder)}
    assert {name: item.is_dir for name, item in found.items()} == {"a.txt": False, "b": True}
    assert found["a.txt"].size == 5


@fact("what is deleted is gone; a folder needs `recursive`", Known.OLD_SERVER)
def test_delete(service: Service) -> None:
    folder = fresh()
    service.shared.fs.upload_file(b"x", f"{folder}/a.txt")
    assert service.toolbox("DELETE", "/files", params={"path": folder}).status_code == 400
    assert service.toolbox("DELETE", "/files", params={"path": f"{folder}/a.txt"}).status_code == 204
    service.shared.fs.delete_file(folder, recursive=True)
    with pytest.raises(DaytonaNotFoundError):
        service.shared.fs.get_file_info(folder)


@fact("a file can be moved", Known.SDK)
def test_move(service: Service) -> None:
    folder = fresh()
    service.shared.fs.upload_file(b"x", f"{folder}/a")
    service.shared.fs.move_files(f"{folder}/a", f"{folder}/b")
    assert [item.name for item in service.shared.fs.list_files(folder)] == ["b"]


@fact("relative paths begin where commands begin", Known.SDK)
def test_folders(service: Service) -> None:
    work = service.shared.get_work_dir()
    assert service.shared.process.exec("pwd").result.strip() == work
    home = service.shared.get_user_home_dir()
    assert service.shared.process.exec("echo $HOME").result.strip() == home
    path = f"{fresh()}.txt"
    service.shared.fs.upload_file(b"x", path)
    assert service.shared.process.exec(f"cat {work}/{path}").result == "x"


@fact("what a command writes can be downloaded", Known.SDK)
def test_written_by_a_command(service: Service) -> None:
    path = f"{fresh()}.txt"
    service.shared.process.exec(f"printf made > {path}; chmod 600 {path}")
    assert service.shared.fs.download_file(path) == b"made"
