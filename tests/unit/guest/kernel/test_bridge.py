"""The kernel's end of the bridge, on a session that collects what it sends."""

from __future__ import annotations

import asyncio
import inspect
import threading
import types
from typing import TYPE_CHECKING, Any, cast

import comm
import pytest

from daytona_kernel_interp.codec import values
from daytona_kernel_interp.guest.kernel.bridge import Bridge
from daytona_kernel_interp.guest.kernel.submit import SubmitSignal
from daytona_kernel_interp.guest.kernel.tool_errors import ToolError
from daytona_kernel_interp.wire.comm import OutputField, Parameter, Preamble, ToolFailure, ToolSpec

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from jupyter_client.session import Session

pytestmark = pytest.mark.kernel

PARENT = {"header": {"msg_id": "cell"}}
ASK = ToolSpec("ask", "Ask.", (Parameter("question", 1), Parameter("n", 3, "5")))


class CollectingSession:
    """A session that answers each request by ``on_send``, as the host would in another thread."""

    def __init__(self) -> None:
        self.sent: list[tuple[dict[str, Any], list[Any]]] = []
        self.order: list[str] = []
        self.on_send: Callable[[dict[str, Any], list[Any]], None] = lambda data, buffers: None

    def send(self, socket: object, kind: str, content: dict[str, Any], *, buffers: list[Any], **kwargs: object) -> None:
        assert (kind, kwargs["parent"]) == ("comm_msg", PARENT)
        self.order.append("message")
        self.sent.append((content["data"], buffers))
        self.on_send(content["data"], buffers)

    def flush(self) -> None:
        self.order.append("flush")


@pytest.fixture
def session() -> CollectingSession:
    return CollectingSession()


@pytest.fixture
def bridge(session: CollectingSession, monkeypatch: pytest.MonkeyPatch) -> Bridge:
    monkeypatch.setattr(comm, "create_comm", lambda target_name: types.SimpleNamespace(comm_id=target_name))
    return Bridge(cast("Session", session), None, [session])


def begin(bridge: Bridge, namespace: dict[str, Any], **preamble: Any) -> None:
    bridge.begin_cell(PARENT, Preamble(**preamble), namespace)


def answer_with(bridge: Bridge, value: object, op: str = "result") -> Callable[[dict[str, Any], list[Any]], None]:
    def on_send(data: dict[str, Any], buffers: list[Any]) -> None:
        reply = {"op": op, "id": data["id"]}
        arguments = (reply, values.dumps(value))
        threading.Thread(target=bridge.on_control, args=arguments, kwargs={"async_cell": False}).start()

    return on_send


def test_what_a_cell_has_in_its_namespace(bridge: Bridge) -> None:
    """Tools with signature and text, SUBMIT, ToolError and variables; a variable hides a tool of its name."""
    namespace: dict[str, Any] = {}
    begin(bridge, namespace, tools=(ASK, ToolSpec("x")), variables={"x": 1})
    assert (namespace["x"], namespace["ToolError"]) == (1, ToolError)
    assert str(inspect.signature(namespace["ask"])) == "(question, *, n=5)"
    assert (namespace["ask"].__doc__, namespace["ask"].__name__, namespace["ask"].aio.__name__) == (
        "Ask.",
        "ask",
        "ask",
    )
    assert set(bridge.bound_callables()) == {"ask", "x", "SUBMIT", "ToolError"}


def test_tools_of_the_next_cell(bridge: Bridge) -> None:
    """An unchanged tool stays the same object, an overwritten one comes back, one no longer offered goes."""
    namespace: dict[str, Any] = {}
    begin(bridge, namespace, tools=(ASK, ToolSpec("old"), ToolSpec("mine")))
    ask, submit = namespace["ask"], namespace["SUBMIT"]
    namespace.update(ask=None, SUBMIT=None, mine="a value of the code's own")
    begin(bridge, namespace, tools=(ASK,))
    assert (namespace["ask"], namespace["SUBMIT"]) == (ask, submit)
    assert "old" not in namespace
    assert namespace["mine"] == "a value of the code's own"
    begin(bridge, namespace, tools=(ToolSpec("ask", "Changed."),), fields=(OutputField("answer"),))
    assert namespace["ask"] is not ask
    assert namespace["SUBMIT"] is not submit


def test_a_call_and_its_result(bridge: Bridge, session: CollectingSession) -> None:
    """The request follows the printed text and has the arguments; the result comes back as a value."""
    namespace: dict[str, Any] = {}
    begin(bridge, namespace, tools=(ASK,))
    session.on_send = answer_with(bridge, {"a": (1, 2)})
    assert namespace["ask"]("why", n=2) == {"a": (1, 2)}
    (data, buffers) = session.sent[0]
    assert {key: data[key] for key in ("op", "id", "name")} == {"op": "call", "id": 1, "name": "ask"}
    assert values.loads(buffers) == [["why"], {"n": 2}]
    assert session.order == ["flush", "message"]
    assert bridge.pending_calls() == []


async def test_an_async_call(bridge: Bridge, session: CollectingSession) -> None:
    """``tool.aio`` waits in the event loop; many calls are pending at once."""
    namespace: dict[str, Any] = {}
    begin(bridge, namespace, tools=(ASK,))
    calls = [asyncio.create_task(namespace["ask"].aio(number)) for number in range(3)]
    await asyncio.sleep(0)  # each task sends its request in its first step
    assert [name for name, _ in bridge.pending_calls()] == ["ask"] * 3
    for call_id in (3, 1, 2):
        bridge.on_control({"op": "result", "id": call_id}, values.dumps(call_id), async_cell=True)
    assert await asyncio.gather(*calls) == [1, 2, 3]


def test_a_failed_call_raises_in_the_cell(bridge: Bridge, session: CollectingSession) -> None:
    """The failure of the tool is an exception of its kind; the call is not pending any more."""
    namespace: dict[str, Any] = {}
    begin(bridge, namespace, tools=(ASK,))
    failure = ToolFailure("KeyError", ("KeyError",), "'x'")
    session.on_send = answer_with(bridge, failure.to_value(), "error")
    with pytest.raises(KeyError):
        namespace["ask"]("x")
    assert bridge.pending_calls() == []


def test_an_argument_that_cannot_be_sent(bridge: Bridge, session: CollectingSession) -> None:
    """The call fails before anything is sent, and says which type it is."""
    namespace: dict[str, Any] = {}
    begin(bridge, namespace, tools=(ASK,))
    with pytest.raises(TypeError, match=r"ask\(\) cannot send this argument to the host"):
        namespace["ask"](object())
    assert (session.sent, bridge.pending_calls()) == ([], [])


def test_a_submission(bridge: Bridge, session: CollectingSession) -> None:
    """SUBMIT sends its fields and ends the cell; without declared fields it sends plain JSON."""
    namespace: dict[str, Any] = {}
    begin(bridge, namespace, fields=(OutputField("answer"),))
    with pytest.raises(SubmitSignal):
        namespace["SUBMIT"](answer=(1, 2))
    begin(bridge, namespace)
    with pytest.raises(SubmitSignal):
        namespace["SUBMIT"]((1, 2))
    assert [data for data, _ in session.sent] == [{"op": "submit"}] * 2
    assert [values.loads(buffers) for _, buffers in session.sent] == [{"answer": (1, 2)}, {"output": [1, 2]}]
    begin(bridge, namespace, fields=(OutputField("answer"),))
    with pytest.raises(TypeError, match=r"SUBMIT\(\) cannot send this answer: .* Convert it to plain Python first"):
        namespace["SUBMIT"](object())


def test_a_submit_of_an_earlier_cell(bridge: Bridge, session: CollectingSession) -> None:
    """A thread that an earlier cell has started, and any code after the cell's end, is refused."""
    namespace: dict[str, Any] = {}
    begin(bridge, namespace)
    errors: list[BaseException] = []
    go = threading.Event()

    def submit_later() -> None:
        go.wait()
        try:
            namespace["SUBMIT"](1)
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=submit_later)
    thread.start()
    begin(bridge, namespace)
    go.set()
    thread.join()
    assert [type(error) for error in errors] == [RuntimeError]
    assert "the cell that made this call has ended" in str(errors[0])
    bridge.cell_ended()
    with pytest.raises(RuntimeError, match="the cell that made this call has ended"):
        namespace["SUBMIT"](1)
    assert session.sent == []


def test_the_last_expression(bridge: Bridge, session: CollectingSession) -> None:
    """A small value is returned for the reply, a large one is sent, and one that cannot be encoded is neither."""
    begin(bridge, {})
    assert bridge.send_value({"a": 1}) == bytes(values.dumps({"a": 1})[0]).decode()
    assert bridge.send_value(object()) is None
    assert session.sent == []
    assert bridge.send_value("x" * 10_000) is None
    assert (session.sent[0][0], values.loads(session.sent[0][1])) == ({"op": "value"}, "x" * 10_000)


def test_what_the_host_requests_after_a_cell(bridge: Bridge, session: CollectingSession, tmp_path: Path) -> None:
    """A variable by its name, or a step with a file."""
    begin(bridge, {})
    (tmp_path / "f").write_bytes(b"content")
    bridge.send_requested("x", {"x": [1]})
    bridge.send_requested({"do": "read", "path": str(tmp_path / "f"), "at": 0, "size": 9}, {})
    assert [values.loads(buffers) for _, buffers in session.sent] == [[1], b"content"]
    with pytest.raises(NameError, match="name 'y' is not defined"):
        bridge.send_requested("y", {})
    with pytest.raises(TypeError, match="variable 'y' cannot be sent to the host"):
        bridge.send_requested("y", {"y": object()})


def test_calls_of_a_host_that_is_gone(bridge: Bridge, session: CollectingSession) -> None:
    """The next host asks which calls are pending, and abandons those up to a number: they raise its error."""
    namespace: dict[str, Any] = {}
    begin(bridge, namespace, tools=(ASK,))
    errors: list[BaseException] = []

    def call() -> None:
        try:
            namespace["ask"](1)
        except ToolError as error:
            errors.append(error)

    sent = threading.Semaphore(0)
    session.on_send = lambda data, buffers: sent.release()
    threads = [threading.Thread(target=call) for _ in range(2)]
    for thread in threads:
        thread.start()
        assert sent.acquire(timeout=30)
    bridge.on_control({"op": "pending"}, [], async_cell=False)
    assert session.sent[-1][0] == {"op": "pending", "ids": [1, 2]}
    lost = values.dumps(ToolFailure("HostLost", ("ConnectionError",), "gone").to_value())
    for upto, abandoned in ((1, [1]), (None, [2])):
        bridge.on_control({"op": "abandon", "upto": upto}, lost, async_cell=False)
        assert session.sent[-1][0] == {"op": "abandoned", "ids": abandoned}
    for thread in threads:
        thread.join()
    assert [str(error) for error in errors] == ["HostLost: gone"] * 2
    assert all(isinstance(error, ConnectionError) for error in errors)


def test_late_and_unknown_replies_are_dropped(bridge: Bridge) -> None:
    """A reply to a call that has ended, or with an id that is no number, has no effect."""
    for call_id in (1, "1", None, [1]):
        bridge.on_control({"op": "result", "id": call_id}, values.dumps(1), async_cell=False)
    bridge.on_control({"op": "raise", "cell": "other"}, [], async_cell=False)
