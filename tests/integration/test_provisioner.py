"""Kernels in sandboxes behind jupyter_client's KernelManager."""

from __future__ import annotations

import logging
import os
import re
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest

from daytona_kernel_interp.errors import SandboxFailed
from daytona_kernel_interp.jupyter.kernelspec import InvalidOption
from tests.integration.daytona_service import until
from tests.integration.jupyter_programs import DAYTONA, LOCAL, Talk, install, talk

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.integration.daytona_service import Service


@pytest.fixture(scope="module", autouse=True)
def _kernelspecs() -> None:
    install(LOCAL, sandbox="local")
    install(DAYTONA, sandbox="daytona")


@pytest.fixture(scope="module")
def person() -> Iterator[Talk]:
    """A kernel that several tests share; they leave no changes."""
    with talk(LOCAL) as talking:
        yield talking


def relay_of(talking: Talk) -> psutil.Process:
    return psutil.Process(int(talking.value("__import__('os').getppid()")))


# --- what a person expects of a kernel ---------------------------------------------------------------


def test_input_asks_whoever_sits_there(person: Talk) -> None:
    """``input()`` and ``getpass()`` go to the front end's stdin and come back."""
    assert person.value("input('who? ') + '!'", "me") == "'me!'"
    (asked, *_) = (item for item in person.run("import getpass; getpass.getpass('key? ')", "x") if "password" in item)
    assert (asked["prompt"], asked["password"]) == ("key? ", True)


def test_debug_works_after_an_error(person: Talk) -> None:
    """``%debug`` opens the frame that raised, and ``breakpoint()`` stops in a cell."""
    person.run("def f(n):\n    return 1 / (n - 41)\nf(41)")
    assert person.reply["ename"] == "ZeroDivisionError"
    assert "82" in person.text("%debug", "p n * 2", "q")
    assert "7" in person.text("n = 6\nbreakpoint()\nn", "p n + 1", "c")


def test_rich_output_counts_and_history_are_ipykernels(person: Talk) -> None:
    """Figures, widgets' comms, counts, ``Out`` and ``%history`` are as in any notebook."""
    count = int(person.value("1 + 1") and person.reply["execution_count"])
    assert person.value(f"Out[{count}]") == "2"
    assert person.text("%history -n -l 2").strip().endswith(f"Out[{count}]")
    published = person.run("from comm import create_comm; c = create_comm('t', data={'a': 1}); c.send({'b': 2})")
    assert [item["data"] for item in published if item["msg_type"].startswith("comm")] == [{"a": 1}, {"b": 2}]
    published = person.run("from IPython.display import HTML, display; display(HTML('<b>x</b>'))")
    assert any(item.get("data", {}).get("text/html") == "<b>x</b>" for item in published)
    person.run("import builtins; kept = builtins.print; builtins.print = lambda *a: kept('mine', *a)")
    assert person.text("print(1)\nbuiltins.print = kept") == "mine 1\n"  # nothing is put back under a person's hands


def test_a_widget_hears_the_front_end(person: Talk) -> None:
    """A message of the front end on a comm reaches the kernel's callback."""
    opened = person.run("heard = []\nc = create_comm('t')\nc.on_msg(lambda m: heard.append(m['content']['data']))")
    (comm,) = (item["comm_id"] for item in opened if item["msg_type"] == "comm_open")
    message = person.client.session.msg("comm_msg", {"comm_id": comm, "data": {"value": 7}})
    person.client.shell_channel.send(message)
    assert person.value("heard") == "[{'value': 7}]"


def test_no_output_is_cut(person: Talk) -> None:
    """All output arrives, with any characters, in one notebook cell."""
    assert len(person.text("print('x' * 3_000_000)")) == 3_000_001
    assert person.text(r"print('\udc80')") == "\\udc80\n"
    assert person.text("!printf 'a\\303\\244'") == "aä"


@pytest.mark.parametrize("code", ["while True: pass", "import asyncio; await asyncio.sleep(60)", "input()"])
def test_an_interrupt_ends_the_cell_and_keeps_variables(person: Talk, code: str) -> None:
    """An interrupt is the relay's signal; it ends a loop, an await and ``input()``."""
    person.run("kept = 5")
    person.begin(code)
    person.manager.interrupt_kernel()
    assert person.end()["ename"] in ("KeyboardInterrupt", "CancelledError")
    assert person.value("kept") == "5"


def test_the_kernel_has_nothing_of_the_programs_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The kernel gets only the environment variables in its kernelspec; a ``json.py`` in its folder is harmless."""
    monkeypatch.setenv("SOME_SECRET", "s3cret")
    for name in ("json.py", "queue.py", "websockets.py"):
        (tmp_path / name).write_text("raise SystemExit('not this one')")
    name = install("with-env", sandbox="local", env={"MODE": "a", "OTHER": "b"})
    with talk(name, cwd=str(tmp_path), env={**os.environ, "JPY_API_TOKEN": "t"}) as talking:
        seen = talking.value(
            "import os; 'SOME_SECRET' in os.environ, 'JPY_API_TOKEN' in os.environ, os.environ['MODE']"
        )
        assert seen == "(False, False, 'a')"
        assert talking.value("os.getcwd()") == repr(str(tmp_path))
        assert "s3cret" not in str(psutil.Process(int(talking.value("os.getpid()"))).environ())


# --- lives ----------------------------------------------------------------------------------------------


def test_a_restart_keeps_the_sandbox_and_a_shutdown_ends_it() -> None:
    """A restart keeps files, relay and clients and loses variables. A shutdown leaves nothing."""
    with talk(LOCAL) as talking:
        relay, before = relay_of(talking), dict(talking.manager.get_connection_info())
        talking.run("x = 1; import os; folder = os.environ['DAYTONA_KERNEL_FOLDER']; open(folder + '/f', 'w').close()")
        folder = Path(talking.value("folder").strip("'"))
        pid = talking.value("os.getpid()")
        talking.manager.restart_kernel()
        talking.client.wait_for_ready(timeout=30)
        assert talking.value(
            "import os; 'x' in globals(), os.path.exists(os.environ['DAYTONA_KERNEL_FOLDER'] + '/f')"
        ) == ("(False, True)")
        assert (relay_of(talking), talking.value("os.getpid()") != pid) == (relay, True)
        assert talking.manager.get_connection_info() == before
        endpoints = Path(str(before["ip"])).parent
        assert endpoints.is_dir()
    assert not relay.is_running()
    assert not folder.exists()
    assert not endpoints.exists()


def test_a_dead_kernel_is_seen_and_named(caplog: pytest.LogCaptureFixture) -> None:
    """poll() returns the exit code, the log has one sentence, and a restart uses the same sandbox."""
    with talk(LOCAL) as talking:
        relay = relay_of(talking)
        assert talking.manager.is_alive()
        talking.client.execute("import os, signal; os.kill(os.getpid(), signal.SIGKILL)")
        assert until(lambda: not talking.manager.is_alive(), "the kernel's end")
        assert talking.manager.provisioner is not None
        assert "The kernel's process ended (signal SIGKILL); all variables are lost." in caplog.text
        caplog.clear()
        talking.manager.restart_kernel(now=True)
        talking.client.wait_for_ready(timeout=30)
        assert relay_of(talking) == relay
        talking.manager.restart_kernel(now=True)  # a kill that was asked for is no news
        talking.client.wait_for_ready(timeout=30)
        assert "kernel's process" not in caplog.text


def test_a_relay_that_dies_costs_no_variable(caplog: pytest.LogCaptureFixture) -> None:
    """A new relay is started, the kernel lives, the client reconnects, and the log says what may be missing."""
    with talk(LOCAL) as talking:
        relay = relay_of(talking)
        talking.run("x = 41")
        relay.kill()
        assert until(lambda: "was lost and replaced" in caplog.text, "the log's sentence")
        talking.client.wait_for_ready(timeout=30)
        assert talking.value("x + 1") == "42"
        assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


def test_the_end_of_the_way_to_the_kernel_is_named(daytona: Service, caplog: pytest.LogCaptureFixture) -> None:
    """A deleted sandbox ends the kernel with one sentence; a restart creates another sandbox."""
    with talk(DAYTONA) as talking:
        assert talking.value("6 * 7") == "42"
        (first,) = daytona.sandboxes
        daytona.ask("DELETE", f"/sandbox/{first['id']}")

        def lost() -> bool:
            talking.manager.interrupt_kernel()  # or else the next look at an idle link, after 15 s, would find out
            return not talking.manager.is_alive()

        assert until(lost, "the loss to be noticed")
        assert "The kernel is lost: the Daytona sandbox was deleted; kernel and variables are lost." in caplog.text
        talking.manager.restart_kernel(now=True)
        talking.client.wait_for_ready(timeout=30)
        assert talking.value("6 * 7") == "42"
        assert first["id"] not in [sandbox["id"] for sandbox in daytona.sandboxes]


def test_a_sandbox_that_is_kept_is_stopped(daytona: Service) -> None:
    """With the option ``keep`` a shutdown stops the sandbox and does not delete it."""
    with talk(install("kept", sandbox="daytona", keep=True, labels={"team": "a"})) as talking:
        assert talking.value("1 + 1") == "2"
        assert daytona.only["labels"]["team"] == "a"
    assert daytona.only["state"] == "stopped"
    daytona.ask("DELETE", f"/sandbox/{daytona.only['id']}")


# --- bad input ------------------------------------------------------------------------------------------


def test_what_no_kernel_has_is_refused_in_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    """An unknown option, arguments, and a missing key are refused with one sentence; nothing starts."""
    before = set(psutil.Process().children())
    with pytest.raises(InvalidOption, match=r"LocalSandbox has no option 'snapshot'; it has cwd, env, "):
        Talk(install("bad", sandbox="local", snapshot="x"))
    with pytest.raises(SandboxFailed, match=r"takes no command-line arguments, but got --colors=no"):
        Talk(LOCAL, extra_arguments=["--colors=no"])
    monkeypatch.delenv("DAYTONA_API_KEY", raising=False)
    with pytest.raises(SandboxFailed, match="DAYTONA_API_KEY"):
        Talk(DAYTONA)
    assert set(psutil.Process().children()) == before


def test_only_three_signals_reach_a_kernel(person: Talk) -> None:
    """Other signals than SIGINT, SIGTERM and SIGKILL are refused."""
    with pytest.raises(SandboxFailed, match=re.escape("a kernel in a sandbox cannot be sent SIGUSR1")):
        person.manager.signal_kernel(signal.SIGUSR1)


def test_a_python_that_is_not_there(tmp_path: Path) -> None:
    """The error has the sandbox's own message, and no folder of endpoints is left."""
    name = install("no-python", sandbox="local", python=str(tmp_path / "python"))
    with pytest.raises(SandboxFailed, match="the local sandbox did not start with"):
        Talk(name)
