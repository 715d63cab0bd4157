"""Why a cell may give something else when it is run again: a look at its source, without running it.

A cell that asks a clock or draws a random number is a source; what it binds is suspect from then on, and so is what
later cells make of that. The look is a guess (names may be bound in ways that no look sees), so it only explains a
difference that was found, and never makes one.
"""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

# By the dotted name that is called or read; the longest that fits counts. None: no source at all.
_SOURCES: Mapping[str, str | None] = {
    "random": "random",
    "random.seed": None,
    "numpy.random": "random",
    "numpy.random.seed": None,
    "torch.rand": "random",
    "torch.randn": "random",
    "torch.randint": "random",
    "torch.randperm": "random",
    "secrets": "random",
    "os.urandom": "random",
    "uuid.uuid1": "uuid",
    "uuid.uuid4": "uuid",
    "uuid.uuid7": "uuid",
    "time": "time",
    "time.sleep": None,
    "time.strptime": None,
    "datetime.datetime.now": "time",
    "datetime.datetime.utcnow": "time",
    "datetime.datetime.today": "time",
    "datetime.date.today": "time",
    "pandas.Timestamp.now": "time",
    "timeit": "time",
    "id": "memory address",
    "hash": "hash of str",
    "set": "order of a set",
    "frozenset": "order of a set",
    "threading": "threads",
    "concurrent.futures": "threads",
    "multiprocessing": "threads",
    "asyncio.as_completed": "threads",
    "asyncio.wait": "threads",
    "tempfile": "temporary files",
    "os.getpid": "process id",
    "os.listdir": "order of files",
    "os.scandir": "order of files",
    "glob": "order of files",
    "os.environ": "environment",
    "os.getenv": "environment",
    "socket": "network",
    "requests": "network",
    "urllib.request": "network",
    "httpx": "network",
    "subprocess": "other programs",
}
_MAGICS = {"time": "time", "timeit": "time", "prun": "time"}
_SET_METHODS = frozenset(("union", "intersection", "difference", "symmetric_difference"))


class NondeterminismTracker:
    """What the cells of a session bind that may differ from run to run; tell it each cell in turn."""

    def __init__(self) -> None:
        self._modules: dict[str, str] = {}  # what a name stands for, as imports bound it
        self._names: dict[str, str] = {}  # suspect names: why
        self._bound: set[str] = set()  # every name that a cell has given a meaning of its own
        self._differing: dict[str, int] = {}  # names that a step bound which differed: that step
        self._last: set[str] = set()  # what the last cell bound
        self.differing_steps: list[int] = []  # the steps that differed, of whose names the last cell reads some

    def analyze(self, step: int, code: str) -> str:
        """Take in a cell and return why it may differ, ``""`` if nothing in it says so."""
        tree, reasons = _parse(code)
        self._last, self.differing_steps = set(), []
        if tree is None:
            return ", ".join(reasons)
        visitor = _Visitor(self._modules, self._bound)
        visitor.visit(tree)
        reasons += [reason for reason in visitor.reasons if reason not in reasons]
        inherited = [self._names[name] for name in sorted(visitor.read) if name in self._names]
        self._bound |= visitor.bound
        self._last = visitor.bound
        self.differing_steps = sorted({self._differing[name] for name in visitor.read if name in self._differing})
        for name in visitor.bound:
            if self.differing_steps:
                self._differing.setdefault(name, self.differing_steps[0])
            else:
                self._differing.pop(name, None)
        for name in visitor.bound:
            if reasons or inherited:
                self._names[name] = f"{', '.join(reasons)} (step {step})" if reasons else inherited[0]
            else:
                self._names.pop(name, None)
        return ", ".join([*reasons, *dict.fromkeys(inherited)])

    def mark_differing(self, step: int) -> None:
        """The last cell, which was this step, did something else this time: so may what it bound."""
        for name in self._last:
            self._differing.setdefault(name, step)


def _parse(code: str) -> tuple[ast.AST | None, list[str]]:
    """Return the tree of a cell without its magics and shell lines, and what these are sources of."""
    lines, reasons = [], []
    for line in code.splitlines():
        bare = line.lstrip()
        if bare.startswith(("%", "!")):
            name = bare.lstrip("%").split(maxsplit=1)[0] if bare.strip("%! ") else ""
            reasons += ["other programs"] if bare.startswith("!") else [_MAGICS[name]] if name in _MAGICS else []
            indent = line[: len(line) - len(bare)]
            line = f"{indent}pass"
        lines.append(line)
    try:
        return ast.parse("\n".join(lines)), reasons
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None, reasons


class _Visitor(ast.NodeVisitor):
    """Collects the names that a cell reads and binds, and the sources that it uses."""

    def __init__(self, modules: dict[str, str], known: set[str]) -> None:
        self._modules, self._known = modules, known
        self.read: set[str] = set()
        self.bound: set[str] = set()
        self.reasons: list[str] = []

    def visit_Import(self, node: ast.Import) -> None:
        for alias in node.names:
            top = alias.name.partition(".")[0]
            self._modules[alias.asname or top] = alias.name if alias.asname else top

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        for alias in node.names:
            self._modules[alias.asname or alias.name] = f"{node.module}.{alias.name}"

    def visit_Name(self, node: ast.Name) -> None:
        if isinstance(node.ctx, ast.Load):
            self.read.add(node.id)
            if node.id in self._modules or node.id not in self.bound | self._known:
                self._check_source(self._modules.get(node.id, node.id))
        else:
            self.bound.add(node.id)

    def visit_Attribute(self, node: ast.Attribute) -> None:
        parts: list[str] = []
        inner: ast.AST = node
        while isinstance(inner, ast.Attribute):
            parts.append(inner.attr)
            inner = inner.value
        if not isinstance(inner, ast.Name):
            self._set_method(node.attr)
            self.visit(inner)
            return
        self.read.add(inner.id)
        if inner.id in self._modules:
            self._check_source(".".join([self._modules[inner.id], *reversed(parts)]))
        else:
            self._set_method(node.attr)
        if not isinstance(node.ctx, ast.Load):
            self.bound.add(inner.id)

    def visit_Subscript(self, node: ast.Subscript) -> None:
        self.generic_visit(node)
        if not isinstance(node.ctx, ast.Load) and isinstance(node.value, ast.Name):
            self.bound.add(node.value.id)

    def visit_Call(self, node: ast.Call) -> None:
        self.generic_visit(node)
        # What a method such as append() or update() may have changed.
        if isinstance(node.func, ast.Attribute) and isinstance(node.func.value, ast.Name) and node.args:
            name = node.func.value.id
            if name not in self._modules:
                self.bound.add(name)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        self.bound.add(node.name)
        self.generic_visit(node)

    def visit_Set(self, node: ast.Set) -> None:
        self._add("order of a set")
        self.generic_visit(node)

    def visit_SetComp(self, node: ast.SetComp) -> None:
        self._add("order of a set")
        self.generic_visit(node)

    def _set_method(self, name: str) -> None:
        if name in _SET_METHODS:
            self._add("order of a set")

    def _check_source(self, dotted: str) -> None:
        for name in _prefixes(dotted):
            if name in _SOURCES:
                reason = _SOURCES[name]
                if reason is not None and not (name == dotted and name in _IGNORED_WARNINGS):
                    self._add(reason)
                return

    def _add(self, reason: str) -> None:
        if reason not in self.reasons:
            self.reasons.append(reason)


# Modules whose mere mention (as a call's argument, say) draws nothing.
_IGNORED_WARNINGS = frozenset(
    ("random", "time", "numpy.random", "threading", "socket", "requests", "subprocess", "secrets", "glob")
)


def _prefixes(dotted: str) -> Iterator[str]:
    parts: Sequence[str] = dotted.split(".")
    for count in range(len(parts), 0, -1):
        yield ".".join(parts[:count])
