"""Write ``docs/execution-states.md`` from the state machine of ``client.execution``: ``make docs``."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

from daytona_kernel_interp import config
from daytona_kernel_interp.client import execution_events as events
from daytona_kernel_interp.client.execution import TRANSITIONS
from daytona_kernel_interp.client.execution_state import CellState, LinkState, State, StopState

PAGE = Path(__file__).parents[1] / "docs" / "execution-states.md"

_INTRODUCTION = """# The states of an execution

<!-- Written by `make docs` from daytona_kernel_interp/client/execution.py and execution_state.py. -->

A kernel's execution is three states side by side: what is known of the cell, whether messages arrive, and the
interrupt ladder. Each event belongs to one of them; the tables have every event in every state that allows it. Any
other event is a protocol error of kernel or relay: the call ends in `TunnelLost`, and with it the session. The module's
docstring explains why the rules are these.
"""
_REGIONS: list[tuple[str, type[State], type[events.Event]]] = [
    ("The cell", CellState, events.CallEvent),
    ("The link", LinkState, events.LinkEvent),
    ("The interrupt ladder", StopState, events.StopEvent),
]
_TIMES = {
    "INTERRUPT_LADDER": "the rungs, and the seconds that a cell has on each",
    "SIGNAL_ANSWER_S": "the relay's answer to SIGINT",
    "KILL_ANSWER_S": "the relay's answer to SIGKILL; after it, the report of the exit",
    "DROP_S": "taking back a request in transit, at least, before a kill",
    "OVERRUN_S": "from the interrupt of a cell that has to end to the end of its call, journal included",
    "LAST_WORDS_S": "of these, the kill and the journal",
    "AFTER_SUBMIT_S": "the end of a cell after SUBMIT",
    "REPLY_GRACE_S": "the idle status after the reply, or the reply after the idle status",
    "PROBE_AGAIN_S": "a barrier on control, before it is sent again",
    "CANCEL_S": "the end of a cell whose caller has gone",
    "LAST_OUTPUT_S": "the journal of a dead kernel, for a call without a limit of time",
    "RETRY_JOURNAL_S": "before a journal is read again",
    "JOURNAL_SILENCE_S": "one record of a journal",
    "RELAY_ANSWER_S": "the relay's answer to any other request",
    "MAX_RECOVERIES": "recoveries, one after another (a number)",
}


def states_page() -> str:
    """Return the text of the page."""
    parts = [_INTRODUCTION]
    for title, states, kind in _REGIONS:
        parts.append(f"## {title}\n\n| state | meaning | ended at the latest by |\n|---|---|---|")
        parts += [f"| {state.name} | {state.meaning} | {state.bound.value} |" for state in states]
        parts.append("\n| event | states | what follows |\n|---|---|---|")
        for event in kind.__subclasses__():
            rules: dict[object, list[State]] = {}
            for (state, type_), rule in TRANSITIONS.items():
                if type_ is event:
                    rules.setdefault(rule, []).append(state)
            name = f"**{event.__name__}**: {_summary(event)}"
            for result, found in rules.items():
                parts.append(f"| {name} | {', '.join(state.name for state in found)} | {_summary(result)} |")
                name = ""
        parts.append("")
    parts.append("## Times\n\n| constant of `config.py` | seconds | for |\n|---|---|---|")
    parts += [f"| `{name}` | {_time(getattr(config, name))} | {meaning} |" for name, meaning in _TIMES.items()]
    return "\n".join(parts) + "\n"


def _summary(documented: object) -> str:
    text = (inspect.getdoc(documented) or "").partition("\n\n")[0].replace("\n", " ")
    return re.sub(r":\w+:`([^`]+)`|``([^`]+)``", r"`\1\2`", text)


def _time(value: object) -> str:
    return ", ".join(f"{rung} {seconds:g}" for rung, seconds in value) if isinstance(value, tuple) else f"{value:g}"


if __name__ == "__main__":
    PAGE.write_text(states_page(), encoding="utf-8")
