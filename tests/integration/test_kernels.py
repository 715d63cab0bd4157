"""Kernel processes of the relay: reports of their ends, and adoption by another relay."""

from __future__ import annotations

import asyncio
import os
import signal
from typing import TYPE_CHECKING, Any

import psutil
import pytest

from daytona_kernel_interp.client.execution_result import kernel_died
from daytona_kernel_interp.guest.relay import kernel_processes as guest_kernels
from daytona_kernel_interp.guest.relay.kernel_interface import NoSuchKernel
from daytona_kernel_interp.guest.relay.kernel_processes import KernelProcesses

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

KEY = "0" * 64


class Owner:
    """A fake of the relay that owns kernels."""

    def __init__(self, folder: Path, lifetime_s: float = 60.0) -> None:
        self.kernels = KernelProcesses(folder, folder, lifetime_s)
        self.exits: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.kernels.on_exit = self.exits.put_nowait

    async def exit(self) -> dict[str, Any]:
        return await asyncio.wait_for(self.exits.get(), 30)


@pytest.fixture
async def owner(tmp_path: Path) -> AsyncIterator[Owner]:
    owner = Owner(tmp_path)
    yield owner
    await owner.kernels.end_all()


@pytest.mark.parametrize(
    ("number", "code", "name"), [(signal.SIGKILL, -9, "SIGKILL"), (signal.SIGSEGV, -11, "SIGSEGV")]
)
async def test_an_exit_is_told_with_its_signal(owner: Owner, number: int, code: int, name: str) -> None:
    """The exit is reported at once, with code or signal."""
    pid = await owner.kernels.start("k", KEY)
    os.kill(pid, number)
    event = await owner.exit()
    assert (event["kernel"], event["code"], event["signal"], event["oom"]) == ("k", code, name, False)
    assert owner.kernels.list_kernels()["k"] == {**event, "alive": False}
    with pytest.raises(NoSuchKernel):
        await owner.kernels.port("k", "shell")


async def test_want_of_memory_is_named_where_the_group_counts_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A SIGKILL with a rising count of out-of-memory kills in the control group was one of these; another was not."""
    kills = 3
    monkeypatch.setattr(guest_kernels, "oom_kills", lambda: kills)
    owner = Owner(tmp_path)
    try:
        kills = 4
        os.kill(await owner.kernels.start("first", KEY), signal.SIGKILL)
        event = await owner.exit()
        assert event["oom"] is True
        error = kernel_died(event, "")
        assert error.out_of_memory
        assert str(error).startswith("the kernel's process was killed because the sandbox ran out of memory")
        os.kill(await owner.kernels.start("second", KEY), signal.SIGKILL)
        assert (await owner.exit())["oom"] is False
    finally:
        await owner.kernels.end_all()


async def test_kernels_that_end_with_their_relay_are_told_apart(tmp_path: Path) -> None:
    """If a container is stopped, the report names the relay's end, not the kernel's code."""
    owner = Owner(tmp_path)
    await owner.kernels.start("k", KEY)
    await owner.kernels.end_all()
    event = await owner.exit()
    assert event["relay_ends"] is True
    assert str(kernel_died(event, "")).startswith("the sandbox's relay received the signal to end and ended the kernel")


async def test_a_kernel_that_was_told_to_end_before_its_relay_ends_with_it(owner: Owner) -> None:
    """A stop of the sandbox may signal all of its processes in any order."""
    os.kill(await owner.kernels.start("k", KEY), signal.SIGTERM)
    # The relay is signalled after the kernel has ended.
    while owner.kernels.list_kernels()["k"]["alive"]:  # noqa: ASYNC110 - there is no event for it
        await asyncio.sleep(0)
    owner.kernels.ending.set()
    assert (await owner.exit())["relay_ends"] is True


async def test_a_kernel_that_somebody_told_to_end_ends_alone(owner: Owner) -> None:
    """Its relay continues, so the sandbox has not ended."""
    os.kill(await owner.kernels.start("k", KEY), signal.SIGTERM)
    event = await owner.exit()
    assert (event["signal"], event["relay_ends"]) == ("SIGTERM", False)


async def test_a_successor_adopts_what_lives(tmp_path: Path) -> None:
    """The second owner has the kernels' ports, detects their exits by pidfd, and ends them."""
    first, second = Owner(tmp_path), Owner(tmp_path)
    pids = [await first.kernels.start(name, KEY) for name in ("a", "b")]
    ports = [await first.kernels.port(name, "shell") for name in ("a", "b")]
    os.kill(await first.kernels.start("c", KEY), signal.SIGKILL)
    await first.exit()
    for process in first.kernels.running.values():
        process.close()  # as after the end of its process
    assert second.kernels.adopt() == 2
    assert [await second.kernels.port(name, "shell") for name in ("a", "b")] == ports
    assert second.kernels.list_kernels()["c"]["alive"] is False
    os.kill(pids[0], signal.SIGKILL)
    event = await second.exit()
    assert (event["kernel"], event["code"]) == ("a", None)  # only a parent receives the exit status
    await second.kernels.end_all()
    assert not psutil.pid_exists(pids[1]) or psutil.Process(pids[1]).status() == psutil.STATUS_ZOMBIE
    await first.kernels.end_all()


async def test_a_kernel_without_an_owner_ends_itself(tmp_path: Path) -> None:
    """If no relay opens its lifeline within the lifetime, it and its children end."""
    owner = Owner(tmp_path, lifetime_s=0.5)
    await owner.kernels.start("k", KEY)
    owner.kernels.running["k"].close()
    assert (await owner.exit())["signal"] in ("SIGTERM", "SIGKILL")
