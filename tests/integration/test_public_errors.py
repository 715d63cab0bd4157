"""The same mistake raises the same class everywhere, and the package's errors are caught around ``execute``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from daytona_kernel_interp import (
    CellNotRun,
    KernelDied,
    KernelError,
    KernelInterpreter,
    SessionNotFound,
    live,
)
from daytona_kernel_interp.interpreter.interpreter import CodeExecutionError, CodeInterpreterError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = pytest.mark.dspy


@pytest.fixture(scope="module")
def interp() -> Iterator[KernelInterpreter]:
    with KernelInterpreter(sandbox="local") as interpreter:
        interpreter.execute("connection = open('/dev/null')")
        yield interpreter


# The mistake, its class, the ways to make it.
MISTAKES: dict[str, tuple[type[Exception], dict[str, Callable[[KernelInterpreter], Any]]]] = {
    "unknown variable": (
        NameError,
        {
            "get": lambda interp: interp.get("nothing"),
            "inspect": lambda interp: interp.inspect("nothing"),
            "live().get": lambda interp: live(interp.session_id).get("nothing"),
            "live().inspect": lambda interp: live(interp.session_id).inspect("nothing"),
        },
    ),
    "value that cannot leave the sandbox": (
        TypeError,
        {
            "get": lambda interp: interp.get("connection"),
            "live().get": lambda interp: live(interp.session_id).get("connection"),
        },
    ),
    "value that cannot be sent": (
        TypeError,
        {
            "execute": lambda interp: interp.execute("1", {"v": print}),
            "run": lambda interp: interp.run("1", {"v": print}),
            "put": lambda interp: interp.put(v=print),
        },
    ),
    "name that is not an identifier": (
        ValueError,
        {
            "execute": lambda interp: interp.execute("1", {"two words": 1}),
            "run": lambda interp: interp.run("1", {"two words": 1}),
            "put": lambda interp: interp.put(**{"two words": 1}),
            "get": lambda interp: interp.get("two words"),
        },
    ),
    "unknown session": (
        SessionNotFound,
        {
            "attach": lambda interp: KernelInterpreter.attach("nothing"),
            "live": lambda interp: live("nothing"),
        },
    ),
    "session whose host is alive, or gone where it has to live": (
        SessionNotFound,
        {"attach": lambda interp: KernelInterpreter.attach(interp.session_id)},
    ),
    "no session": (
        SessionNotFound,
        {
            "session_id": lambda interp: interp.spawn().session_id,
            "connection_file": lambda interp: interp.spawn().connection_file,
            "inspect": lambda interp: interp.spawn().inspect(),
            "view": lambda interp: interp.spawn().view(),
        },
    ),
}
WAYS = [(mistake, way) for mistake, (_, ways) in MISTAKES.items() for way in ways]


@pytest.mark.parametrize(("mistake", "way"), WAYS, ids=[f"{mistake}, {way}" for mistake, way in WAYS])
def test_the_same_mistake_raises_the_same_class(interp: KernelInterpreter, mistake: str, way: str) -> None:
    """Whatever DSPy needs besides; a method of the interpreter raises one of DSPy's classes, too."""
    error, ways = MISTAKES[mistake]
    with pytest.raises(error) as caught:
        ways[way](interp)
    assert isinstance(caught.value, CodeInterpreterError) == (not way.startswith("live"))
    assert interp.execute("1 + 1") == 2


def test_a_dead_kernel_is_caught_by_either_class() -> None:
    """``except KernelDied`` has the exit code; every further call raises, and so do the other ways in."""
    with KernelInterpreter(sandbox="local") as interpreter:
        with pytest.raises(KernelDied) as caught:
            interpreter.execute("import os; print('before', flush=True); os._exit(3)")
        assert isinstance(caught.value, CodeInterpreterError)
        if CodeExecutionError is not CodeInterpreterError:
            assert not isinstance(caught.value, CodeExecutionError)
        assert caught.value.exit_code == 3
        assert str(caught.value).startswith("KernelDied: ")
        assert isinstance(caught.value.__cause__, KernelDied)
        for call in (interpreter.execute, interpreter.run, interpreter.get):
            with pytest.raises(CodeInterpreterError, match="cannot run code any more"):
                call("a")


def test_a_sandbox_that_does_not_start_is_caught_by_either_class(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error of the environment's choice is a KernelError as well."""
    monkeypatch.setenv("DAYTONA_KERNEL_SANDBOX", "nowhere")
    with pytest.raises(KernelError) as caught:
        KernelInterpreter().start()
    assert isinstance(caught.value, CodeInterpreterError)
    assert not isinstance(caught.value, CellNotRun)
