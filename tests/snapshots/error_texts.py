"""Error classes and texts of calls that are wrong before anything starts."""

from __future__ import annotations

import os
import re
from functools import partial
from typing import TYPE_CHECKING, Any
from unittest import mock

import daytona_kernel_interp
from daytona_kernel_interp import (
    DaytonaSandbox,
    KernelImage,
    KernelInterpreter,
    LocalSandbox,
    Recording,
    RelaySandbox,
    ReplayInterpreter,
    diff,
    live,
    replay,
)
from daytona_kernel_interp.codec.records import Record
from daytona_kernel_interp.errors import KernelError
from daytona_kernel_interp.jupyter.kernelspec import describe
from daytona_kernel_interp.playback.compare import Tolerance
from daytona_kernel_interp.sandboxes.select import adopt, select_sandbox
from daytona_kernel_interp.session.session_file import find_session
from tests.snapshots.file_formats import GOLDEN

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

RUN = GOLDEN / "recording-v1.ipynb"


def _local(**options: Any) -> KernelInterpreter:
    return KernelInterpreter(sandbox=LocalSandbox(), **options)


def _attribute(name: str) -> Any:
    return getattr(_local(), name)


def _ended() -> KernelInterpreter:
    interpreter = _local()
    interpreter.shutdown()
    return interpreter


class _Tool:
    def __call__(self, query: str) -> str:
        return query

    def __repr__(self) -> str:
        return "search"


_search = _Tool()


# Each of these yields calls: how the snapshot shows one, and a function that makes it.
def _sandboxes() -> Iterator[tuple[str, Callable[[], Any]]]:
    def sandbox(**options: Any) -> tuple[str, Callable[[], Any]]:
        return f"DaytonaSandbox({_shown(options)})", lambda: DaytonaSandbox(**options)

    yield sandbox(snapshot="s", image="i")
    yield sandbox(resources={"cpu": 2})
    yield sandbox(cpu=2)
    yield sandbox(image=5)
    yield sandbox(image="i", resources={"cpu": 0})
    yield sandbox(resume_lifetime=-1)
    yield sandbox(resume_lifetime="1")
    yield sandbox(port=80)
    yield sandbox(env_vars={"A": 1})
    yield sandbox(env={"A": "1"})
    yield sandbox(labels={1: "a"})
    yield sandbox(volumes={"v": None})
    yield sandbox(auto_stop_interval=-1)
    yield sandbox(ttl_minutes=0.5)
    yield sandbox(network_block_all=True, network_allow_list="10.0.0.0/8")
    yield sandbox(keep=True, ttl_minutes=5)
    yield sandbox(start_timeout=0)
    yield sandbox(timeout=5)
    yield "KernelImage('numpy')", lambda: KernelImage(packages="numpy")  # type: ignore[arg-type]
    yield "KernelImage(('two words',))", lambda: KernelImage(("two words",))
    yield "KernelImage(('-r file',))", lambda: KernelImage(("-r file",))
    yield "RelaySandbox('http://host', 't')", lambda: RelaySandbox("http://host", "t")
    yield "RelaySandbox('ws://host/path', 't')", lambda: RelaySandbox("ws://host/path", "t")
    yield "RelaySandbox('ws://host', '')", lambda: RelaySandbox("ws://host", "")
    yield "LocalSandbox(folder='/')", lambda: LocalSandbox(folder="/")  # type: ignore[call-arg]
    yield "no sandbox chosen", lambda: select_sandbox(None)
    yield "sandbox='dayton'", lambda: select_sandbox("dayton")
    yield "sandbox=str", lambda: select_sandbox(str)
    yield "sandbox=5", lambda: select_sandbox(5)
    yield "session in a sandbox of another kind", lambda: adopt({"kind": "moon"})
    yield "session record without fields", lambda: adopt({"kind": "local"})


def _interpreters() -> Iterator[tuple[str, Callable[[], Any]]]:
    def execute(*arguments: Any, **options: Any) -> tuple[str, Callable[[], Any]]:
        given = ", ".join(map(repr, arguments))
        return f"KernelInterpreter({_shown(options)}).execute({given})", lambda: _local(**options).execute(*arguments)

    yield "KernelInterpreter(timeout=5)", lambda: _local(timeout=5)
    yield "KernelInterpreter(tools=[])", lambda: _local(tools=[])
    yield execute(5)
    yield execute("'\ud800'")
    yield execute("1", ["x"])
    yield execute("1", {"two words": 1})
    yield execute("1", {"class": 1})
    yield execute("1", {"x": _Unsendable()})
    yield execute("1", {"x": "long" * 26}, max_value_bytes=100)
    yield execute("1", execution_timeout=0)
    yield execute("1", execution_timeout="5")
    yield execute("1", max_output_chars=-1)
    yield execute("1", tools={"two words": _search})
    yield execute("1", tools={"five": 5})
    yield execute("1", output_fields={"name": "a"})
    yield execute("1", output_fields=["a"])
    yield execute("1", output_fields=[{"name": "a"}, {"name": "a"}])
    yield execute("1", sandbox_params={})
    yield "KernelInterpreter().execute('1') after shutdown()", lambda: _ended().execute("1")
    yield "KernelInterpreter().start() after shutdown()", lambda: _ended().start()
    yield "KernelInterpreter(sandbox='dayton').start()", lambda: KernelInterpreter(sandbox="dayton").start()
    for name in ("outputs", "session_id", "connection_file", "recording"):
        yield f"KernelInterpreter().{name}", partial(_attribute, name)
    yield "KernelInterpreter().interrupt()", lambda: _local().interrupt()
    yield "KernelInterpreter().invoke_tool('x', {})", lambda: _local().invoke_tool("x", {})
    yield "KernelInterpreter().inspect()", lambda: _local().inspect()
    yield "KernelInterpreter().inspect(7)", lambda: _local().inspect(7)  # type: ignore[arg-type]
    yield "KernelInterpreter().get('a.b')", lambda: _local().get("a.b")
    yield "KernelInterpreter().resume()", lambda: _local().resume()
    yield "KernelInterpreter().detach()", lambda: _local().detach()
    yield "KernelInterpreter.attach('nothing')", lambda: KernelInterpreter.attach("nothing")
    yield "daytona_kernel_interp.KernelInterpeter", lambda: getattr(daytona_kernel_interp, "KernelInterpeter")  # noqa: B009


def _recordings() -> Iterator[tuple[str, Callable[[], Any]]]:
    yield "Recording.load('missing.ipynb')", lambda: Recording.load("missing.ipynb")
    yield "Recording.load('text.ipynb')", lambda: Recording.load("text.ipynb")
    yield "Recording.load('foreign.ipynb')", lambda: Recording.load("foreign.ipynb")
    yield "Recording.load('newer.ipynb')", lambda: Recording.load("newer.ipynb")
    yield "Recording.lm('x')", lambda: Recording.load(RUN).lm("x")  # type: ignore[arg-type]
    yield "ReplayInterpreter(5)", lambda: ReplayInterpreter(5)  # type: ignore[arg-type]
    yield "ReplayInterpreter(RUN, pool=2)", lambda: ReplayInterpreter(RUN, pool=2)  # type: ignore[arg-type]
    yield "ReplayInterpreter(RUN).execute('1')", lambda: ReplayInterpreter(RUN).execute("1")
    yield "replay(5)", lambda: replay(5)  # type: ignore[arg-type]
    yield "replay(RUN, until=99)", lambda: replay(RUN, sandbox="local", until=99)
    yield "replay(RUN, edits={99: '1'})", lambda: replay(RUN, sandbox="local", edits={99: "1"})
    yield "replay(RUN, edits={0: 1})", lambda: replay(RUN, sandbox="local", edits={0: 1})  # type: ignore[dict-item]
    yield "replay(RUN, live_tools={'x': ...})", lambda: replay(RUN, sandbox="local", live_tools={"x": _search})
    yield "diff(5, RUN)", lambda: diff(5, RUN)  # type: ignore[arg-type]
    yield "diff('missing.ipynb', RUN)", lambda: diff("missing.ipynb", RUN)
    yield "Tolerance(floats=-1)", lambda: Tolerance(floats=-1)
    yield "Tolerance(figures='bytes')", lambda: Tolerance(figures="bytes")  # type: ignore[arg-type]
    yield "Record('Page', {}).nope", lambda: Record("Page", {}).nope


def _sessions() -> Iterator[tuple[str, Callable[[], Any]]]:
    def kernel(**options: Any) -> tuple[str, Callable[[], Any]]:
        return f"kernel options ({_shown(options)})", lambda: describe(options)

    yield "live()", lambda: live()
    yield "live('nothing')", lambda: live("nothing")
    yield "find('nothing')", lambda: find_session("nothing")
    yield kernel()
    yield kernel(sandbox="moon")
    yield kernel(sandbox="local", snapshot="s")
    yield kernel(sandbox="daytona", keep=1)
    yield kernel(sandbox="daytona", auto_stop_interval=True)
    yield kernel(sandbox="daytona", env={"A": 1})
    yield kernel(sandbox="daytona", cpu=2)


class _Unsendable:
    def __repr__(self) -> str:
        return "<object>"


def error_texts(folder: Path) -> str:
    """Return what each call raises: classes and text. A call that raises nothing is recorded as well."""
    (folder / "text.ipynb").write_text("no JSON", encoding="utf-8")
    cells = '{"cells": [], "nbformat": 4, "nbformat_minor": 5, "metadata": %s}'
    (folder / "foreign.ipynb").write_text(cells % "{}", encoding="utf-8")
    (folder / "newer.ipynb").write_text(cells % '{"daytona_kernel_interp": {"schema": 2}}', encoding="utf-8")
    before = os.getcwd()
    os.chdir(folder)
    try:
        with (
            mock.patch.dict("os.environ", {"JUPYTER_RUNTIME_DIR": str(folder / "runtime")}),
            mock.patch.object(LocalSandbox, "start", side_effect=KernelError("a sandbox was to be started")) as started,
        ):
            calls = [*_sandboxes(), *_interpreters(), *_recordings(), *_sessions()]
            texts = [f"{shown}\n    {_raised(call)}\n" for shown, call in calls]
    finally:
        os.chdir(before)
    assert not started.called, [text for text in texts if "to be started" in text]
    return "\n".join(texts).replace(str(folder), "FOLDER").replace(str(GOLDEN), "GOLDEN")


def _raised(call: Callable[[], Any]) -> str:
    try:
        returned = call()
    except Exception as error:
        bases = [each.__name__ for each in type(error).__mro__]
        classes = " < ".join(bases[: bases.index("Exception")] if "Exception" in bases else bases)
        text = re.sub(r"(unexpected keyword argument '\w+').*", r"\1", str(error))  # Python 3.13 may suggest another
        return f"{classes}: {text}".replace("\n", "\n    ")
    return f"returns {type(returned).__name__}"


def _shown(options: dict[str, Any]) -> str:
    return ", ".join(f"{name}={value!r}" for name, value in options.items())
