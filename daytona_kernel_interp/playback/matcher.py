"""Match the calls of ``execute`` that a program makes with the steps of a recording. Sans-I/O.

A call matches the next step if code, variables, output fields, and the names and parameters of the tools are the same.
DSPy's setup step, which installs the ``dspy`` module in the kernel, belongs to no program and differs between versions
of DSPy. It is skipped where only one side has it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..codec import values
from ..codec.value_hash import hash_of
from ..errors import ReplayMismatch
from ..formatting import most_similar
from ..interpreter.options import check_output_fields
from ..interpreter.sent_inputs import SentInputs
from ..recording.model import DSPY_TOKEN, LLM_TOOLS
from ..wire.protocol_errors import RemoteProtocolError
from .canonical import same_value
from .compare import shown_text, value_text
from .tape import diff_text

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ..interpreter.request import CellRequest
    from ..interpreter.sent_inputs import EncodedInput
    from ..recording.model import Entry, Transcript, ValueRef
    from ..wire.comm import ToolSpec

_MAX_COMPARED = 500  # entries that are compared to find the most similar one


class RecordingMatcher:
    """The position of a program in a recording."""

    def __init__(self, transcript: Transcript, name: str) -> None:
        self._entries, self._store, self._name = list(transcript.entries), transcript.store, name
        self.inputs = SentInputs()  # encodes the program's variables; an unchanged large one only once
        self._seen_keys: set[str] = set()  # keys of large values that need not be encoded again
        self._next = 0

    @property
    def left(self) -> int:
        """The number of recorded steps that no call has matched yet."""
        return sum(DSPY_TOKEN not in entry.variables for entry in self._entries[self._next :])

    def step(self, request: CellRequest, variables: Mapping[str, object]) -> Entry | None:
        """Return the recorded step that matches a call; None for DSPy's setup step if the recording has none.

        The request was built with :attr:`inputs`.

        Raises:
            ReplayMismatch: If the next step does not match. The text shows the difference from the most similar step.
        """
        own = DSPY_TOKEN in variables
        # A program that runs on an older DSPy has no setup step: skip those of the recording.
        while not own and self._next < len(self._entries) and DSPY_TOKEN in self._entries[self._next].variables:
            self._next += 1
        entry = self._entries[self._next] if self._next < len(self._entries) else None
        if own:
            if entry is None or DSPY_TOKEN not in entry.variables:
                return None
            self._next += 1
            return entry
        if entry is None or entry.code != request.code:
            raise ReplayMismatch(self._other_code(request.code, entry))
        self._check_variables(entry, variables, request.variables)
        self._check_offer(entry, request)
        self._next += 1
        return entry

    def _check_variables(
        self, entry: Entry, variables: Mapping[str, object], encoded: Mapping[str, EncodedInput]
    ) -> None:
        if entry.variables.keys() != variables.keys():
            recorded, requested = (", ".join(sorted(names)) or "none" for names in (entry.variables, variables))
            raise ReplayMismatch(
                f"{self._where(entry)} has other variables: recorded {recorded}; requested {requested}"
            )
        for name, ref in entry.variables.items():
            if name != DSPY_TOKEN and not self._is_recorded(encoded[name], variables[name], ref):
                raise ReplayMismatch(
                    f"{self._where(entry)} has another value of the variable {name!r}:\n"
                    + diff_text(value_text(self._store, ref), shown_text(variables[name]), f"step {entry.index}", "now")
                )

    def _is_recorded(self, encoded: EncodedInput, value: object, ref: ValueRef) -> bool:
        if encoded.key and encoded.key not in self._seen_keys:
            self._seen_keys.add(encoded.key)
            self.inputs.set_cached_keys(list(self._seen_keys))
        if (encoded.key or hash_of(encoded.buffers)) == ref.hash:
            return True
        buffers = encoded.buffers or values.dumps(value, max_bytes=None)
        recorded = self._store.load(ref)
        try:
            return same_value(recorded, buffers) or bool(values.loads(recorded) == values.loads(buffers))
        except (RemoteProtocolError, ValueError, TypeError):
            return False

    def _check_offer(self, entry: Entry, request: CellRequest) -> None:
        recorded, requested = (dict(map(_shape, offered)) for offered in (entry.tools, request.tools))
        for name in sorted(recorded.keys() | requested.keys()):
            if name.startswith("__dspy_") or recorded.get(name) == requested.get(name):
                continue
            shown = [offered.get(name, f"no tool {name!r}") for offered in (recorded, requested)]
            raise ReplayMismatch(f"{self._where(entry)} has other tools: recorded {shown[0]}; requested {shown[1]}")
        fields = check_output_fields(entry.output_fields), request.fields
        if fields[0] != fields[1]:
            shown = [", ".join(field.name for field in given or ()) or "one value" for given in fields]
            raise ReplayMismatch(
                f"{self._where(entry)} has other output fields: recorded {shown[0]}; requested {shown[1]}"
            )

    def _other_code(self, code: str, expected: Entry | None) -> str:
        around = sorted(self._entries, key=lambda entry: abs(entry.index - self._next))[:_MAX_COMPARED]
        near = most_similar(code, ((entry, entry.code) for entry in around))
        if expected is None:
            text = f"The recording {self._name} has {len(self._entries)} steps, and a further one was requested"
        else:
            text = f"{self._where(expected)} has other code than requested"
        if near is None:
            return f"{text}:\n{code}"
        if near is not expected:
            text += f"; the most similar step is {near.index}"
        if near.code == code:
            return f"{text}, which has exactly this code:\n{code}"
        return f"{text}:\n{diff_text(near.code, code, f'step {near.index}', 'now')}"

    def _where(self, entry: Entry) -> str:
        return f"Step {entry.index} of {self._name}"


def _shape(spec: ToolSpec) -> tuple[str, str]:
    """Return a tool's name, and the name with its parameters."""
    if spec.name in LLM_TOOLS or spec.parameters is None:  # theirs depend on DSPy's version
        return spec.name, f"{spec.name}(...)"
    kinds = {2: "*", 4: "**"}
    return spec.name, f"{spec.name}({', '.join(kinds.get(p.kind, '') + p.name for p in spec.parameters)})"
