"""Tests of ``labels``: the owner of a sandbox, and whether its process is alive."""

from __future__ import annotations

import os

import pytest

from daytona_kernel_interp.sandboxes.daytona import labels


def test_labels_identify_this_process() -> None:
    """A sandbox of this process is its own and has a living host."""
    made = labels.labels("start-1", kept=False)
    assert made[labels.PROCESS_LABEL].startswith(f"{os.getpid()}-")
    assert made[labels.START_LABEL] == "start-1"
    assert labels.KEEP_LABEL not in made
    assert labels.created_on_this_machine(made)
    assert labels.host_lives(made)
    assert labels.KEEP_LABEL in labels.labels("start-1", kept=True)


@pytest.mark.parametrize(
    ("changed", "alive"),
    [
        ({labels.PROCESS_LABEL: "4194305-1"}, False),  # above the largest process id of Linux
        ({labels.PROCESS_LABEL: f"{os.getpid()}-another-start"}, False),
        ({labels.PROCESS_LABEL: "nonsense"}, False),
        ({labels.MACHINE_LABEL: "another"}, True),
        ({labels.MACHINE_LABEL: "another", labels.PROCESS_LABEL: "4194305-1"}, True),
    ],
)
def test_a_process_of_another_machine_counts_as_alive(changed: dict[str, str], alive: bool) -> None:
    """On this machine the process itself decides."""
    assert labels.host_lives({**labels.labels("s", kept=False), **changed}) is alive
