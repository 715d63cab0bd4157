"""The exceptions that a failed tool raises in a cell."""

from __future__ import annotations

import builtins

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daytona_kernel_interp.guest.kernel.tool_errors import ToolError, to_exception
from daytona_kernel_interp.tools.binding import failure
from daytona_kernel_interp.wire.comm import ToolFailure

pytestmark = pytest.mark.python

BUILTINS = [
    cls
    for cls in vars(builtins).values()
    if isinstance(cls, type) and issubclass(cls, Exception) and not issubclass(cls, Warning)
]
NEED_MORE_THAN_A_MESSAGE = ("UnicodeDecodeError", "UnicodeEncodeError", "UnicodeTranslateError", "ExceptionGroup")


def bases(cls: type) -> tuple[str, ...]:
    """Return the names of base classes that the host sends for an exception class."""
    return tuple(c.__name__ for c in cls.__mro__ if c in BUILTINS and c is not Exception)


@pytest.mark.parametrize("cls", BUILTINS, ids=lambda cls: cls.__name__)
def test_every_builtin_exception_is_caught_by_its_kind(cls: type[Exception]) -> None:
    """The cell catches the host's error by its class, or by the nearest base class that takes one message."""
    error = to_exception(ToolFailure(cls.__name__, bases(cls), "m"))
    assert isinstance(error, ToolError)
    assert type(error).__name__ == cls.__name__
    assert str(error) == f"{cls.__name__}: m"
    if cls.__name__ not in NEED_MORE_THAN_A_MESSAGE:
        assert isinstance(error, cls)
    elif issubclass(cls, ValueError):
        assert isinstance(error, ValueError)


def test_a_custom_class_keeps_its_name_and_its_builtin_ancestor() -> None:
    """``except KeyError`` catches the host's subclass of it."""

    class NotFound(KeyError):
        pass

    error = to_exception(failure(NotFound("no 'x'")))
    assert type(error).__name__ == "NotFound"
    assert isinstance(error, KeyError)
    assert isinstance(error, RuntimeError)
    assert error.message == str(NotFound("no 'x'"))


def test_a_plain_failure_is_a_tool_error() -> None:
    """An exception without a builtin base class is a ToolError."""
    error = to_exception(ToolFailure("ApiDown", (), "503"))
    assert (error.type, error.message, str(error)) == ("ApiDown", "503", "ApiDown: 503")
    assert isinstance(error, ToolError)


def test_without_a_message_the_type_is_all() -> None:
    """Without a message, the text is the type without a colon."""
    assert str(to_exception(ToolFailure("ValueError", ("ValueError",), ""))) == "ValueError"


def test_equal_failures_share_a_class() -> None:
    """Equal failures have one class, however many calls fail."""
    first, second = (to_exception(ToolFailure("ApiDown", ("OSError",), text)) for text in "ab")
    assert type(first) is type(second)
    assert (str(first), str(second)) == ("ApiDown: a", "ApiDown: b")


@given(
    st.text(st.characters(codec="ascii", categories=["L", "N"]), min_size=1),
    st.lists(st.text(max_size=5) | st.sampled_from(["print", "int", "SystemExit", "ToolError", "OSError"])),
    st.text(),
)
def test_any_facts_make_a_tool_error(name: str, names: list[str], message: str) -> None:
    """Names that are not those of builtin exceptions are skipped."""
    error = to_exception(ToolFailure(name, tuple(names), message))
    assert isinstance(error, ToolError)
    assert not isinstance(error, SystemExit)
    assert (error.type, error.message) == (name, message)
