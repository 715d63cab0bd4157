"""Tests of ``wire.zmtp``, with libzmq as the peer where possible."""

from __future__ import annotations

import socket
import struct
from contextlib import contextmanager, nullcontext, suppress
from typing import TYPE_CHECKING

import pytest
import zmq
from hypothesis import given
from hypothesis import strategies as st

from daytona_kernel_interp.wire.hello import KERNEL_CHANNELS
from daytona_kernel_interp.wire.protocol_errors import RemoteProtocolError
from daytona_kernel_interp.wire.zmtp import (
    GREETING_BYTES,
    SOCKET_TYPES,
    AcceptingEnd,
    ConnectingEnd,
    check_greeting,
    ready,
)
from tests.unit import strategies

if TYPE_CHECKING:
    import random
    from collections.abc import Iterator

pytestmark = pytest.mark.kernel

# ZMTP 3.0 and 3.1 (RFC 23 and 37 of zeromq): signature, version, mechanism, as-server, filler.
GREETING = bytes.fromhex("ff00000000000000007f") + b"\x03\x00" + b"NULL" + bytes(16) + b"\0" + bytes(31)
READY = b"\x04\x29\x05READY\x0bSocket-Type\0\0\0\x06DEALER\x08Identity\0\0\0\x00"
WAIT_MS = 10_000
LARGEST_READY = 4096


@contextmanager
def libzmq(kind: int) -> Iterator[zmq.Socket[bytes]]:
    """Yield a socket of libzmq that waits for nothing when it closes."""
    with zmq.Context() as context, context.socket(kind) as peer:
        peer.linger = 0
        peer.rcvtimeo = peer.sndtimeo = WAIT_MS
        yield peer


def read(connection: socket.socket, size: int) -> bytes:
    """Read exactly so many bytes."""
    data = b""
    while len(data) < size:
        piece = connection.recv(size - len(data))
        assert piece, f"the peer hung up after {data!r}"
        data += piece
    return data


def read_command(connection: socket.socket) -> bytes:
    """Read one short frame, its header included."""
    header = read(connection, 2)
    return header + read(connection, header[1])


def take(end: AcceptingEnd | ConnectingEnd, pieces: list[bytes]) -> bytes:
    """Give an end its bytes in pieces; return what belongs to the stream."""
    return b"".join(end.receive(piece) for piece in pieces)


# --- what goes out ---------------------------------------------------------------------------------------


def test_golden_bytes() -> None:
    """The greeting and READY are those of the specification."""
    assert ConnectingEnd().opening == GREETING
    assert len(GREETING) == GREETING_BYTES
    assert ready(b"PUB") == b"\x04\x19\x05READY\x0bSocket-Type\0\0\0\x03PUB"
    assert AcceptingEnd("iopub").opening == GREETING + ready(b"PUB")


def test_every_kernel_channel_has_a_socket_type() -> None:
    """The types are those of the Jupyter messaging protocol."""
    assert dict.fromkeys(KERNEL_CHANNELS, b"ROUTER") | {"iopub": b"PUB"} == SOCKET_TYPES


# --- against libzmq ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("channel", "kind"), [("shell", zmq.DEALER), ("control", zmq.DEALER), ("stdin", zmq.DEALER), ("hb", zmq.REQ)]
)
def test_a_client_of_libzmq_takes_us_for_the_kernel(channel: str, kind: int) -> None:
    """The client sends READY, with its identity, and its first message before any byte of a kernel."""
    end = AcceptingEnd(channel)
    with socket.create_server(("127.0.0.1", 0)) as server, libzmq(kind) as client:
        client.identity = b"me"
        client.connect(f"tcp://127.0.0.1:{server.getsockname()[1]}")
        client.send(b"hello")
        connection, _ = server.accept()
        with connection:
            connection.settimeout(WAIT_MS / 1000)
            connection.sendall(end.opening)
            assert end.receive(read(connection, GREETING_BYTES)) == b""
            command = read_command(connection)
            assert command[2:8] == b"\x05READY"
            assert b"Identity" + struct.pack("!I", 2) + b"me" in command
            assert end.receive(command) == command
            if kind == zmq.REQ:
                assert read(connection, 2) == b"\x01\x00"
            assert read(connection, 7) == b"\x00\x05hello"
            connection.sendall((b"\x01\x00" if kind == zmq.REQ else b"") + b"\x00\x02ok")
            assert client.recv() == b"ok"


def test_a_subscriber_of_libzmq_sends_its_topics_as_messages() -> None:
    """3.1 would send them as commands, which the kernel that answers the other end as 3.0 does not expect."""
    end = AcceptingEnd("iopub")
    with socket.create_server(("127.0.0.1", 0)) as server, libzmq(zmq.SUB) as client:
        client.subscribe(b"")
        client.connect(f"tcp://127.0.0.1:{server.getsockname()[1]}")
        connection, _ = server.accept()
        with connection:
            connection.settimeout(WAIT_MS / 1000)
            connection.sendall(end.opening)
            assert end.receive(read(connection, GREETING_BYTES)) == b""
            read_command(connection)
            assert read(connection, 3) == b"\x00\x01\x01"
            connection.sendall(b"\x00\x04news")
            assert client.recv() == b"news"


@pytest.mark.parametrize("byte_by_byte", [False, True])
def test_a_server_of_libzmq_takes_us_for_the_client(byte_by_byte: bool) -> None:
    """Its greeting and READY end here; the client's READY and message, replayed, reach it with the identity."""
    end = ConnectingEnd()
    with libzmq(zmq.ROUTER) as server:
        port = server.bind_to_random_port("tcp://127.0.0.1")
        with socket.create_connection(("127.0.0.1", port), WAIT_MS / 1000) as connection:
            identity = b"\x08Identity\0\0\0\x02me"
            body = READY[2:].partition(b"\x08Identity")[0] + identity
            size = 1 if byte_by_byte else 65536
            data = bytes((4, len(body))) + body + b"\x00\x05hello"
            connection.sendall(end.opening)
            for start in range(0, len(data), size):
                connection.sendall(end.send(data[start : start + size]))
            while end.held:
                assert end.receive(connection.recv(size)) == b""
                connection.sendall(end.release())
            assert server.recv_multipart() == [b"me", b"hello"]
            server.send_multipart([b"me", b"answer"])
            got = b""
            while b"answer" not in got:
                got += end.receive(connection.recv(size))
    assert got == b"\x00\x06answer"


def test_libzmq_refuses_a_message_before_its_ready() -> None:
    """libzmq disconnects if a message precedes READY, so the client's first message is held back."""
    with libzmq(zmq.ROUTER) as server:
        port = server.bind_to_random_port("tcp://127.0.0.1")
        with socket.create_connection(("127.0.0.1", port), WAIT_MS / 1000) as connection:
            connection.sendall(GREETING + READY + b"\x00\x05hello")
            with suppress(ConnectionResetError):
                while connection.recv(65536):
                    pass
        assert not server.poll(0)


def test_both_ends_together_carry_libzmq_to_libzmq() -> None:
    """A client and a server without a direct handshake exchange messages."""
    accepting, connecting = AcceptingEnd("shell"), ConnectingEnd()
    with libzmq(zmq.ROUTER) as server, libzmq(zmq.DEALER) as client, socket.create_server(("127.0.0.1", 0)) as us:
        port = server.bind_to_random_port("tcp://127.0.0.1")
        client.connect(f"tcp://127.0.0.1:{us.getsockname()[1]}")
        client.send_multipart([b"a", b"b" * 70_000])
        near, _ = us.accept()
        with near, socket.create_connection(("127.0.0.1", port), WAIT_MS / 1000) as far:
            near.settimeout(WAIT_MS / 1000)
            near.sendall(accepting.opening)
            far.sendall(connecting.opening)
            sent = 0
            while sent < 70_000:
                data = accepting.receive(near.recv(65536))
                far.sendall(connecting.send(data))
                sent += len(data)
            while connecting.held:
                assert connecting.receive(far.recv(65536)) == b""
                far.sendall(connecting.release())
            identity, *frames = server.recv_multipart()
            assert frames == [b"a", b"b" * 70_000]
            server.send_multipart([identity, b"done"])
            back = b""
            while b"done" not in back:
                back += connecting.receive(far.recv(65536))
            near.sendall(accepting.send(back))
            assert client.recv() == b"done"


# --- cut anywhere ---------------------------------------------------------------------------------------------


@given(rest=st.binary(max_size=30), places=st.lists(st.integers(0, 200), max_size=8), minor=st.integers(0, 255))
def test_the_handshake_may_come_in_any_pieces(rest: bytes, places: list[int], minor: int) -> None:
    """The client's bytes are forwarded without the greeting, the kernel's without greeting and READY, for any split."""
    greeting = GREETING[:11] + bytes((minor,)) + GREETING[12:]
    assert take(AcceptingEnd("shell"), strategies.cut(greeting + READY + rest, places)) == READY + rest
    assert take(ConnectingEnd(), strategies.cut(greeting + READY + rest, places)) == rest
    long = b"\x06" + struct.pack("!Q", len(READY) - 2) + READY[2:]
    assert take(ConnectingEnd(), strategies.cut(greeting + long + rest, places)) == rest


@given(
    message=st.binary(max_size=30),
    places=st.lists(st.integers(0, 100), max_size=5),
    kernel_places=st.lists(st.integers(0, 200), max_size=5),
    order=st.randoms(use_true_random=False),
)
def test_what_is_kept_back_goes_out_once_the_kernel_is_ready(
    message: bytes, places: list[int], kernel_places: list[int], order: random.Random
) -> None:
    """READY leaves at once, what follows it when the kernel's READY has come, all of it in order, none for ever."""
    end, written = ConnectingEnd(), b""
    ours = strategies.cut(READY + message, places)
    kernels = strategies.cut(GREETING + READY + b"k", kernel_places)
    back, ready_came = b"", 0
    while ours or kernels:
        if not kernels or (ours and order.random() < 0.5):
            written += end.send(ours.pop(0))
        else:
            piece = kernels.pop(0)
            ready_came += len(piece)
            back += end.receive(piece)
            written += end.release()
        if ready_came < len(GREETING + READY):
            assert len(written) <= len(READY)
    assert written == READY + message
    assert end.held == 0
    assert back == b"k"


@pytest.mark.parametrize("first", [b"\x00\x05hello", b"\x04\x0b\x05ERROR\x04nope", b"\x06" + b"\xff" * 8])
def test_a_stream_that_begins_with_no_ready_is_refused(first: bytes) -> None:
    """No byte of it reaches the kernel."""
    with pytest.raises(RemoteProtocolError, match="ZMTP peer"):
        ConnectingEnd().send(first)


# --- the hostile -----------------------------------------------------------------------------------------------

BAD_GREETINGS = [
    (b"\x00" + GREETING[1:], "does not speak ZMTP 3"),
    (GREETING[:9] + b"\x00" + GREETING[10:], "does not speak ZMTP 3"),
    (GREETING[:10] + b"\x02" + GREETING[11:], "does not speak ZMTP 3"),
    (b"GET / HTTP/1.1\r\n".ljust(64, b"x"), "does not speak ZMTP 3"),
    (GREETING[:12] + b"CURVE".ljust(20, b"\0") + GREETING[32:], "disable CURVE"),
    (GREETING[:12] + b"NULLNULL".ljust(20, b"\0") + GREETING[32:], "disable CURVE"),
    (GREETING[:12] + bytes(20) + GREETING[32:], "disable CURVE"),
]


@pytest.mark.parametrize(("greeting", "why"), BAD_GREETINGS)
def test_a_bad_greeting_is_refused_by_either_end(greeting: bytes, why: str) -> None:
    """Another protocol, version or mechanism is refused, and no byte of it enters the stream."""
    for end in (AcceptingEnd("shell"), ConnectingEnd()):
        assert end.receive(greeting[:40]) == b""
        with pytest.raises(RemoteProtocolError, match=why):
            end.receive(greeting[40:] + READY)


def test_libzmq_with_curve_is_refused() -> None:
    """A client with CURVE is refused with an error that names the remedy."""
    end = AcceptingEnd("shell")
    with socket.create_server(("127.0.0.1", 0)) as server, libzmq(zmq.DEALER) as client:
        public, secret = zmq.curve_keypair()
        client.curve_publickey, client.curve_secretkey, client.curve_serverkey = public, secret, public
        client.connect(f"tcp://127.0.0.1:{server.getsockname()[1]}")
        connection, _ = server.accept()
        with connection:
            connection.settimeout(WAIT_MS / 1000)
            connection.sendall(end.opening[: GREETING_BYTES - 32 - 20])  # it says its mechanism before it knows ours
            with pytest.raises(RemoteProtocolError, match="disable CURVE"):
                end.receive(read(connection, GREETING_BYTES))


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (b"\x04\x0b\x05ERROR\x04nope", "refused the handshake"),
        (b"\x00\x05hello", "another command instead of READY"),
        (b"\x01\x00\x00\x05hello", "another command instead of READY"),
        (b"\x06" + struct.pack("!Q", LARGEST_READY + 1), "has 4097 bytes"),
        (b"\x06" + struct.pack("!Q", 2**64 - 1), "has 18446744073709551615 bytes"),
        (b"\x04\x00\x00\x05hello", "refused the handshake"),
    ],
)
def test_an_answer_that_is_no_ready_is_refused(answer: bytes, why: str) -> None:
    """An ERROR, a message or an endless READY is refused as soon as it is recognised."""
    with pytest.raises(RemoteProtocolError, match=why):
        take(ConnectingEnd(), [GREETING, *(bytes((byte,)) for byte in answer)])


def test_a_handshake_holds_a_bounded_number_of_bytes() -> None:
    """The largest READY is accepted; no bytes are buffered after it, and of a client at most a greeting."""
    end = ConnectingEnd()
    body = b"\x05READY" + bytes(LARGEST_READY - 6)
    data = GREETING + b"\x06" + struct.pack("!Q", len(body)) + body
    assert take(end, [data[:-1], data[-1:] + b"rest"]) == b"rest"
    big = bytes(1 << 20)
    assert end.receive(big) is big
    client = AcceptingEnd("shell")
    assert client.receive(GREETING + big) == big
    assert client.receive(big) == big


@given(st.lists(st.binary(max_size=80), max_size=6))
def test_any_bytes_are_taken_or_refused(pieces: list[bytes]) -> None:
    """Any bytes of a local peer are accepted, without growing, or raise RemoteProtocolError."""
    for end in (AcceptingEnd("hb"), ConnectingEnd()):
        with suppress(RemoteProtocolError):
            assert len(take(end, [GREETING, *pieces])) <= sum(map(len, pieces))


@given(st.binary(min_size=64, max_size=64))
def test_any_greeting_is_one_or_refused(greeting: bytes) -> None:
    """Any 64 bytes are a greeting of ZMTP 3 with NULL, or raise RemoteProtocolError."""
    try:
        check_greeting(greeting)
    except RemoteProtocolError:
        return
    assert greeting[10] >= 3
    assert greeting[12:16] == b"NULL"


def frames(*sizes: int) -> bytes:
    """Return a message of frames of these sizes."""
    message = b""
    for place, size in enumerate(sizes):
        more, long = place < len(sizes) - 1, size > 255
        message += bytes((more + 2 * long,)) + size.to_bytes(8 if long else 1, "big") + bytes(size)
    return message


@given(
    st.lists(st.lists(st.integers(0, 600), min_size=1, max_size=4), max_size=6),
    st.integers(1, 3000),
    st.lists(st.integers(0, 4000), max_size=8),
)
def test_a_message_has_a_limit_whatever_its_frames(
    messages: list[list[int]], limit_bytes: int, places: list[int]
) -> None:
    """A message above the limit is refused at its header; earlier ones pass, for any split of the bytes."""
    end, passed = AcceptingEnd("iopub", limit_bytes), b""
    fits = [sum(size + 256 for size in sizes) <= limit_bytes for sizes in messages]
    data = b"".join(frames(*sizes) for sizes in messages)
    whole = b"".join(frames(*sizes) for sizes in messages[: [*fits, False].index(False)])
    pieces = strategies.cut(data, places)
    with nullcontext() if all(fits) else pytest.raises(RemoteProtocolError, match=f"more than {limit_bytes} bytes"):
        for piece in pieces:
            passed += end.send(piece)
    if all(fits):
        assert passed == data
    assert len(passed) <= len(whole) + limit_bytes + 9


def test_without_a_limit_every_message_passes() -> None:
    """Other clients have their own limits."""
    data = frames(1000, 1000, 1000)
    assert AcceptingEnd("iopub").send(data) == data
