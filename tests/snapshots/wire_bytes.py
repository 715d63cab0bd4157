"""Bytes of a whole exchange between host and relay, with fixed inputs.

The golden tests of ``tests/unit`` pin single frames, hellos, values and journal records. This pins what the two ends
make of them together: which frames they send, with which offsets and acks.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from daytona_kernel_interp.wire.comm import OutputField, Parameter, Preamble, ToolFailure, ToolSpec, to_line
from daytona_kernel_interp.wire.frames import decode, encode
from daytona_kernel_interp.wire.hello import CloseCode, HostHello, close_reason
from daytona_kernel_interp.wire.journal import JournalRecord, RecordKind, encode_record
from daytona_kernel_interp.wire.keepalive import Admitted, Refused, RelayStreams
from daytona_kernel_interp.wire.stream import Stream

if TYPE_CHECKING:
    from pathlib import Path

HELLO: dict[str, Any] = {"stream": "0" * 31 + "1", "resume": "a" * 64, "kernel": "k", "window": 1000}


def wire_bytes(folder: Path) -> str:
    """Return the exchange, the refusals and each kind of journal record."""
    return "\n".join([*_exchange(), "", *_refusals(), "", *_journal(), "", *_calls(), ""])


def _exchange() -> list[str]:
    """Attach, write both ways, lose the link, attach again and finish both ways."""
    relay = RelayStreams(window_bytes=1000, boot="00ff")
    host = Stream(window_bytes=1000)
    lines = ["# An exchange", "header   " + HostHello(**HELLO).to_header()]
    admitted = relay.admit("shell", HostHello(**HELLO))
    assert isinstance(admitted, Admitted)
    lines.append(_frame("relay", encode(relay.hello_frame(admitted.stream))))
    far = admitted.stream.stream
    host.write(b"request")
    far.write(b"reply")
    lines += _carried("host", host, far)
    lines += _carried("relay", far, host)
    host.want_ack()
    lines += _carried("host", host, far)
    host.write(b"lost")
    lines.append("lost " + _frame("host", host.next_frame() or b""))
    again = HostHello(**HELLO, generation=2, received=host.received, known=True)
    lines.append("header   " + again.to_header())
    admitted = relay.admit("shell", again)
    assert isinstance(admitted, Admitted)
    hello = relay.hello_frame(admitted.stream)
    lines.append(_frame("relay", encode(hello)))
    host.attach(hello.ack)
    host.finish()
    lines += _carried("host", host, far)
    far.finish()
    lines += _carried("relay", far, host)
    host.want_ack()
    lines += _carried("host", host, far)
    lines.append(f"finished {host.both_finished} {far.both_finished}")
    return lines


def _carried(name: str, sender: Stream, receiver: Stream) -> list[str]:
    lines = []
    while (frame := sender.next_frame()) is not None:
        lines.append(_frame(name, frame))
        for received in receiver.receive(frame):
            receiver.delivered(len(received.payload))
    return lines


def _frame(name: str, data: bytes) -> str:
    return f"{name:8} {data.hex()} {decode(data).type.name}"


def _refusals() -> list[str]:
    relay = RelayStreams(window_bytes=1000, max_streams=1, boot="00ff")
    other = {**HELLO, "stream": "0" * 31 + "2"}
    hellos = [
        ("shell", HostHello(**HELLO)),
        ("shell", HostHello(**HELLO)),
        ("iopub", HostHello(**HELLO, generation=2)),
        ("shell", HostHello(**{**HELLO, "resume": "b" * 64}, generation=2)),
        ("shell", HostHello(**HELLO, generation=2, received=9, known=True)),
        ("shell", HostHello(**other, known=True)),
        ("shell", HostHello(**other)),
    ]
    lines = ["# Attachments"]
    for channel, hello in hellos:
        answer = relay.admit(channel, hello)
        if isinstance(answer, Refused):
            lines.append(f"{int(answer.code)} {CloseCode(answer.code).name}: {close_reason(answer.reason)}")
        else:
            lines.append("admitted")
    return lines


def _journal() -> list[str]:
    kinds = [f"{kind.name:10} {encode_record(JournalRecord(kind, kind.name.encode())).hex()}" for kind in RecordKind]
    return ["# Journal records", *kinds]


def _calls() -> list[str]:
    preamble = Preamble(
        variables={"x": 1},
        tools=(ToolSpec("look", "Look up.", (Parameter("key", 1), Parameter("n", 3, "5"))), ToolSpec("bare")),
        fields=(OutputField("answer", "str"), OutputField("rest")),
        max_output_chars=10,
        max_value_bytes=20,
        kept=(("large", "hash", 2),),
        wanted={"do": "read", "path": "p"},
        arrow=True,
        seed=7,
    )
    failure = ToolFailure("KeyError", ("LookupError",), "'a'").to_value()
    line = to_line({"id": 1, "op": "start", "args": {"text": "\u00e4\n"}})
    return ["# Calls", json.dumps(preamble.to_value()), json.dumps(failure), line.hex()]
