"""The ``interpreter=`` keyword of ``dspy.RLM``, where DSPy dropped it (3.3 and later).

Up to 3.2.1 ``dspy.RLM(signature, interpreter=obj)`` runs on an interpreter that the caller owns: not shut down, its
state kept between calls. Later versions take ``interpreter_factory`` only. :func:`install` wraps ``RLM.__init__`` so
that both spellings work; nothing else of DSPy is touched. The environment variable
``DAYTONA_KERNEL_RLM_KEYWORD=off`` leaves ``dspy.RLM`` alone.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import inspect
import threading
import weakref
from typing import Any

import dspy

from ..config import rlm_keyword_wanted
from ..recording.dspy_callback import attached


class LeaseFactory:
    """The factory that RLM gets: lends the caller's interpreter to one run at a time.

    Whoever asks while it is lent (a nested RLM, another thread) gets a fresh interpreter of the same configuration,
    which RLM shuts down itself.
    """

    def __init__(self, interpreter: Any) -> None:
        self._interpreter = interpreter
        self._lease_lock = threading.Lock()
        self._own_tools: dict[str, Any] = {}
        self._own_instructions = ""

    @property
    def execution_instructions(self) -> str:
        """The interpreter's instructions with its own tools; RLM reads them from the factory, also during a run."""
        if self._lease_lock.locked():  # the interpreter has the tools of the run, which RLM lists itself
            return self._own_instructions
        return str(getattr(self._interpreter, "execution_instructions", ""))

    def __call__(self) -> Any:
        """Return a lease on the interpreter, or a fresh one."""
        own_instructions = self.execution_instructions
        if self._lease_lock.acquire(blocking=False):
            self._own_instructions = own_instructions
            self._own_tools = dict(self._interpreter.tools)
            return InterpreterLease(self._interpreter, self._lease_lock)
        spawn = getattr(self._interpreter, "spawn", None)
        if spawn is None:
            raise dspy.primitives.code_interpreter.CodeInterpreterError(
                f"{type(self._interpreter).__name__} is in use by another run and has no spawn(): "
                "pass interpreter_factory= instead."
            )
        fresh = spawn()
        fresh.tools.clear()  # those of the run that has the interpreter are not this one's
        fresh.tools.update(self._own_tools)
        return fresh

    def __deepcopy__(self, memo: dict[int, Any]) -> LeaseFactory:
        """Copy the interpreter by its own rules."""
        return LeaseFactory(copy.deepcopy(self._interpreter, memo))

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the interpreter by its own rules."""
        return LeaseFactory, (self._interpreter,)


class InterpreterLease:
    """The interpreter for one run: all of it, except that ``shutdown()`` only gives it back.

    The run's tools and output fields are taken out again then.
    """

    def __init__(self, interpreter: Any, lease_lock: threading.Lock) -> None:
        fields = getattr(interpreter, "output_fields", None)
        self.__dict__["_lease"] = (interpreter, dict(interpreter.tools), fields)
        # Called once, by shutdown() or when a lease that nobody gave back is dropped.
        self.__dict__["_release"] = weakref.finalize(self, lease_lock.release)
        self.__dict__["_callback"] = contextlib.ExitStack()
        if getattr(interpreter, "recording_wanted", False):
            self._callback.enter_context(attached())  # for the context that this run is in

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # copy and pickle look for theirs before there is a lease
            raise AttributeError(name)
        return getattr(self._lease[0], name)

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        """Copy the interpreter by its own rules; a loan cannot be doubled."""
        return copy.deepcopy(self._lease[0], memo)

    def __copy__(self) -> Any:
        """Copy the interpreter by its own rules; a loan cannot be doubled."""
        return copy.copy(self._lease[0])

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the interpreter by its own rules."""
        return tuple(self._lease[0].__reduce__())

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._lease[0], name, value)

    # isinstance() against DSPy's protocol looks for these four without calling __getattr__ (Python 3.12 and later).

    @property
    def tools(self) -> Any:
        """The interpreter's tools."""
        return self._lease[0].tools

    def start(self) -> None:
        """Start the interpreter."""
        self._lease[0].start()

    def execute(self, code: str, variables: dict[str, Any] | None = None) -> Any:
        """Execute on the interpreter."""
        return self._lease[0].execute(code, variables)

    def shutdown(self) -> None:
        """Give the interpreter back as it was lent, its variables apart. Calling it again does nothing."""
        if not self._release.alive:
            return
        with contextlib.suppress(ValueError):  # shut down in another context than it was lent in, which has ended
            self._callback.close()
        interpreter, tools, fields = self._lease
        interpreter.tools.clear()
        interpreter.tools.update(tools)
        if hasattr(interpreter, "output_fields"):
            interpreter.output_fields = fields
        self._release()


def install() -> bool:
    """Give ``dspy.RLM`` the keyword; return whether anything was changed.

    Nothing is where DSPy has the keyword itself, where it was installed before, or where the off switch is set.
    """
    original = dspy.RLM.__init__
    signature = inspect.signature(original)
    if "interpreter" in signature.parameters or not rlm_keyword_wanted():
        return False

    @functools.wraps(original)
    def __init__(self: Any, *args: Any, interpreter: Any = None, **kwargs: Any) -> None:
        if interpreter is not None:
            if "interpreter_factory" in kwargs:
                raise TypeError("pass interpreter= or interpreter_factory=, not both")
            if isinstance(interpreter, type) or not isinstance(interpreter, dspy.CodeInterpreter):
                what = interpreter.__name__ if isinstance(interpreter, type) else type(interpreter).__name__
                raise TypeError(f"interpreter= takes an interpreter object such as KernelInterpreter(), not {what}")
            kwargs["interpreter_factory"] = LeaseFactory(interpreter)
        original(self, *args, **kwargs)

    keyword = inspect.Parameter("interpreter", inspect.Parameter.KEYWORD_ONLY, default=None)
    __init__.__signature__ = signature.replace(parameters=[*signature.parameters.values(), keyword])  # type: ignore[attr-defined]
    dspy.RLM.__init__ = __init__  # type: ignore[method-assign]
    return True
