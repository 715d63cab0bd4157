"""The ``interpreter=`` keyword on any version of DSPy, and the lease of the caller's interpreter."""

from __future__ import annotations

import copy
import gc
import inspect
import pickle
from typing import TYPE_CHECKING, Any

import pytest

dspy = pytest.importorskip("dspy")

from daytona_kernel_interp.interpreter.rlm_patch import InterpreterLease, LeaseFactory, install  # noqa: E402  (imports dspy)

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.dspy


class FakeInterpreter:
    """An interpreter that records the calls of RLM."""

    execution_instructions = "Be brief."

    def __init__(self, tools: dict[str, Callable[..., object]] | None = None) -> None:
        self.tools: dict[str, Callable[..., object]] = dict(tools or {})
        self.output_fields: list[dict[str, str]] | None = None
        self.done: list[Any] = []

    def start(self) -> None:
        self.done.append("start")

    def execute(self, code: str, variables: dict[str, Any] | None = None) -> Any:
        self.done.append((code, variables))
        return code

    def shutdown(self) -> None:
        self.done.append("shutdown")

    def spawn(self) -> FakeInterpreter:
        return FakeInterpreter(self.tools)


class Unspawnable(FakeInterpreter):
    """An interpreter without ``spawn``."""

    spawn = None  # type: ignore[assignment]


class FactoryRLM:
    """The constructor of ``dspy.RLM`` in the versions without the keyword."""

    def __init__(self, signature: str, *, interpreter_factory: Any = None) -> None:
        self.signature, self.factory = signature, interpreter_factory


class KeywordRLM:
    """The constructor of ``dspy.RLM`` in the versions with the keyword."""

    def __init__(self, signature: str, *, interpreter: Any = None) -> None:
        self.interpreter = interpreter


def tool() -> str:
    return "t"


@pytest.fixture
def patched(monkeypatch: pytest.MonkeyPatch) -> type[FactoryRLM]:
    """A fresh RLM class with the keyword installed."""
    monkeypatch.delenv("DAYTONA_KERNEL_RLM_KEYWORD", raising=False)
    fresh = type("RLM", (FactoryRLM,), {"__init__": FactoryRLM.__init__})
    monkeypatch.setattr(dspy, "RLM", fresh)
    assert install() is True
    return fresh


# --- lending ----------------------------------------------------------------------------------------


def test_a_lease_is_the_interpreter_for_one_run() -> None:
    """The run's calls reach the interpreter; its shutdown does not."""
    interpreter = FakeInterpreter()
    lease = LeaseFactory(interpreter)()
    lease.start()
    assert lease.execute("1", {"a": 2}) == "1"
    assert lease.execute("2") == "2"
    lease.shutdown()
    assert interpreter.done == ["start", ("1", {"a": 2}), ("2", None)]


def test_a_lease_reads_and_writes_through() -> None:
    """Attributes that RLM sets are set on the interpreter, and those that it reads are read from it."""
    interpreter = FakeInterpreter()
    lease: Any = LeaseFactory(interpreter)()
    lease.output_fields = [{"name": "answer"}]
    lease.tools["f"] = tool
    assert (interpreter.output_fields, interpreter.tools) == ([{"name": "answer"}], {"f": tool})
    assert lease.execution_instructions == "Be brief."
    with pytest.raises(AttributeError):
        _ = lease.nope


def test_the_interpreter_comes_back_as_it_was_lent() -> None:
    """The run's tools and output fields are removed; the dict stays the caller's own object."""
    interpreter = FakeInterpreter({"own": tool})
    tools = interpreter.tools
    lease: Any = LeaseFactory(interpreter)()
    lease.tools["llm_query"] = tool
    del lease.tools["own"]
    lease.output_fields = [{"name": "answer"}]
    lease.shutdown()
    assert interpreter.tools is tools
    assert (interpreter.tools, interpreter.output_fields) == ({"own": tool}, None)


def test_one_run_at_a_time() -> None:
    """While the interpreter is lent, the factory returns a fresh one; afterwards it lends it again."""
    interpreter = FakeInterpreter()
    borrowed = LeaseFactory(interpreter)
    lease, fresh = borrowed(), borrowed()
    assert isinstance(lease, InterpreterLease)
    assert isinstance(fresh, FakeInterpreter)
    assert fresh is not interpreter
    lease.shutdown()
    again = borrowed()
    assert isinstance(again, InterpreterLease)
    again.execute("1")
    assert interpreter.done == [("1", None)]


def test_a_second_shutdown_does_not_end_the_next_lease() -> None:
    """A lease is returned once: a late second shutdown changes neither the lock nor the next run's tools."""
    interpreter = FakeInterpreter()
    borrowed = LeaseFactory(interpreter)
    first = borrowed()
    first.shutdown()
    second = borrowed()
    second.tools["f"] = tool
    first.shutdown()
    assert interpreter.tools == {"f": tool}
    assert not isinstance(borrowed(), InterpreterLease)


def test_an_interpreter_that_cannot_spawn_says_so() -> None:
    """The error names the class and the alternative."""
    borrowed = LeaseFactory(Unspawnable())
    lease = borrowed()
    with pytest.raises(dspy.primitives.code_interpreter.CodeInterpreterError, match=r"Unspawnable is in use.*factory"):
        borrowed()
    lease.shutdown()


def test_a_fresh_interpreter_has_the_callers_own_tools_only() -> None:
    """While the interpreter is lent, a fresh one does not get the tools of that run."""
    borrowed = LeaseFactory(FakeInterpreter({"own": tool}))
    lease = borrowed()
    lease.tools["of the run"] = tool
    assert borrowed().tools == {"own": tool}
    lease.shutdown()


def test_a_lease_that_is_dropped_is_given_back() -> None:
    """An interpreter whose run never shut it down is returned when its lease is garbage collected."""
    borrowed = LeaseFactory(Unspawnable())
    borrowed()
    gc.collect()
    assert isinstance(borrowed(), InterpreterLease)


def test_a_lease_is_a_code_interpreter() -> None:
    """DSPy checks the factory's result against its protocol."""
    assert isinstance(LeaseFactory(FakeInterpreter())(), dspy.CodeInterpreter)


def test_instructions_are_read_from_the_factory() -> None:
    """RLM reads the instructions from the factory, not from the interpreter."""
    assert LeaseFactory(FakeInterpreter()).execution_instructions == "Be brief."
    assert LeaseFactory(object()).execution_instructions == ""  # type: ignore[arg-type]


def test_instructions_do_not_list_the_tools_of_the_run() -> None:
    """RLM reads them again at each step; they stay those of the interpreter as it was lent."""

    class Listing(FakeInterpreter):
        """An interpreter that lists its tools."""

        @property
        def execution_instructions(self) -> str:  # type: ignore[override]
            return f"Tools: {', '.join(self.tools)}"

    factory = LeaseFactory(Listing({"own": tool}))
    lease = factory()
    lease.tools["of_the_run"] = tool
    assert factory.execution_instructions == "Tools: own"
    lease.shutdown()
    assert factory.execution_instructions == "Tools: own"


def test_copies_are_free_to_be_lent() -> None:
    """A deep copy and a pickle have an interpreter of their own, which is not lent."""
    interpreter = FakeInterpreter({"f": tool})
    borrowed = LeaseFactory(interpreter)
    borrowed()
    for duplicate in (copy.deepcopy(borrowed), pickle.loads(pickle.dumps(borrowed))):
        lease = duplicate()
        assert isinstance(lease, InterpreterLease)
        lease.execute("1")
        assert lease.tools == {"f": tool}
    assert interpreter.done == []


# --- the keyword ------------------------------------------------------------------------------------


def test_both_spellings_work(patched: Any) -> None:
    """``interpreter=`` becomes a lease factory; ``interpreter_factory=`` is passed on unchanged."""
    interpreter = FakeInterpreter()
    lease = patched("q -> a", interpreter=interpreter).factory()
    lease.execute("1")
    assert interpreter.done == [("1", None)]
    assert patched("q -> a", interpreter_factory=FakeInterpreter).factory is FakeInterpreter
    assert patched("q -> a").factory is None


def test_the_keyword_shows_in_the_signature(patched: Any) -> None:
    """``help(dspy.RLM)`` and editors show it, behind the unchanged parameters."""
    parameters = inspect.signature(vars(patched)["__init__"]).parameters
    assert list(parameters) == ["self", "signature", "interpreter_factory", "interpreter"]


def test_installing_twice_changes_nothing(patched: Any) -> None:
    """The second call finds the keyword and returns False."""
    first = vars(patched)["__init__"]
    assert install() is False
    assert vars(patched)["__init__"] is first


def test_both_at_once_are_refused(patched: Any) -> None:
    """The two keywords exclude each other."""
    with pytest.raises(TypeError, match="not both"):
        patched("q -> a", interpreter=FakeInterpreter(), interpreter_factory=FakeInterpreter)


@pytest.mark.parametrize(("wrong", "named"), [(FakeInterpreter, "FakeInterpreter"), (5, "int"), ("local", "str")])
def test_what_is_no_interpreter_is_refused(patched: Any, wrong: Any, named: str) -> None:
    """The error names the class, or the type of the object."""
    with pytest.raises(TypeError, match=f"not {named}$"):
        patched("q -> a", interpreter=wrong)


class RenamedRLM:
    """The constructor of ``dspy.RLM`` in the versions that call the limit ``max_iters``."""

    def __init__(self, signature: str, max_iters: int = 20, *, interpreter_factory: Any = None) -> None:
        self.max_iters = max_iters


@pytest.mark.parametrize("options", [{}, {"interpreter_factory": FakeInterpreter}, {"interpreter": FakeInterpreter()}])
def test_the_earlier_name_of_the_limit_works(
    options: dict[str, Any], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """``max_iterations=`` is passed on as ``max_iters=``, with one line in the log."""
    fresh: Any = type("RLM", (RenamedRLM,), {"__init__": RenamedRLM.__init__})
    monkeypatch.setattr(dspy, "RLM", fresh)
    assert install() is True
    assert fresh("q -> a", max_iters=6, **options).max_iters == 6
    assert caplog.messages == []
    assert fresh("q -> a", max_iterations=7, **options).max_iters == 7
    assert [message for message in caplog.messages if "max_iters=" in message] == caplog.messages
    assert len(caplog.messages) == 1
    with pytest.raises(TypeError, match="not both"):
        fresh("q -> a", max_iterations=7, max_iters=6, **options)
    with pytest.raises(TypeError):
        fresh("q -> a", 5, max_iterations=7, **options)


def test_an_unknown_limit_is_left_to_dspy(patched: Any) -> None:
    """A version with neither name refuses it in its own words."""
    with pytest.raises(TypeError, match="max_iterations"):
        patched("q -> a", max_iterations=5)


@pytest.mark.parametrize("value", ["off", "OFF", "0", "false", "no"])
def test_the_switch_leaves_dspy_alone(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    """With the environment variable off, RLM is not changed."""
    monkeypatch.setenv("DAYTONA_KERNEL_RLM_KEYWORD", value)
    fresh = type("RLM", (FactoryRLM,), {"__init__": FactoryRLM.__init__})
    monkeypatch.setattr(dspy, "RLM", fresh)
    assert install() is False
    assert vars(fresh)["__init__"] is FactoryRLM.__init__


def test_where_dspy_has_the_keyword_nothing_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    """A version of DSPy that has the keyword is not changed."""
    monkeypatch.setattr(dspy, "RLM", KeywordRLM)
    original = KeywordRLM.__init__
    assert install() is False
    assert KeywordRLM.__init__ is original


def test_the_real_rlm_takes_the_keyword() -> None:
    """On the installed version of DSPy, ``dspy.RLM(..., interpreter=...)`` builds a module."""
    install()
    assert isinstance(dspy.RLM("question -> answer", interpreter=FakeInterpreter()), dspy.Module)
    dspy.RLM("question -> answer", interpreter=FakeInterpreter(), max_iterations=3)  # as in Daytona's guide
