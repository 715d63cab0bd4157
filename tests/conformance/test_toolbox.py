"""The toolbox: commands, sessions and the code interpreter."""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from typing import TYPE_CHECKING, Any

import pytest
from daytona import SessionExecuteRequest
from daytona.common.errors import (
    DaytonaConflictError,
    DaytonaError,
    DaytonaNotFoundError,
    DaytonaTimeoutError,
)
from websockets.sync.client import connect

from .facts import Known, fact
from .service import until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from daytona.common.process import SessionExecuteResponse

    from .service import Service

SLOW = "python3 -c 'import time; time.sleep(60)'"


@pytest.fixture
def session(service: Service) -> Iterator[str]:
    """Provide a new session in the shared sandbox."""
    name = f"check-{uuid.uuid4().hex[:8]}"
    service.shared.process.create_session(name)
    yield name
    try:
        service.shared.process.delete_session(name)
    except DaytonaNotFoundError:
        return


def run(service: Service, session: str, command: str, *, wait: bool = True) -> SessionExecuteResponse:
    request = SessionExecuteRequest(command=command, run_async=not wait)
    return service.shared.process.execute_session_command(session, request)


def ended(service: Service, session: str, command_id: str) -> Any:
    def look() -> Any:
        command = service.shared.process.get_session_command(session, command_id)
        return command if command.exit_code is not None else None

    return until(look, "the end of a command")


@fact("exec gives the exit code, and both streams as one", Known.SDK)
def test_exec(service: Service) -> None:
    answer = service.shared.process.exec("echo out; echo err >&2; exit 3")
    assert (answer.exit_code, sorted(answer.result.split())) == (3, ["err", "out"])


@fact("exec takes a folder and variables", Known.SDK)
def test_exec_in_a_folder(service: Service) -> None:
    answer = service.shared.process.exec('pwd; echo "$MARK"', cwd="/", env={"MARK": "a b"})
    assert answer.result == "/\na b\n"


@fact("exec in a folder that is not there fails, with a 4xx or an exit code", Known.INFERRED)
def test_exec_in_no_folder(service: Service) -> None:
    answer = service.toolbox("POST", "/process/execute", json={"command": "true", "cwd": "/no/such/folder"})
    assert 400 <= answer.status_code < 500 or answer.json()["exitCode"] != 0


@fact("a command that takes too long is killed and answered with 408", Known.OLD_SERVER)
def test_exec_timeout(service: Service) -> None:
    started = time.monotonic()
    name = f"pid-{uuid.uuid4().hex[:8]}"
    with pytest.raises(DaytonaTimeoutError):
        service.shared.process.exec(f"echo $$ > {name}; {SLOW}", timeout=1)
    assert time.monotonic() - started < 10
    gone = f"kill -0 $(cat {name}) 2> /dev/null"
    until(lambda: service.shared.process.exec(gone).exit_code != 0, "the command's end")


@fact("an empty command is refused with 400", Known.OLD_SERVER)
def test_exec_of_nothing(service: Service) -> None:
    assert service.toolbox("POST", "/process/execute", json={"command": ""}).status_code == 400
    assert service.toolbox("POST", "/process/execute", json={}).status_code == 400


@fact("a wrong type in a toolbox request is refused with 400", Known.OLD_SERVER)
def test_exec_wrong_type(service: Service) -> None:
    assert service.toolbox("POST", "/process/execute", json={"command": 5}).status_code == 400
    assert service.toolbox("POST", "/process/execute", content=b"{").status_code == 400


@fact("a command's text is the shell's standard input, so a child that reads it eats the rest", Known.OLD_SERVER)
def test_exec_text_is_standard_input(service: Service) -> None:
    assert service.shared.process.exec("cat\necho eaten").result.rstrip("\n") == "echo eaten"


@fact("exec does not wait for a background job that redirects its output", Known.OLD_SERVER)
def test_exec_background(service: Service) -> None:
    started = time.monotonic()
    answer = service.shared.process.exec(f"{SLOW} > /dev/null 2>&1 &\necho $!")
    assert time.monotonic() - started < 10
    service.shared.process.exec(f"kill {answer.result.strip()}")


@fact("an error of the daemon has statusCode, message, code, timestamp, path and method", Known.OLD_SERVER)
def test_fields_of_a_daemon_error(service: Service) -> None:
    body = service.toolbox("GET", "/process/session/no-such-session").json()
    assert {"statusCode", "message", "code", "timestamp", "path", "method"} <= body.keys()
    assert (body["statusCode"], body["method"]) == (404, "GET")


@fact("the toolbox refuses a caller without a credential with 401 and JSON", Known.OLD_SERVER)
def test_toolbox_needs_a_credential(service: Service) -> None:
    base = service.api.get(f"/sandbox/{service.shared.id}").json()["toolboxProxyUrl"]
    answer = service.plain.get(f"{base}/{service.shared.id}/work-dir", headers={"Authorization": "Bearer dtn_wrong"})
    assert (answer.status_code, answer.json()["statusCode"]) == (401, 401)


@fact("a new session answers 201 with nothing, a second one of that name 409", Known.OLD_SERVER)
def test_create_session(service: Service) -> None:
    name = f"check-{uuid.uuid4().hex[:8]}"
    answer = service.toolbox("POST", "/process/session", json={"sessionId": name})
    assert (answer.status_code, answer.content) == (201, b"")
    with pytest.raises(DaytonaConflictError):
        service.shared.process.create_session(name)
    assert service.toolbox("DELETE", f"/process/session/{name}").status_code == 204


@fact("a session that nobody made is not found", Known.OLD_SERVER)
def test_unknown_session(service: Service) -> None:
    with pytest.raises(DaytonaNotFoundError):
        run(service, "no-such-session", "true")
    with pytest.raises(DaytonaNotFoundError):
        service.shared.process.delete_session("no-such-session")


@fact("a session is one shell: folder and variables stay", Known.SDK)
def test_session_keeps_state(service: Service, session: str) -> None:
    run(service, session, "cd /; MARK=kept")
    assert run(service, session, 'pwd; echo "$MARK"').stdout == "/\nkept\n"


@fact("a command waited for gives its exit code and both streams apart", Known.SDK)
def test_session_command(service: Service, session: str) -> None:
    answer = run(service, session, "echo out; echo err >&2; (exit 4)")
    assert (answer.exit_code, answer.stdout, answer.stderr) == (4, "out\n", "err\n")


@fact("a command not waited for answers 202 with its id, and has no exit code while it runs", Known.SDK)
def test_async_command(service: Service, session: str) -> None:
    path = f"/process/session/{session}/exec"
    answer = service.toolbox("POST", path, json={"command": "read line; exit 5", "runAsync": True})
    assert answer.status_code == 202
    command = service.shared.process.get_session_command(session, answer.json()["cmdId"])
    assert command.exit_code is None
    assert command.command == "read line; exit 5"


@fact("an async command's exit code is told once it has ended", Known.SDK)
def test_async_exit_code(service: Service, session: str) -> None:
    command = run(service, session, "(exit 6)", wait=False)
    assert ended(service, session, command.cmd_id).exit_code == 6


@fact("an async command keeps its shell busy: the next one waits", Known.OLD_SERVER)
def test_session_is_sequential(service: Service, session: str) -> None:
    gate = f"/tmp/gate-{session}" if service.shared.process.exec("test -w /tmp").exit_code == 0 else f"gate-{session}"
    first = run(service, session, f"while [ ! -e {gate} ]; do sleep 0.05; done; echo first", wait=False)
    second = run(service, session, "echo second", wait=False)
    assert service.shared.process.get_session_command(session, second.cmd_id).exit_code is None
    service.shared.process.exec(f"touch {gate}")
    assert ended(service, session, second.cmd_id).exit_code == 0
    assert service.shared.process.get_session_command(session, first.cmd_id).exit_code == 0
    service.shared.process.exec(f"rm {gate}")


@fact("logs have output, stdout and stderr, and grow while a command runs", Known.SDK)
def test_logs(service: Service, session: str) -> None:
    command = run(service, session, "echo out; echo err >&2; sleep 60", wait=False)

    def logs() -> Any:
        found = service.shared.process.get_session_command_logs(session, command.cmd_id)
        return found if found.stdout and found.stderr else None

    found = until(logs, "the first lines")
    assert (found.stdout, found.stderr) == ("out\n", "err\n")
    assert sorted((found.output or "").split()) == ["err", "out"]


@fact("followed logs come in stretches that begin with 01 01 01 or 02 02 02, and end with close 1000", Known.SDK)
def test_followed_logs(service: Service, session: str) -> None:
    command = run(service, session, "echo out; echo err >&2; sleep 0.2; echo more", wait=False)
    base = service.api.get(f"/sandbox/{service.shared.id}").json()["toolboxProxyUrl"].replace("http", "ws", 1)
    url = f"{base}/{service.shared.id}/process/session/{session}/command/{command.cmd_id}/logs?follow=true"
    headers = {"Authorization": f"Bearer {service.api_key}"}
    with connect(url, additional_headers=headers, proxy=None, max_size=None) as socket:
        frames = b"".join(frame for frame in socket if isinstance(frame, bytes))
        assert socket.close_code == 1000
    assert sorted(frames.replace(b"\1\1\1", b"\n").replace(b"\2\2\2", b"\n").split()) == [b"err", b"more", b"out"]
    assert b"\2\2\2err" in frames
    assert frames.startswith((b"\1\1\1", b"\2\2\2"))


@fact("the SDK's log reader sorts both streams and ends with the command", Known.SDK)
def test_followed_logs_by_sdk(service: Service, session: str) -> None:
    command = run(service, session, "echo out; echo err >&2", wait=False)
    out: list[str] = []
    err: list[str] = []
    asyncio.run(service.shared.process.get_session_command_logs_async(session, command.cmd_id, out.append, err.append))
    assert ("".join(out), "".join(err)) == ("out\n", "err\n")


@fact("a last line without its end shows in the log once the stream has ended", Known.OLD_SERVER)
def test_last_line(service: Service, session: str) -> None:
    assert run(service, session, "printf unfinished").stdout.rstrip("\n") == "unfinished"  # type: ignore[union-attr]


@fact("a command waited for reads an empty standard input", Known.OLD_SERVER)
def test_standard_input_of_a_command(service: Service, session: str) -> None:
    assert run(service, session, "cat; echo over").stdout == "over\n"


@fact("an async command's standard input stays open", Known.OLD_SERVER)
def test_standard_input_of_an_async_command(service: Service, session: str) -> None:
    command = run(service, session, "echo begun; cat; echo over", wait=False)
    until(lambda: service.shared.process.get_session_command_logs(session, command.cmd_id).stdout, "its first line")
    logs = service.shared.process.get_session_command_logs(session, command.cmd_id)
    assert logs.stdout == "begun\n"
    assert service.shared.process.get_session_command(session, command.cmd_id).exit_code is None


@fact("deleting a session ends what it started, in a group of its own or not", Known.REPORTED)
def test_delete_session_kills(service: Service, session: str) -> None:
    run(service, session, f"nohup {SLOW} > /dev/null 2>&1 &\necho $! > pid-{session}; {SLOW}", wait=False)
    pid = until(lambda: service.shared.process.exec(f"cat pid-{session} 2> /dev/null").result.strip(), "the child")
    service.shared.process.delete_session(session)
    until(lambda: service.shared.process.exec(f"kill -0 {pid} 2> /dev/null").exit_code != 0, "the child's end")
    with pytest.raises(DaytonaNotFoundError):
        service.shared.process.get_session(session)


@fact("what a deleted session ran is asked to end first, by SIGTERM", Known.OLD_SERVER)
def test_delete_session_asks(service: Service, session: str) -> None:
    script = f"trap 'echo asked > asked-{session}; exit 0' TERM; echo set; while :; do sleep 0.05; done"
    command = run(service, session, f'bash -c "{script}"', wait=False)
    until(lambda: service.shared.process.get_session_command_logs(session, command.cmd_id).stdout, "the trap")
    service.shared.process.delete_session(session)
    until(lambda: service.shared.process.exec(f"cat asked-{session}").result == "asked\n", "the trap's work")


@fact("a session tells of all its commands", Known.SDK)
def test_commands_of_a_session(service: Service, session: str) -> None:
    ids = [run(service, session, f"echo {number}").cmd_id for number in range(3)]
    told = service.shared.process.get_session(session)
    assert [command.id for command in told.commands or ()] == ids
    assert session in {known.session_id for known in service.shared.process.list_sessions()}


@fact(
    "without an entrypoint of its own a snapshot's session `entrypoint` is there or not found, and reserved", Known.SDK
)
def test_entrypoint(service: Service) -> None:
    assert service.toolbox("GET", "/process/session/entrypoint").status_code in (200, 404)
    assert 400 <= service.toolbox("POST", "/process/session", json={"sessionId": "entrypoint"}).status_code < 500


@fact("code-run runs Python in a process of its own", Known.SDK)
def test_code_run(service: Service) -> None:
    answer = service.shared.process.code_run("import sys; print(6 * 7); sys.exit(3)")
    assert (answer.exit_code, answer.result.strip()) == (3, "42")


@fact("the interpreter keeps variables, and sends prints as they come", Known.SDK)
def test_interpreter(service: Service) -> None:
    interpreter = service.shared.code_interpreter
    interpreter.run_code("kept = 20")
    result = interpreter.run_code("import sys\nprint(kept + 1)\nprint('bad', file=sys.stderr)")
    assert (result.stdout, result.stderr, result.error) == ("21\n", "bad\n", None)


@fact("an exception in the interpreter has name, value and traceback", Known.SDK)
def test_interpreter_error(service: Service) -> None:
    error = service.shared.code_interpreter.run_code("{}['missing']").error
    assert error is not None
    assert (error.name, error.value) == ("KeyError", "'missing'")
    assert "Traceback" in error.traceback


@fact("the interpreter shows no value of a last expression", Known.OLD_SERVER)
def test_interpreter_shows_no_value(service: Service) -> None:
    assert service.shared.code_interpreter.run_code("1 + 1").stdout == ""


@fact("contexts have variables of their own, are listed, and can be deleted", Known.SDK)
def test_interpreter_contexts(service: Service) -> None:
    interpreter = service.shared.code_interpreter
    context = interpreter.create_context()
    interpreter.run_code("mine = 1", context=context)
    assert interpreter.run_code("mine").error is not None
    assert interpreter.run_code("mine", context=context).error is None
    assert context.id in {known.id for known in interpreter.list_contexts()}
    interpreter.delete_context(context)
    assert context.id not in {known.id for known in interpreter.list_contexts()}
    with pytest.raises(DaytonaError):
        interpreter.run_code("mine", context=context)


@fact("code that takes too long ends the interpreter's WebSocket with 4008", Known.SDK)
def test_interpreter_timeout(service: Service) -> None:
    context = service.shared.code_interpreter.create_context()
    with pytest.raises(DaytonaTimeoutError):
        service.shared.code_interpreter.run_code("import time\ntime.sleep(60)", context=context, timeout=1)


@fact("variables of one run are gone after it", Known.INFERRED)
def test_interpreter_environment(service: Service) -> None:
    interpreter = service.shared.code_interpreter
    look = "import os\nprint(os.environ.get('ONCE'))"
    assert interpreter.run_code(look, envs={"ONCE": "now"}).stdout == "now\n"
    assert interpreter.run_code(look).stdout == "None\n"


@fact("the daemon tells which ports are listened on, at most a second late", Known.OLD_SERVER)
def test_ports(service: Service) -> None:
    from .service import OTHER_PORT

    def ports() -> Any:
        return service.toolbox("GET", "/port", service.server).json()["ports"]

    until(lambda: service.port in (ports() or ()), "the port to be listed")
    told = service.toolbox("GET", f"/port/{OTHER_PORT}/in-use", service.server).json()
    assert told == {"isInUse": False}


@fact("a toolbox path that nobody serves is not found", Known.OLD_SERVER)
def test_unknown_toolbox_path(service: Service) -> None:
    assert service.toolbox("GET", "/no-such-thing").status_code == 404


@fact("a WebSocket to the interpreter speaks JSON text frames", Known.SDK)
def test_interpreter_frames(service: Service) -> None:
    base = service.api.get(f"/sandbox/{service.shared.id}").json()["toolboxProxyUrl"].replace("http", "ws", 1)
    url = f"{base}/{service.shared.id}/process/interpreter/execute"
    headers = {"Authorization": f"Bearer {service.api_key}"}
    with connect(url, additional_headers=headers, proxy=None) as socket:
        socket.send(json.dumps({"code": "print('x')"}))
        frames = [json.loads(frame) for frame in socket]
        assert socket.close_code == 1000
    assert "".join(frame["text"] for frame in frames if frame["type"] == "stdout") == "x\n"
    assert {frame["type"] for frame in frames} <= {"stdout", "stderr", "error", "control"}
