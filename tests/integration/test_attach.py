"""Sessions without a host process, and those of another process: list, join, attach."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import stat
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest

from daytona_kernel_interp import KernelInterpreter, LocalSandbox
from daytona_kernel_interp.cli import command_line as cli
from daytona_kernel_interp.interpreter.interpreter import CodeExecutionError, CodeInterpreterError, FinalOutput
from daytona_kernel_interp.session import session_file as records
from daytona_kernel_interp.transport.process_identity import process_alive

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.hosts import Hosts

# A host starts a session, prints its id, and runs a cell in it until it is killed.
HOST = """
import threading
from daytona_kernel_interp import KernelInterpreter, LocalSandbox

def ask(question: str) -> str:
    print("asked", flush=True)
    threading.Event().wait()

interpreter = KernelInterpreter({"ask": ask}, [{"name": "answer"}], sandbox=LocalSandbox(resume_lifetime=LIFETIME))
interpreter.on_output = lambda output: print("output", flush=True)
interpreter.execute("import os, time\\nkernel, relay = os.getpid(), os.getppid()")
print(interpreter.session_id, flush=True)
interpreter.execute(CODE)
print("ended", flush=True)
threading.Event().wait()
"""
# A cell that runs until the test ends it.
UNTIL_GATE = "while not os.path.exists({gate!r}):\n    time.sleep(0.01)\n"


class Host:
    """A host process with a session."""

    def __init__(self, hosts: Hosts, code: str, lifetime_s: float = 60.0) -> None:
        self.process = hosts.start(HOST.replace("LIFETIME", str(lifetime_s)).replace("CODE", repr(code)), {})
        self.session = self.line()

    def line(self) -> str:
        """Return the next line that the host prints."""
        return self.process.line()

    def kill(self) -> None:
        """Kill the process and wait for its end."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    @property
    def record(self) -> records.SessionRecord:
        """The session's record."""
        return records.find_session(self.session)


@pytest.fixture
def make_host(hosts: Hosts) -> Iterator[Callable[..., Host]]:
    made: list[Host] = []

    def make(code: str, **options: Any) -> Host:
        made.append(Host(hosts, code, **options))
        return made[-1]

    yield make
    for host in made:
        host.process.close()
        for record in records.list_records():
            if record.id == host.session:  # no process attached
                end_sandbox(record)


def end_sandbox(record: records.SessionRecord) -> None:
    relay = int(record.sandbox["pid"])
    if process_alive(relay, record.sandbox["started"]):
        os.kill(relay, signal.SIGTERM)
        psutil.Process(relay).wait(10)
    record.delete()
    record.remove_endpoints()


def test_a_cell_goes_on_without_its_host(make_host: Callable[..., Host], tmp_path: Path) -> None:
    """The host is killed during a cell; a new process has its variables, its complete output and its result."""
    gate = tmp_path / "gate"
    host = make_host(
        f"x = 41\nprint('before', flush=True)\n{UNTIL_GATE.format(gate=str(gate))}print('after')\nx += 1\nx"
    )
    assert host.line() == "output"
    host.kill()
    shown: list[Any] = []
    with KernelInterpreter.attach(host.session, on_output=shown.append) as interpreter:
        gate.touch()
        assert interpreter.resume() == "before\nafter\n42"
        assert "".join(getattr(output, "text", "") for output in shown) == "before\nafter\n"
        assert interpreter.execute("x + 1") == 43
        assert interpreter.session_id == host.session
        with pytest.raises(CodeInterpreterError, match="before its first execute"):
            interpreter.resume()
    assert host.session not in [record.id for record in records.list_records()]


def test_a_submission_while_nobody_listened_is_kept(make_host: Callable[..., Host], tmp_path: Path) -> None:
    """SUBMIT in a cell that ended between two hosts is the result of resume(), with the types of the new host."""
    gate, done = tmp_path / "gate", tmp_path / "done"
    code = f"print('go', flush=True)\n{UNTIL_GATE.format(gate=str(gate))}open({str(done)!r}, 'w')\nSUBMIT('forty-two')"
    host = make_host(code)
    assert host.line() == "output"
    host.kill()
    gate.touch()
    until(done.exists)
    with KernelInterpreter.attach(host.session, output_fields=[{"name": "answer"}]) as interpreter:
        result = interpreter.resume()
    assert isinstance(result, FinalOutput)
    assert result.output == {"answer": "forty-two"}


def test_a_cell_without_its_host_is_interrupted_at_once(make_host: Callable[..., Host]) -> None:
    """After attach() the running cell can be interrupted at once."""
    host = make_host("x = 41\nprint('before', flush=True)\nimport time\ntime.sleep(600)")
    assert host.line() == "output"
    host.kill()
    with KernelInterpreter.attach(host.session) as interpreter:
        interpreter.interrupt()
        with pytest.raises(CodeExecutionError, match=r"(?s)KeyboardInterrupt: .*variables kept.*before\n"):
            interpreter.resume()
        assert interpreter.execute("x") == 41


def test_a_pending_tool_call_is_not_made_again(make_host: Callable[..., Host]) -> None:
    """A call that the dead host received raises HostLost in the cell; the next one goes to the new host's tool."""
    code = (
        "try:\n    ask('first')\nexcept ConnectionError as error:\n    print(type(error).__name__, error)\n"
        "print(ask('second'))"
    )
    host = make_host(code)
    assert host.line() == "asked"
    host.kill()
    asked: list[str] = []

    def ask(question: str) -> str:
        asked.append(question)
        return "yes"

    with KernelInterpreter.attach(host.session, {"ask": ask}) as interpreter:
        text = interpreter.resume()
    assert asked == ["second"]
    assert "the host that ran this call died before it replied; the call is not repeated" in text
    assert "HostLost" in text
    assert "[1 tool calls raised HostLost: their host died before it replied.]" in text
    assert "yes\n" in text


def test_malformed_records_are_dropped_and_counted(
    make_host: Callable[..., Host], caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    """The journal that a new host reads has records that are no messages; the cell's output and result are kept."""
    gate = tmp_path / "gate"
    forge = (
        "from daytona_kernel_interp.wire.journal import JournalRecord, RecordKind, join_frames\n"
        "kernel = get_ipython().kernel\nsession, journal = kernel.session, kernel.parent.journal\n"
        "for id in (b'[]', b'null', b'{}'):\n"
        "    parts = [b'{\"msg_id\":' + id + b',\"msg_type\":\"stream\"}', b'{}', b'{}', b'{}']\n"
        "    frames = [b'stream', b'<IDS|MSG>', session.sign(parts), *parts]\n"
        "    journal._write(JournalRecord(RecordKind.IOPUB, join_frames(frames)))\n"
    )
    host = make_host(f"{forge}print('before', flush=True)\n{UNTIL_GATE.format(gate=str(gate))}print('after')\n41 + 1")
    assert host.line() == "output"
    host.kill()
    with KernelInterpreter.attach(host.session) as interpreter:
        gate.touch()
        assert interpreter.resume() == "before\nafter\n42"
    assert "dropped 3 malformed records of the journal" in caplog.text


def test_the_next_cell_waits_for_the_one_that_ran(make_host: Callable[..., Host]) -> None:
    """With execute() right after attach(), the old cell is released from its dead host and ends first."""
    host = make_host("try:\n    ask('?')\nexcept ConnectionError:\n    order = ['old']")
    assert host.line() == "asked"
    host.kill()
    with KernelInterpreter.attach(host.session) as interpreter:
        assert interpreter.execute("order + ['new']") == ["old", "new"]


def test_host_and_relay_may_both_be_gone(make_host: Callable[..., Host], tmp_path: Path) -> None:
    """If only the kernel is left, a new relay adopts it, and no output of the cell is missing."""
    gate = tmp_path / "gate"
    host = make_host(f"print('before', flush=True)\n{UNTIL_GATE.format(gate=str(gate))}print('after')\nkernel")
    assert host.line() == "output"
    relay = psutil.Process(host.record.sandbox["pid"])
    host.kill()
    relay.kill()
    until(lambda: not relay.is_running())
    gate.touch()
    with KernelInterpreter.attach(host.session) as interpreter:
        text = interpreter.resume()
        assert re.fullmatch(r"before\nafter\n\d+", text)
        assert host.record.sandbox["pid"] != relay.pid
        assert interpreter.execute("os.getpid() == kernel") is True


def test_a_session_without_a_host_ends_in_time(make_host: Callable[..., Host]) -> None:
    """After resume_lifetime, relay, kernel and folder are gone, and the session is not listed."""
    host = make_host("print('running', flush=True)\nwhile True:\n    time.sleep(0.01)", lifetime_s=1.0)
    assert host.line() == "output"
    record = host.record
    relay = psutil.Process(record.sandbox["pid"])
    kernels = relay.children()
    assert kernels
    host.kill()
    assert psutil.wait_procs([relay, *kernels], timeout=20)[1] == []
    until(lambda: not Path(record.sandbox["folder"]).exists())
    assert cli.main(["ls"]) == 0
    assert records.list_records() == []
    record.write()  # as before ``ls``, which deletes it
    with pytest.raises(CodeInterpreterError, match="its host and its sandbox are gone"):
        KernelInterpreter.attach(host.session)
    assert not record.path.exists()
    assert not Path(record.connection_file).parent.exists()


def test_a_session_belongs_to_one_host(capfd: pytest.CaptureFixture[str]) -> None:
    """A session with a living host cannot be attached to; the error for an unknown id lists the existing ones."""
    with KernelInterpreter(sandbox=LocalSandbox()) as interpreter:
        interpreter.execute("1")
        with pytest.raises(CodeInterpreterError, match=f"belongs to process {os.getpid()}, which is alive"):
            KernelInterpreter.attach(interpreter.session_id)
        with pytest.raises(CodeInterpreterError, match=f"no session 'nonsense'.*{interpreter.session_id}"):
            KernelInterpreter.attach("nonsense")
        assert interpreter.execute("1 + 1") == 2
        with pytest.raises(CodeInterpreterError, match=r"resume\(\) is for an interpreter from attach\(\)"):
            interpreter.resume()


def test_the_record_is_this_users_alone_and_goes_with_the_session() -> None:
    """The file has mode 0600, its secrets are in no repr, and shutdown deletes it."""
    with KernelInterpreter(sandbox=LocalSandbox()) as interpreter:
        interpreter.execute("1")
        record = records.find_session(interpreter.session_id)
        assert stat.S_IMODE(record.path.stat().st_mode) == 0o600
        assert stat.S_IMODE(Path(interpreter.connection_file).stat().st_mode) == 0o600
        assert stat.S_IMODE(Path(interpreter.connection_file).parent.stat().st_mode) == 0o700
        assert record.sandbox["secret"] not in repr(record)
        assert record.key not in repr(record)
    assert not record.path.exists()


def test_detach_leaves_a_session_to_the_next(tmp_path: Path) -> None:
    """An idle interpreter can detach; the session continues under the next one."""
    first = KernelInterpreter(sandbox=LocalSandbox(cwd=tmp_path))
    first.execute("x = 1")
    session = first.session_id
    first.detach()
    with pytest.raises(CodeInterpreterError, match="its session was detached"):
        first.execute("x")
    with KernelInterpreter.attach(session) as second:
        assert second.execute("x + 1") == 2
        with pytest.raises(CodeExecutionError, match="ZeroDivisionError"):
            second.execute("1 / 0")


# --- the command line --------------------------------------------------------------------------------


def test_ls_tells_with_and_without_a_host(make_host: Callable[..., Host], capfd: pytest.CaptureFixture[str]) -> None:
    """``ls`` lists sessions with their host process, or reports that there are none."""
    assert cli.main(["ls"]) == 0
    assert capfd.readouterr() == ("", "No sessions on this machine.\n")
    orphan = make_host("print('x', flush=True)\ntime.sleep(60)")
    assert orphan.line() == "output"
    orphan.kill()
    living = make_host("1")
    assert cli.main(["ls"]) == 0
    lines = capfd.readouterr().out.splitlines()
    assert [line.split() for line in lines[:1]] == [["SESSION", "HOST", "SANDBOX", "STARTED"]]
    assert {tuple(line.split()[:-2]) for line in lines[1:]} == {
        (orphan.session, "gone", "local"),
        (living.session, "process", str(living.process.pid), "local"),
    }


def test_exec_joins_a_session_whose_host_lives(
    make_host: Callable[..., Host], capfd: pytest.CaptureFixture[str]
) -> None:
    """``exec --session`` is one more client: it sees the variables, and the host keeps its session."""
    host = make_host("x = [1, 2]")
    assert host.line() == "ended"
    assert cli.main(["exec", "--session", host.session, "print('hi')\nx"]) == 0
    assert capfd.readouterr().out == "hi\n[1, 2]\n"
    assert cli.main(["exec", "--session", host.session, "1 / 0"]) == 1
    assert capfd.readouterr().err.endswith("ZeroDivisionError: division by zero\n")
    assert cli.main(["exec", "--session", host.session, "--timeout", "0.2", "while True: time.sleep(0.01)"]) == 1
    assert (
        "TimeoutError: the cell was interrupted after execution_timeout=0.2 s; variables kept\n"
        in capfd.readouterr().err
    )
    assert host.record.pid == host.process.pid


def test_exec_uses_a_session_without_a_host(make_host: Callable[..., Host], capfd: pytest.CaptureFixture[str]) -> None:
    """``exec --session`` attaches a session without a host and detaches again; variables are kept."""
    host = make_host("x = 1\nprint('never shown twice', flush=True)")
    assert host.line() == "output"
    assert next(line for line in iter(host.line, "") if line != "output") == "ended"  # a print may come in two pieces
    host.kill()
    for expected in ("2\n", "3\n"):
        assert cli.main(["exec", "--session", host.session, "x += 1\nx"]) == 0
        assert capfd.readouterr().out == expected
    assert not host.record.host_lives


def test_attach_shows_the_last_cell_and_takes_more(
    make_host: Callable[..., Host], capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """``attach`` shows the running cell's output and reads cells until EOF; the session stays alive."""
    host = make_host("x = 1\nprint('printed', flush=True)\nask('nobody')")
    assert host.line() == "output"
    assert next(line for line in iter(host.line, "") if line != "output") == "asked"
    host.kill()
    monkeypatch.setattr(sys, "stdin", io.StringIO("def f():\n    return x + 1\n\nf()\n1 / 0\n%who_ls\n"))
    assert cli.main(["attach", host.session]) == 0
    out, err = capfd.readouterr()
    assert "printed\n" in out
    assert "2\n" in out
    assert "'f'" in out
    assert "HostLost" in err
    assert "ZeroDivisionError" in err
    assert not host.record.host_lives


def test_exec_and_console_find_the_only_session(
    make_host: Callable[..., Host], capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without an id the only session is used; with several the ids are listed."""
    host = make_host("x = 1")
    assert host.line() == "ended"
    assert cli.main(["exec", "--session", "x + 1"]) == 0
    assert cli.main(["exec", "x + 2", "--session"]) == 0
    assert capfd.readouterr().out == "2\n3\n"
    monkeypatch.setattr(sys, "stdin", io.StringIO("x + 3\n"))
    assert cli.main(["console"]) == 0
    assert "4\n" in capfd.readouterr().out
    assert cli.main(["attach", host.session]) == 2
    assert f"join it with `daytona-kernel console {host.session}`" in capfd.readouterr().err
    other = make_host("pass")
    assert other.line() == "ended"
    assert cli.main(["exec", "--session", "1"]) == 2
    assert re.search(
        r"2 sessions are alive on this machine: name one of [0-9a-f]{8}, [0-9a-f]{8}\.", capfd.readouterr().err
    )
    other.kill()
    assert cli.main(["console", other.session]) == 2
    assert f"take it over with `daytona-kernel attach {other.session}`" in capfd.readouterr().err


@pytest.mark.parametrize("command", [["attach", "0badcafe"], ["exec", "--session", "0badcafe", "1"]])
def test_no_such_session(command: list[str], capfd: pytest.CaptureFixture[str]) -> None:
    """An unknown id is refused with one sentence."""
    assert cli.main(command) == 2
    assert re.fullmatch(r"daytona-kernel: there is no session '0badcafe'; .*none\.\n", capfd.readouterr().err)


def test_garbage_in_the_runtime_folder_does_no_harm(capfd: pytest.CaptureFixture[str]) -> None:
    """Invalid files and stale records are ignored or deleted."""
    folder = records.SessionRecord("0", 0, "", 0.0, "", "", {}, "").path.parent
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    (folder / "daytona-kernel-00000001.json").write_text("{")
    (folder / "daytona-kernel-00000002.json").write_text(json.dumps({"version": 1, "id": 7}))
    stale = records.SessionRecord.of_this_process("00000003", kernel="k", key="s", connection_file="", sandbox={})
    stale.pid, stale.sandbox = 0, {"kind": "local", "folder": "/nowhere"}
    stale.write()
    try:
        assert cli.main(["exec", "--session", "00000003", "1"]) == 2
        assert capfd.readouterr().err.count("\n") == 1
    finally:
        for number in (1, 2, 3):
            (folder / f"daytona-kernel-0000000{number}.json").unlink(missing_ok=True)


def until(condition: Callable[[], bool]) -> None:
    """Wait for an effect of another process, at most 30 s."""
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end
        threading.Event().wait(0.01)
