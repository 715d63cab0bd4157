"""Running sessions from another process: ``live()``, the command line, IPython's magics, and the widget."""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import inspect
import json
import os
import random
import re
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import zmq
from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import capture_output
from jupyter_client.blocking.client import BlockingKernelClient

from daytona_kernel_interp import KernelInterpreter, live
from daytona_kernel_interp.cli import command_line as cli
from daytona_kernel_interp.client.outputs import StreamText
from daytona_kernel_interp.errors import KernelDied, KernelError, SessionNotFound
from daytona_kernel_interp.interpreter.interpreter import CodeInterpreterError
from daytona_kernel_interp.monitor import shared_client
from daytona_kernel_interp.monitor.live import Live
from daytona_kernel_interp.monitor.shared_client import SharedClient
from daytona_kernel_interp.monitor.widget import SessionView
from daytona_kernel_interp.session import kernel_session as session
from daytona_kernel_interp.session import session_file as records
from tests.access import session_of
from tests.integration.test_attach import end_sandbox, until
from tests.rendered import html_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@pytest.fixture(scope="module")
def shared() -> Iterator[KernelInterpreter]:
    with KernelInterpreter({"llm_query": lambda prompt: prompt}, sandbox="local") as interpreter:
        interpreter.execute("x = 41\nimport time")
        yield interpreter


class InThread:
    """A call in its own thread."""

    def __init__(self, work: Callable[[], Any]) -> None:
        self.result: Any = None
        self._thread = threading.Thread(target=self._run, args=(work,))
        self._thread.start()

    def _run(self, work: Callable[[], Any]) -> None:
        try:
            self.result = work()
        except Exception as error:
            self.result = error

    def join(self) -> Any:
        self._thread.join(30)
        assert not self._thread.is_alive()
        return self.result


def waiting(shared: KernelInterpreter, go_on: threading.Event) -> InThread:
    """Start a cell that waits for ``go_on`` in a tool, and return when it waits."""
    asked = threading.Event()

    def llm_query(prompt: str) -> str:
        asked.set()
        go_on.wait(30)
        return prompt

    shared.tools["llm_query"] = llm_query
    cell = InThread(
        lambda: shared.execute("y = 1\nprint('begun', flush=True)\nanswer = llm_query('hm')\nprint(answer)")
    )
    assert asked.wait(30)
    return cell


# --- live() ------------------------------------------------------------------------------------------------------


def test_the_newest_by_default(shared: KernelInterpreter) -> None:
    """An id selects a session, no id the newest one; the view shows the same as ``inspect``."""
    found = live().inspect()
    assert (found.session, found["x"].preview) == (shared.session_id, "41")
    assert live(shared.session_id).inspect("x")["x"].preview == "41"
    assert "x " in repr(live())
    assert f"Session {shared.session_id}." in html_of(live())
    with pytest.raises(NameError, match="name 'nothing' is not defined in session"):
        live().inspect("nothing")


def test_another_process_sees_a_running_cell(shared: KernelInterpreter) -> None:
    """The command line, in another process, shows the running cell and its pending tool call."""
    go_on = threading.Event()
    cell = waiting(shared, go_on)
    try:
        shown = subprocess.run(
            [sys.executable, "-m", "daytona_kernel_interp", "inspect", shared.session_id],
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        ).stdout
    finally:
        go_on.set()
    assert cell.join() == "begun\nhm\n"
    assert "at line 3: answer = llm_query('hm')" in shown
    assert "It waits for llm_query" in shown
    assert re.search(r"^x +int +28 B +41$", shown, re.MULTILINE)


def test_read_only_unless_asked_otherwise(shared: KernelInterpreter) -> None:
    """A view is read-only; with ``write=True`` it runs cells, whose variables are the session's."""
    with pytest.raises(PermissionError, match=r"read-only: use live\('[0-9a-f]{8}', write=True\)"):
        live().run("x = 0")
    shown: list[Any] = []
    result = live(write=True, on_output=shown.append).run("print(x); z = [x]")
    assert list(result.outputs) == shown == [StreamText("stdout", "41\n")]
    assert (result.value, result.error, result.submission) == (None, None, None)
    assert 0 < result.duration_s < 60
    assert shared.execute("z") == [41]
    failed = live(write=True).run("1 / 0").error
    assert failed is not None
    assert failed.summary == "ZeroDivisionError: division by zero"


def test_run_is_the_interpreters() -> None:
    """``live().run`` has the signature of ``KernelInterpreter.run``."""
    assert inspect.signature(Live.run) == inspect.signature(KernelInterpreter.run)


def test_run_sends_variables_and_returns_values(shared: KernelInterpreter) -> None:
    """``run`` has typed values in both directions, also SUBMIT's, and leaves the host's tools where they are."""
    shared.tools["llm_query"] = lambda prompt: f"<{prompt}>"
    shared.execute("kept = llm_query('a')")
    view = live(write=True)
    assert view.run("sent['a']", {"sent": {"a": 0, "b": (1, 2)}}).value == 0
    assert shared.execute("sent['b'] == (1, 2) and type(sent['b']) is tuple") is True
    assert view.run("SUBMIT('done')").submission == {"output": "done"}
    refused = view.run("llm_query('x')").error
    assert refused is not None
    assert "tools can be called from cells of the session's host only" in refused.message
    assert shared.execute("llm_query('b')") == "<b>"
    with pytest.raises(ValueError, match="Invalid variable name: 'not a name'"):
        view.run("1", {"not a name": 1})
    with pytest.raises(TypeError, match="cannot be sent to the kernel"):
        view.run("1", {"sent": object()})


def test_a_cell_from_outside_does_not_take_the_seed(tmp_path: Path) -> None:
    """The session's seed is set before the host's first cell, also if another process ran one earlier."""
    with KernelInterpreter(sandbox="local", record=tmp_path / "run.ipynb") as own:
        own.start()
        assert live(own.session_id, write=True).run("1 + 1").value == 2
        assert own.execute("import random; random.random()") == random.Random(own.seed).random()


def test_a_cell_waits_for_the_one_that_runs(shared: KernelInterpreter) -> None:
    """A second client joins a busy session at once; its cell runs when the session's own cell has ended."""
    go_on = threading.Event()
    shared.execute("answer = None")
    cell = waiting(shared, go_on)
    with SharedClient(records.find_session(shared.session_id)) as client:
        go_on.set()
        result = client.run("print(answer)")
    assert cell.join() == "begun\nhm\n"
    assert list(result.outputs) == [StreamText("stdout", "hm\n")]


def test_a_failure_from_outside_stops_nothing(shared: KernelInterpreter, tmp_path: Path) -> None:
    """A failing cell of a stock client does not abort the session's own cell, which waits behind it."""
    gate = tmp_path / "gate"
    stock = BlockingKernelClient()
    stock.load_connection_file(shared.connection_file)
    stock.start_channels(stdin=False)
    try:
        stock.execute(f"import os\nwhile not os.path.exists({str(gate)!r}): time.sleep(0.01)\n1 / 0")
        until(lambda: shared.inspect().running is not None)
        cell = InThread(lambda: shared.execute("x"))
        until(lambda: session_of(shared).kernel.running is not None)
        gate.touch()
        assert cell.join() == 41
    finally:
        stock.stop_channels()


def test_a_cell_that_waits_too_long_is_withdrawn(shared: KernelInterpreter) -> None:
    """A cell whose timeout ends while it waits never runs, and the session's own cell is not interrupted."""
    go_on = threading.Event()
    cell = waiting(shared, go_on)
    error = live(write=True, execution_timeout=0.3).run("x = 'never'").error
    assert error is not None
    assert error.summary == "TimeoutError: the cell was interrupted after execution_timeout=0.3 s; variables kept"
    go_on.set()
    assert cell.join() == "begun\nhm\n"
    assert shared.execute("x") == 41


def test_values(shared: KernelInterpreter) -> None:
    """``get`` returns a typed copy and leaves no trace; it fails while a cell runs and for values it cannot encode."""
    shared.execute("import decimal\nd = {'a': (1, decimal.Decimal('1.5')), 'b': 'é' * 10000}\nf = open('/dev/null')")
    count = shared.execute("get_ipython().execution_count")
    assert live().get("d")["a"][0] == 1
    assert len(live().get("d")["b"]) == 10000
    with pytest.raises(TypeError, match="variable 'f' cannot be sent"):
        live().get("f")
    with pytest.raises(NameError, match="'nothing'"):
        live().get("nothing")
    go_on = threading.Event()
    assert shared.execute("get_ipython().execution_count") == count + 1
    cell = waiting(shared, go_on)
    with pytest.raises(TypeError, match="a cell is running"):
        live().get("d")
    go_on.set()
    cell.join()


def test_a_view_takes_no_more_than_its_session_does(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel refuses a larger variable, and no socket of the view accepts a larger message."""
    with KernelInterpreter(sandbox="local", max_value_bytes=1 << 20) as own:
        own.execute("large = 'x' * (2 << 20); small = 'x' * 1000")
        view = live(own.session_id)
        assert len(view.get("small")) == 1000
        with pytest.raises(TypeError, match=r"variable 'large' cannot be sent .* more than 1048576 bytes"):
            view.get("large")
        clients: list[BlockingKernelClient] = []

        class NotedClient(BlockingKernelClient):
            def __init__(self) -> None:
                super().__init__()
                clients.append(self)

        monkeypatch.setattr(shared_client, "BlockingKernelClient", NotedClient)
        with SharedClient(records.find_session(own.session_id)):
            (client,) = clients
            channels = (client.shell_channel, client.iopub_channel, client.control_channel)
            assert {channel.socket.getsockopt(zmq.MAXMSGSIZE) for channel in channels} == {17 << 20}


def test_several_sessions_and_their_end(shared: KernelInterpreter) -> None:
    """With several sessions the view has the newest and says so; a view of an ended session reports its end."""
    with KernelInterpreter(sandbox="local") as other:
        other.start()
        view = live()
        assert view.session_id == other.session_id
        note = f"Session {other.session_id}, the newest of 2: {other.session_id}, {shared.session_id}."
        assert str(view.inspect()).splitlines()[0] == note
        with pytest.raises(CodeInterpreterError):
            other.execute("import os; os._exit(1)")
        with pytest.raises(KernelDied, match=r"KernelDied: .*exit code 1"):
            view.inspect()
    with pytest.raises(SessionNotFound, match="the session is over: its host closed it"):
        view.inspect()
    assert repr(view).endswith("the session is over: its host closed it")
    assert live().session_id == shared.session_id


def test_a_session_without_a_host(capfd: pytest.CaptureFixture[str]) -> None:
    """The error for a session without a host has the host's last heartbeat and the state of the sandbox."""
    interpreter = KernelInterpreter(sandbox="local")
    interpreter.start()
    stale = interpreter.session_id
    interpreter.detach()
    record = records.find_session(stale)
    with pytest.raises(SessionNotFound, match="its host detached from it at"):
        live(stale)
    gone = subprocess.Popen(["true"])
    gone.wait()
    record.pid, record.mark = gone.pid, "0"  # as if its host had been killed
    record.write()
    seen = time.strftime("%Y-%m-%d %H:%M:", time.localtime(record.last_seen))
    with pytest.raises(SessionNotFound) as failure:
        live(stale)
    text = str(failure.value)
    assert f"its host, process {gone.pid}, is gone; its last heartbeat was at {seen}" in text
    assert f"Its sandbox (local) still lives: KernelInterpreter.attach('{stale}') takes it over." in text
    assert cli.main(["inspect", stale]) == 2
    assert "has no host" in capfd.readouterr().err
    end_sandbox(record)
    record.write()
    with pytest.raises(SessionNotFound, match=r"Its sandbox is gone too|Nothing is left of its sandbox"):
        live(stale)
    record.delete()


def test_no_session_alive(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Without any session, one sentence says what to do."""
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(tmp_path))
    with pytest.raises(
        SessionNotFound, match=r"No session is alive on this machine: start a KernelInterpreter first\."
    ):
        live()
    assert cli.main(["inspect"]) == 2
    assert capfd.readouterr().err == (
        "daytona-kernel: No session is alive on this machine: start a KernelInterpreter first.\n"
    )
    for command in ("attach", "console"):
        assert cli.main([command]) == 2
    assert capfd.readouterr().err == (
        "daytona-kernel: No session without a host is alive on this machine.\n"
        "daytona-kernel: No session with a host is alive on this machine.\n"
    )


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a file away")
def test_a_session_of_another_user(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The record of another user is not read, and the error says so."""
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(tmp_path))
    path = tmp_path / "daytona-kernel-0badcafe.json"
    path.write_text("{}")
    os.chown(path, 12345, -1)
    with pytest.raises(SessionNotFound, match=r"session 0badcafe belongs to another user \(uid 12345\)"):
        live("0badcafe")


def test_signs_of_life(monkeypatch: pytest.MonkeyPatch) -> None:
    """A host touches its record regularly."""
    monkeypatch.setattr(session, "HEARTBEAT_S", 0.05)
    with KernelInterpreter(sandbox="local") as interpreter:
        interpreter.start()
        record = records.find_session(interpreter.session_id)
        os.utime(record.path, (1, 1))
        until(lambda: record.last_seen > 1)


def say(interpreter: KernelInterpreter, data: bytes) -> bytes:
    """Send data to the monitor server and return everything that it answers."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(20)
        connection.connect(str(Path(interpreter.connection_file).parent / "live"))
        connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: connection.recv(1 << 16), b""))


@pytest.mark.parametrize(
    "question", [b"{", b"[]", b"5", b'{"op": "run", "code": "x = 0"}', b'{"op": "follow", "since": "x"}', b"\xff"]
)
def test_what_is_no_question(shared: KernelInterpreter, question: bytes) -> None:
    """An invalid request is refused, and the session goes on."""
    assert say(shared, question + b"\n") in (b'{"error": "not a valid request"}\n', b"")
    assert live().inspect()["x"].preview == "41"


def test_a_question_without_end(shared: KernelInterpreter) -> None:
    """A line beyond the limit ends the connection; several requests on one connection are answered in order."""
    with contextlib.suppress(OSError):
        assert say(shared, b"x" * 1_000_000) == b""
    lines = say(shared, b'{"op": "look"}\n{"op": "follow", "since": 0}\n').splitlines()
    assert [sorted(set(json.loads(line)) & {"by", "steps"}) for line in lines] == [["by"], ["steps"]]


def test_the_socket_is_closed_to_other_users(shared: KernelInterpreter) -> None:
    """The socket is in a folder that only this user can enter."""
    folder = Path(shared.connection_file).parent
    assert (folder / "live").is_socket()
    assert folder.stat().st_mode & 0o777 == 0o700


def test_an_impostor_of_a_host(tmp_path: Path) -> None:
    """Without a server behind the socket the view raises one error."""
    record = records.SessionRecord.of_this_process(
        "0badcafe", kernel="k", key="s", connection_file=str(tmp_path / "c.json"), sandbox={"kind": "local"}
    )
    with pytest.raises(KernelError):
        Live(record, write=False).inspect()


# --- IPython's magics ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def shell() -> Iterator[Any]:
    made: Any = InteractiveShell.instance()
    made.run_line_magic("load_ext", "daytona_kernel_interp")
    yield made
    made.history_manager.end_session()
    InteractiveShell.clear_instance()


def test_magics(shared: KernelInterpreter, shell: Any) -> None:
    """In a real IPython shell the magics list sessions, show variables, run a cell in a session and fetch a value."""
    with capture_output() as shown:
        shell.run_cell("%sandbox_sessions")
    assert shared.session_id in shown.outputs[0].data["text/plain"]
    assert "<table>" in shown.outputs[0].data["text/html"]
    with capture_output():
        result = shell.run_cell("%sandbox_vars").result
    assert result["x"].preview == "41"
    cell = f"%%sandbox {shared.session_id}\nimport sys\nprint('there'); print('err', file=sys.stderr)\nw = x + 1\nw"
    with capture_output() as shown:
        assert shell.run_cell(cell).success
    assert (shown.stdout, shown.stderr) == ("there\n", "err\n")
    assert shown.outputs[0].data["text/plain"] == "42"
    assert shared.execute("w") == 42
    assert shell.run_cell("%sandbox_get w").success
    assert shell.user_ns["w"] == 42


def test_magics_show_figures(shared: KernelInterpreter, shell: Any) -> None:
    """A figure of the session's cell is displayed here with its MIME type."""
    code = "%%sandbox\nfrom IPython.display import display\ndisplay({'image/png': 'iVBORw0KGgo='}, raw=True)"
    with capture_output() as shown:
        assert shell.run_cell(code).success
    assert shown.outputs[0].data["image/png"] == "iVBORw0KGgo="


def test_magics_in_a_kernel(shared: KernelInterpreter) -> None:
    """The magics also work in a notebook's kernel, whose event loop runs."""
    runtime = records.find_session(shared.session_id).path.parent
    with KernelInterpreter(sandbox="local") as notebook:
        notebook.execute(
            f"import os; os.environ['JUPYTER_RUNTIME_DIR'] = {str(runtime)!r}\n%load_ext daytona_kernel_interp"
        )
        assert notebook.execute(f"%%sandbox {shared.session_id}\nfrom_afar = x\nprint('there')") == "there\n"
        assert notebook.execute(f"%sandbox_get from_afar {shared.session_id}\nfrom_afar") == 41
        assert "from_afar" in str(notebook.execute(f"%sandbox_vars {shared.session_id}"))
        assert "import dspy" not in notebook.execute("import sys\nprint('dspy' in sys.modules)")
        assert notebook.execute("print('dspy' in sys.modules)") == "False\n"
    assert shared.execute("from_afar") == 41


def test_magics_fail_in_one_line(shell: Any, shared: KernelInterpreter) -> None:
    """A wrong name is one line; an error in the session shows its own traceback and fails the cell here."""
    for code, text in (
        ("%sandbox_get nothing", "name 'nothing' is not defined in session"),
        ("%sandbox_get", "%sandbox_get takes the name of a variable"),
        ("%sandbox_get x y", "there is no session 'y'"),
        ("%sandbox_vars 0badcafe", "there is no session '0badcafe'"),
        ("%sandbox_sessions all", "takes no arguments, not 'all'"),
        ("%%sandbox 0badcafe\n1", "there is no session '0badcafe'"),
    ):
        with capture_output() as shown:
            assert not shell.run_cell(code).success
        assert text in shown.stdout + shown.stderr
        assert "Traceback" not in shown.stdout + shown.stderr
    with capture_output() as shown:
        assert not shell.run_cell("%%sandbox\ndef f():\n    return 1 / 0\nf()").success
    assert "in f\n    return 1 / 0" in shown.stdout
    assert shown.stdout.rstrip().endswith("ZeroDivisionError: division by zero")


# --- the command line -------------------------------------------------------------------------------------------------


def test_inspect_prints_the_table(shared: KernelInterpreter, capfd: pytest.CaptureFixture[str]) -> None:
    """``inspect`` prints all variables or one; an unknown name is bad input."""
    assert cli.main(["inspect"]) == 0
    assert re.search(r"^x +int +28 B +41$", capfd.readouterr().out, re.MULTILINE)
    assert cli.main(["inspect", shared.session_id, "x"]) == 0
    assert re.search(r"^x +int +28 B +41$", capfd.readouterr().out, re.MULTILINE)
    shared.execute("_hidden = 5")
    assert cli.main(["inspect"]) == 0
    assert "_hidden" not in capfd.readouterr().out
    assert cli.main(["inspect", "--private"]) == 0
    assert re.search(r"^_hidden +int +28 B +5$", capfd.readouterr().out, re.MULTILINE)
    shared.execute("del _hidden")
    assert cli.main(["inspect", "x"]) == 0  # the only session
    assert re.search(r"^x +int +28 B +41$", capfd.readouterr().out, re.MULTILINE)
    assert cli.main(["inspect", shared.session_id, "nothing"]) == 2
    assert capfd.readouterr().err.count("\n") == 1


def test_console_opens_jupyter_console(shared: KernelInterpreter) -> None:
    """At a terminal ``console`` is ``jupyter console`` on the session, whose variables it reads and changes."""
    import pty

    ours, its = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-m", "daytona_kernel_interp", "console", shared.session_id],
        stdin=its,
        stdout=its,
        stderr=its,
        env={**os.environ, "TERM": "dumb"},
        start_new_session=True,
    ) as process:
        os.close(its)
        seen = b""
        while b"In [" not in seen:
            seen += os.read(ours, 4096)
        os.write(ours, b"typed = x + 1\n")
        until(lambda: any(variable.name == "typed" for variable in shared.inspect().variables))
        process.terminate()
        process.wait(20)
    os.close(ours)
    assert f"Session {shared.session_id}. Ctrl-D leaves it running.".encode() in seen
    assert b"Jupyter console" in seen


def test_console_prints_the_command_without_the_program(
    shared: KernelInterpreter, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Where jupyter console is not installed, its command is printed, and a plain prompt replaces it."""
    from daytona_kernel_interp.cli import console

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    console.open_jupyter_console(records.find_session(shared.session_id))
    assert f"jupyter console --existing {shared.connection_file}" in capfd.readouterr().err


# --- the widget -------------------------------------------------------------------------------------------------------


def test_the_widget_follows_a_run(shared: KernelInterpreter) -> None:
    """The widget's state follows the running cell, its tool call, its output and end, and the variables."""
    changes: list[list[dict[str, Any]]] = []
    go_on = threading.Event()
    view = shared.view()
    view.observe(lambda change: changes.append(change["new"]), "steps")
    try:
        cell = waiting(shared, go_on)
        until(lambda: bool(view.now.get("calls")) and view.now["calls"][0][0] == "llm_query")
        until(lambda: view.steps[-1]["tail"] == "begun\n")
        assert (view.steps[-1]["state"], view.now["line"]) == ("running", 3)
        go_on.set()
        cell.join()
        until(lambda: view.steps[-1]["state"] == "done")
        assert view.steps[-1]["tail"] == "begun\nhm\n"
        assert view.now["calls"] == []
        assert ["x", "int", "28 B", "", "41"] in view.variables
        with pytest.raises(CodeInterpreterError):
            shared.execute("1 / 0")
        until(lambda: view.steps[-1]["state"] == "failed")
        assert view.steps[-1]["error"] == "ZeroDivisionError: division by zero"
        assert {steps[-1]["state"] for steps in changes} >= {"running", "done", "failed"}
        json.dumps(view.get_state(["steps", "now", "variables", "over", "session"]))
    finally:
        go_on.set()
        view.close()


def has_row(view: SessionView, name: str) -> bool:
    return any(row[0] == name for row in view.variables)


def test_the_widget_of_another_process_and_its_end() -> None:
    """``live().view()`` follows a session, too; when the session ends, the widget says so and stops."""
    with KernelInterpreter(sandbox="local") as interpreter:
        interpreter.execute("a = 1")
        views = [interpreter.view(), live().view()]
        for view in views:
            until(functools.partial(has_row, view, "a"))
    for view in views:
        until(functools.partial(getattr, view, "over"))
        view.close()
    until(lambda: not any(thread.name == "daytona-kernel-view" for thread in threading.enumerate()))


def test_the_widgets_module_makes_no_html() -> None:
    """The widget's data comes from a sandbox: the module never parses text as HTML."""
    source = Path(inspect.getfile(SessionView)).with_name("widget.js").read_text()
    assert "textContent" in source
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(", source)
