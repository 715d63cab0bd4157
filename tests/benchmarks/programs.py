"""A notebook's kernel, from its start to the first result: ours in the local sandbox beside a stock local kernel."""

from __future__ import annotations

import itertools
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from jupyter_client.manager import KernelManager

from daytona_kernel_interp.jupyter import kernelspec as kernelspecs

from . import report
from .samples import Sample

if TYPE_CHECKING:
    from .samples import Key

STEPS = ("start", "ready", "first result", "start to first result", "shutdown")
WHOLE = STEPS[3]
OURS, STOCK = "Python (local sandbox)", "stock ipykernel"
KERNELS = {OURS: "local-sandbox", STOCK: "python3"}
TARGETS = (
    report.Target(
        WHOLE, "p50 <= 1.3 x stock", lambda samples: samples[WHOLE, OURS].p50 / samples[WHOLE, STOCK].p50, 1.3
    ),
)


@dataclass(frozen=True)
class Plan:
    """How many kernels of each kind."""

    starts: int = 15


QUICK = Plan(starts=3)


def run(quick: bool) -> str:
    """Measure both in turn and return the table."""
    plan = QUICK if quick else Plan()
    for spec in kernelspecs.KERNELSPECS:
        kernelspecs.install(spec, kernelspecs.folder(user=True, prefix=None))
    samples: dict[Key, Sample] = {(step, name): Sample() for step in STEPS for name in KERNELS}
    for name in KERNELS:
        _life(KERNELS[name])  # imports, byte code
    for number in range(plan.starts):
        for name in sorted(KERNELS, reverse=number % 2 == 1):
            for step, took_ms in zip(STEPS, _life(KERNELS[name]), strict=True):
                samples[step, name].values.append(took_ms)
    lines = [f"| kernel of a notebook, p50 in ms | {' | '.join(STEPS)} |", "|" + "---|" * (len(STEPS) + 1)]
    lines += [f"| {name} | {' | '.join(f'{samples[step, name].p50:.0f}' for step in STEPS)} |" for name in KERNELS]
    for target in TARGETS:
        verdict = "reached" if target.reached(samples) else "**missed**"
        lines.append(f"\n{target.row}: {target.text}: {target.value(samples):.2f}, {verdict}")
    return "\n".join(lines)


def _life(kernel: str) -> list[float]:
    manager = KernelManager(kernel_name=kernel)
    moments = [time.perf_counter()]
    manager.start_kernel()
    moments.append(time.perf_counter())
    client = manager.client()
    client.start_channels()
    client.wait_for_ready(timeout=60)
    moments.append(time.perf_counter())
    client.execute_interactive("1 + 1", timeout=60, output_hook=lambda message: None)
    moments.append(time.perf_counter())
    client.stop_channels()
    manager.shutdown_kernel()
    ended = time.perf_counter()
    steps = [after - before for before, after in itertools.pairwise(moments)]
    return [took_s * 1000 for took_s in (*steps, moments[-1] - moments[0], ended - moments[-1])]
