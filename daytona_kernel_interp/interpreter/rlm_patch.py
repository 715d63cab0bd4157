"""The ``interpreter=`` keyword of ``dspy.RLM``, for the versions of DSPy that dropped it (3.3 and later).

Up to 3.2.1 ``dspy.RLM(signature, interpreter=obj)`` runs on an interpreter that belongs to the caller: it is not shut
down, and its state is kept between calls. Later versions take ``interpreter_factory`` only. :func:`install` wraps
``RLM.__init__`` so that both spellings work; nothing else of DSPy is changed. It also accepts ``max_iterations=``, the
earlier name of ``max_iters=``. The environment variable ``DAYTONA_KERNEL_RLM_KEYWORD=off`` leaves ``dspy.RLM`` as it
is.

RLM gets a :class:`LeaseFactory`, which lends the caller's interpreter to one run at a time. The run works on an
:class:`InterpreterLease`, whose ``shutdown()`` only returns the interpreter. A nested RLM, or a run in another thread,
gets a fresh interpreter of the same configuration meanwhile; RLM shuts that down itself.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import inspect
import logging
import threading
import weakref
from typing import TYPE_CHECKING, Any

import dspy

from ..config import rlm_keyword_wanted
from ..recording.dspy_callback import attached
from .dspy_compat import CodeInterpreterError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

log = logging.getLogger(__name__)


class LeaseFactory:
    """The interpreter factory of one caller's interpreter, which it lends to one run at a time."""

    def __init__(self, interpreter: dspy.CodeInterpreter) -> None:
        self._interpreter = interpreter
        self._lease_lock = threading.Lock()
        self._own_tools: dict[str, Callable[..., object]] = {}
        self._own_instructions = ""

    @property
    def execution_instructions(self) -> str:
        """The interpreter's instructions with its own tools; RLM reads them from the factory, also during a run."""
        if self._lease_lock.locked():  # the interpreter has the tools of the run, which RLM lists itself
            return self._own_instructions
        return str(getattr(self._interpreter, "execution_instructions", ""))

    def __call__(self) -> dspy.CodeInterpreter:
        """Return a lease on the interpreter, or a fresh interpreter while it is lent.

        Raises:
            CodeInterpreterError: If it is lent and has no ``spawn()``.
        """
        own_instructions = self.execution_instructions
        if self._lease_lock.acquire(blocking=False):
            self._own_instructions = own_instructions
            self._own_tools = dict(self._interpreter.tools)
            return InterpreterLease(self._interpreter, self._lease_lock)
        spawn: Callable[[], dspy.CodeInterpreter] | None = getattr(self._interpreter, "spawn", None)
        if spawn is None:
            raise CodeInterpreterError(
                f"{type(self._interpreter).__name__} is in use by another run and has no spawn(): "
                "pass interpreter_factory= instead."
            )
        fresh = spawn()
        fresh.tools.clear()  # it may have copied the tools of the run that has the interpreter
        fresh.tools.update(self._own_tools)
        return fresh

    async def _start_for_rlm(self) -> None:
        """Start the interpreter before ``RLM.acall`` borrows it, without blocking the loop; does nothing if it runs."""
        start: Callable[[], Awaitable[None]] | None = getattr(self._interpreter, "_start_for_rlm", None)
        if start is not None and not self._lease_lock.locked():
            await start()

    def __reduce__(self) -> tuple[object, ...]:
        """Pickle or copy the interpreter, by its own rules."""
        return LeaseFactory, (self._interpreter,)


def _lent(name: str) -> Any:
    """Return a property that is the interpreter's attribute of this name."""
    return property(lambda lease: getattr(lease._lease[0], name))


class InterpreterLease:
    """An interpreter lent to one run: everything reaches the interpreter, but ``shutdown()`` only returns it.

    The run's tools and output fields are removed from it then.
    """

    def __init__(self, interpreter: dspy.CodeInterpreter, lease_lock: threading.Lock) -> None:
        fields = getattr(interpreter, "output_fields", None)
        self.__dict__["_lease"] = (interpreter, dict(interpreter.tools), fields)
        # Called once, by shutdown() or when a lease that was never returned is dropped.
        self.__dict__["_release"] = weakref.finalize(self, lease_lock.release)
        self.__dict__["_callback"] = contextlib.ExitStack()
        if getattr(interpreter, "recording_wanted", False):
            self._callback.enter_context(attached())  # for the context of this run

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # copy and pickle look special methods up before __init__ has run
            raise AttributeError(name)
        return getattr(self._lease[0], name)

    def __deepcopy__(self, memo: dict[int, object]) -> object:
        """Return a deep copy of the interpreter: a lease cannot be copied."""
        return copy.deepcopy(self._lease[0], memo)

    def __reduce__(self) -> tuple[object, ...]:
        """Pickle or copy the interpreter, by its own rules: a lease cannot be copied."""
        return tuple(self._lease[0].__reduce__())

    def __setattr__(self, name: str, value: object) -> None:
        setattr(self._lease[0], name, value)

    # isinstance() against DSPy's protocol finds these without __getattr__ (Python 3.12 and later).
    tools = _lent("tools")
    start = _lent("start")
    execute = _lent("execute")

    def shutdown(self) -> None:
        """Return the interpreter as it was lent; its variables stay changed. Calling it again does nothing."""
        if not self._release.alive:
            return
        with contextlib.suppress(ValueError):  # another context than at the start, and that one has ended
            self._callback.close()
        interpreter, tools, fields = self._lease
        interpreter.tools.clear()
        interpreter.tools.update(tools)
        if hasattr(interpreter, "output_fields"):
            interpreter.output_fields = fields
        self._release()


def install() -> bool:
    """Give ``dspy.RLM`` the keyword, and return whether anything was changed.

    Nothing is changed if DSPy has the keyword itself, if it was installed before, or if the environment forbids it.
    """
    original = dspy.RLM.__init__
    signature = inspect.signature(original)
    if "interpreter" in signature.parameters or not rlm_keyword_wanted():
        return False
    renamed = "max_iters" in signature.parameters and "max_iterations" not in signature.parameters

    @functools.wraps(original)
    def __init__(self: dspy.RLM, *args: object, interpreter: object = None, **kwargs: object) -> None:
        if interpreter is not None:
            if "interpreter_factory" in kwargs:
                raise TypeError("pass interpreter= or interpreter_factory=, not both")
            if isinstance(interpreter, type) or not isinstance(interpreter, dspy.CodeInterpreter):
                what = interpreter.__name__ if isinstance(interpreter, type) else type(interpreter).__name__
                raise TypeError(f"interpreter= takes an interpreter object such as KernelInterpreter(), not {what}")
            kwargs["interpreter_factory"] = LeaseFactory(interpreter)
        if "max_iterations" in kwargs and renamed:
            if "max_iters" in kwargs:
                raise TypeError("pass max_iters= or max_iterations=, not both")
            log.warning("this version of DSPy calls RLM's max_iterations= max_iters=; it is passed on as that")
            kwargs["max_iters"] = kwargs.pop("max_iterations")
        original(self, *args, **kwargs)  # type: ignore[arg-type]  # RLM checks its own arguments

    keyword = inspect.Parameter("interpreter", inspect.Parameter.KEYWORD_ONLY, default=None)
    __init__.__signature__ = signature.replace(parameters=[*signature.parameters.values(), keyword])  # type: ignore[attr-defined]
    dspy.RLM.__init__ = __init__  # type: ignore[method-assign]
    return True
