"""Names that a cell reads, binds and uses from modules, found by parsing its source."""

from __future__ import annotations

import ast
import re

_MAGIC = re.compile(r"(?m)^([ \t]*)(!|%+\w*).*")  # a line magic or a shell line


class CellNames:
    """The names in the last cell of a session that was parsed.

    Attributes:
        read: Names whose value the cell reads.
        bound: Names that the cell binds, or whose value it may change.
        used: Dotted names with imports resolved, such as ``numpy.random.rand``; builtins; magics such as ``%time``.
    """

    def __init__(self) -> None:
        self.read: set[str] = set()
        self.bound: set[str] = set()
        self.used: list[str] = []
        self._imports: dict[str, str] = {}  # of the session: a name and what it was imported from
        self._session: set[str] = set()  # names that a cell of the session bound; they hide builtins

    def parse(self, code: str) -> None:
        """Replace the names by those in ``code``; a cell that does not compile has only magics."""
        try:
            nodes = list(ast.walk(ast.parse(_MAGIC.sub(r"\1pass", code))))
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            nodes = []
        self.read, self.bound = set(), set()
        for node in nodes:
            self._add(node)
        self.bound -= self._imports.keys()  # random.shuffle(x) changes no name called random
        self._session |= self.bound
        inner = {id(node.value) for node in nodes if isinstance(node, ast.Attribute)}
        self.used = [found[2].replace("%%", "%") for found in _MAGIC.finditer(code)]
        self.used += [self._dotted(node) for node in nodes if id(node) not in inner]

    def _add(self, node: ast.AST) -> None:
        match node:
            case ast.Import(names=aliases) | ast.ImportFrom(names=aliases):
                prefix = f"{node.module}." if isinstance(node, ast.ImportFrom) else ""
                for alias in aliases:
                    name = alias.name if alias.asname else alias.name.partition(".")[0]
                    self._imports[alias.asname or name] = prefix + name
            case ast.Name(id=name, ctx=ast.Load()):
                self.read.add(name)
            case ast.Name(id=name) | ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                self.bound.add(name)
            # A store into an object, or a method such as append(), changes the value that its name is bound to.
            case (
                ast.Attribute(value=ast.Name(id=name), ctx=ast.Store())
                | ast.Subscript(value=ast.Name(id=name), ctx=ast.Store())
                | ast.Call(func=ast.Attribute(value=ast.Name(id=name)), args=[_, *_])
            ):
                self.bound.add(name)

    def _dotted(self, node: ast.AST) -> str:
        if isinstance(node, (ast.Set, ast.SetComp)):
            return "set"
        parts: list[str] = []
        while isinstance(node, ast.Attribute):
            parts.append(node.attr)
            node = node.value
        if not isinstance(node, ast.Name) or (node.id in self._session and node.id not in self._imports):
            return ""
        return ".".join([self._imports.get(node.id, node.id), *reversed(parts)])
