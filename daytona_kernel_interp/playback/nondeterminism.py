"""Why a replayed step may differ from the recorded one: modules and names that give another result in each run.

The answer is a guess from source code. It explains a difference that was found and never causes one.
"""

from __future__ import annotations

import ast
import re

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
_MAGIC = re.compile(r"(?m)^([ \t]*)(!|%+\w*).*")  # a line magic or a shell line


class NondeterminismTracker:
    """The names of a session that are bound to values which may differ from run to run.

    Attributes:
        differing_steps: The steps that gave another result and bound a name that the last step reads.
    """

    def __init__(self) -> None:
        self.differing_steps: list[int] = []
        self._bound: set[str] = set()  # the names that the last step bound, or whose values it may have changed
        self._origins: dict[str, str] = {}  # name: what it was imported from, "" if a step bound it
        self._reasons: dict[str, str] = {}
        self._differing: dict[str, int] = {}  # name: the first step that gave another result

    def analyze(self, step: int, code: str) -> str:
        """Return why a step may differ from run to run, or ``""`` if nothing in its code or in what it reads may."""
        try:
            nodes = list(ast.walk(ast.parse(_MAGIC.sub(r"\1pass", code))))
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            nodes = []  # of code that does not compile, magics only are known
        names = [node for node in nodes if isinstance(node, ast.Name)]
        read, self._bound = {node.id for node in names if isinstance(node.ctx, ast.Load)}, set()
        for node in nodes:
            self._bind(node)
        inner = {id(node.value) for node in nodes if isinstance(node, ast.Attribute)}
        used = [found[2].replace("%%", "%") for found in _MAGIC.finditer(code)]
        used += [self._dotted(node) for node in nodes if id(node) not in inner]
        own = list(dict.fromkeys(filter(None, map(_reason, used))))
        inherited = [self._reasons[name] for name in sorted(read & self._reasons.keys())]
        self.differing_steps = sorted({self._differing[name] for name in read & self._differing.keys()})
        for name in self._bound:
            self._reasons.pop(name, None)
            self._differing.pop(name, None)
            if own or inherited:
                self._reasons[name] = f"{', '.join(own)} (step {step})" if own else inherited[0]
            if self.differing_steps:
                self._differing[name] = self.differing_steps[0]
        return ", ".join(dict.fromkeys([*own, *inherited]))

    def mark_differing(self, step: int) -> None:
        """Record that the last step, number ``step``, gave another result."""
        for name in self._bound:
            self._differing.setdefault(name, step)

    def _bind(self, node: ast.AST) -> None:
        match node:
            case ast.Import(names=aliases) | ast.ImportFrom(names=aliases):
                prefix = f"{node.module}." if isinstance(node, ast.ImportFrom) else ""
                for alias in aliases:
                    name = alias.name if alias.asname else alias.name.partition(".")[0]
                    self._origins[alias.asname or name] = prefix + name
            case ast.Name(id=name, ctx=ast.Store()) | ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                if not self._origins.setdefault(name, ""):
                    self._bound.add(name)
            # A store into an object, or a method such as append(), changes the value that its name is bound to.
            case (
                ast.Attribute(value=ast.Name(id=name), ctx=ast.Store())
                | ast.Subscript(value=ast.Name(id=name), ctx=ast.Store())
                | ast.Call(func=ast.Attribute(value=ast.Name(id=name)), args=[_, *_])
            ):
                if not self._origins.get(name):  # random.shuffle(x) changes no name called random
                    self._bound.add(name)

    def _dotted(self, node: ast.AST) -> str:
        """Return the dotted name that a node is, with its import resolved, or ``""``."""
        parts: list[str] = []
        while isinstance(node, ast.Attribute):
            parts.append(node.attr)
            node = node.value
        if isinstance(node, ast.Name):
            return ".".join([self._origins.get(node.id, node.id), *reversed(parts)])
        return "set" if isinstance(node, (ast.Set, ast.SetComp)) else ""


def _reason(dotted: str) -> str:
    while dotted and dotted not in _REASONS:
        dotted = dotted.rpartition(".")[0]
    return _REASONS.get(dotted, "")
