"""Modules and names that make a step nondeterministic: why a replayed step may differ from the recorded one.

The answer is a guess from source code. It explains a difference that was found and never causes one.
"""

from __future__ import annotations

from .cell_names import CellNames

# The longest prefix of a dotted name decides; names without a reason are deterministic. "!" is a shell line.
_NAMES = {
    "": "random.seed numpy.random.seed time.sleep time.strptime",
    "random": "random numpy.random secrets os.urandom torch.rand torch.randn torch.randint torch.randperm",
    "uuid": "uuid.uuid1 uuid.uuid4 uuid.uuid7",
    "time": "time timeit datetime.datetime.now datetime.datetime.utcnow datetime.datetime.today datetime.date.today "
    "pandas.Timestamp.now %time %timeit %prun",
    "memory address": "id",
    "hash of str": "hash",
    "order of a set": "set frozenset",
    "threads": "threading concurrent.futures multiprocessing asyncio.as_completed asyncio.wait",
    "temporary files": "tempfile",
    "process id": "os.getpid",
    "order of files": "os.listdir os.scandir glob",
    "environment": "os.environ os.getenv",
    "network": "socket requests urllib.request httpx",
    "other programs": "subprocess !",
}
_REASONS = {name: reason for reason, names in _NAMES.items() for name in names.split()}


class NondeterminismTracker:
    """The names of a session that are bound to values which may differ from run to run.

    Attributes:
        differing_steps: The steps that gave another result and bound a name that the last step reads.
    """

    def __init__(self) -> None:
        self.differing_steps: list[int] = []
        self._names = CellNames()
        self._reasons: dict[str, str] = {}
        self._differing: dict[str, int] = {}  # name: the first step that gave another result

    def analyze(self, step: int, code: str) -> str:
        """Return why a step may differ from run to run, or ``""`` if nothing in its code or in what it reads may."""
        names = self._names
        names.parse(code)
        own = list(dict.fromkeys(filter(None, map(_reason, names.used))))
        inherited = [self._reasons[name] for name in sorted(names.read & self._reasons.keys())]
        self.differing_steps = sorted({self._differing[name] for name in names.read & self._differing.keys()})
        for name in names.bound:
            self._reasons.pop(name, None)
            self._differing.pop(name, None)
            if own or inherited:
                self._reasons[name] = f"{', '.join(own)} (step {step})" if own else inherited[0]
            if self.differing_steps:
                self._differing[name] = self.differing_steps[0]
        return ", ".join(dict.fromkeys([*own, *inherited]))

    def mark_differing(self, step: int) -> None:
        """Record that the last step, number ``step``, gave another result."""
        for name in self._names.bound:
            self._differing.setdefault(name, step)


def _reason(dotted: str) -> str:
    while dotted and dotted not in _REASONS:
        dotted = dotted.rpartition(".")[0]
    return _REASONS.get(dotted, "")
