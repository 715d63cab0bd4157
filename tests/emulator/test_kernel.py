"""A real kernel in an emulated sandbox, connected through its preview as in a remote sandbox."""

from __future__ import annotations

import asyncio
import json
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from daytona import SessionExecuteRequest

from daytona_kernel_interp import KernelInterpreter
from daytona_kernel_interp.sandboxes.base import RelayAddress
from daytona_kernel_interp.testing import Fault
from tests.conformance.service import APP_PORT, TOKEN_HEADER, until

if TYPE_CHECKING:
    from collections.abc import Callable

    from daytona import Sandbox

    from tests.conformance.service import Service

    from .conftest import Local

PACKAGE = Path(__file__).parents[2]


@dataclass(frozen=True)
class Emulated:
    """A sandbox of the emulator for kernels."""

    service: Service

    async def start(self) -> RunningEmulated:
        return await asyncio.to_thread(RunningEmulated, self.service.sdk.create(self.service.params()))


class RunningEmulated:
    """A running sandbox whose relay runs in a session, with its start request on standard input."""

    resume_lifetime_s = 60.0

    def __init__(self, made: Sandbox) -> None:
        self.made = made
        port, secret, home = (
            int(made.process.exec(f"echo {APP_PORT}").result),
            secrets.token_hex(16),
            made.get_work_dir(),
        )
        made.fs.create_folder("relay", "700")
        order = {"secret": secret, "port": port, "folder": f"{home}/relay", "cwd": home, "lifetime_s": 60}
        made.fs.upload_file(json.dumps(order).encode() + b"\n", "order.json")
        made.process.create_session("relay")
        run = f"(cat order.json; cat) | PYTHONPATH={PACKAGE} python3 -s -m daytona_kernel_interp.guest.relay"
        command = made.process.execute_session_command("relay", SessionExecuteRequest(command=run, run_async=True))
        until(lambda: made.process.get_session_command_logs("relay", command.cmd_id).stdout, "the relay")
        link = made.get_preview_link(port)
        self.address = RelayAddress(link.url.replace("http", "ws", 1), secret, {TOKEN_HEADER: link.token})

    def record(self) -> dict[str, Any] | None:
        return None

    async def restart_relay(self) -> RelayAddress | None:
        return None

    def may_be_alive(self) -> bool:
        return True

    def release(self) -> None:
        return

    async def stop(self) -> None:
        await asyncio.to_thread(self.made.delete)


@pytest.mark.parametrize("isolated", [None, False], ids=["where it can", "shared"])
def test_cells(own: Callable[..., Local], isolated: bool | None) -> None:
    """State, output, tools and a large value work through the preview."""
    service = own(isolated=isolated).service
    with KernelInterpreter({"double": lambda value: 2 * value}, sandbox=Emulated(service)) as interpreter:
        assert interpreter.execute("x = 20") == ""
        assert interpreter.execute("print(double(x + 1))") == "42\n"
        assert interpreter.execute("len(big)", variables={"big": "x" * 3_000_000}) == 3_000_000


def test_cut_preview(own: Callable[..., Local]) -> None:
    """A cell has the same result if its connections are cut repeatedly."""
    emulator, service = own()
    emulator.fail(Fault("preview", cut_after_bytes=4000, times=12))
    with KernelInterpreter(sandbox=Emulated(service)) as interpreter:
        interpreter.execute("import time")
        text = interpreter.execute("for n in range(1000):\n    print(n, 'x' * 50, flush=True)\n    time.sleep(0.001)")
        assert text == "".join(f"{n} {'x' * 50}\n" for n in range(1000))
    assert list(emulator.server.world.faults) == []
