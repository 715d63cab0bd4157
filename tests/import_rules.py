"""The import-linter contract that holds the package's layout: who may import whom.

The rules stand in ``pyproject.toml`` as a table. A list of what is allowed was chosen over
import-linter's own lists of what is forbidden, because those say nothing about a module added later.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from importlinter import Contract, ContractCheck, fields, output

if TYPE_CHECKING:
    from collections.abc import Iterator

    from grimp import ImportGraph

ROOT_NAME = "__init__"  # how the rules name the package itself
EVERYTHING = "*"


class AllowedImports(Contract):
    """Each module imports only what its rule allows, and some libraries only have the named importers.

    Names are relative to the root package. A rule for a package covers all modules in it, except those that a longer
    name covers. Modules covered by one rule may import each other, except in a package listed in ``detailed``, where
    every module needs a rule of its own. ``late`` lists the imports inside functions that would close a cycle, each
    with its reason; they are exempt from the rules and from the check for cycles. No other import may close one.
    """

    type_name = "allowed_imports"

    rules = fields.ListField(subfield=fields.StringField())
    closed = fields.ListField(subfield=fields.StringField(), required=False, default=[])
    owners = fields.ListField(subfield=fields.StringField(), required=False, default=[])
    detailed = fields.ListField(subfield=fields.StringField(), required=False, default=[])
    late = fields.ListField(subfield=fields.StringField(), required=False, default=[])

    def check(self, graph: ImportGraph, verbose: bool) -> ContractCheck:
        root = str(self.session_options["root_packages"][0])
        faults = [
            *self._broken_rules(graph, root),
            *self._broken_owners(graph, root),
            *self._broken_late(graph, root),
            *self._cycles(graph, root),
        ]
        return ContractCheck(kept=not faults, metadata={"faults": sorted(faults)})

    def render_broken_contract(self, check: ContractCheck) -> None:
        for fault in check.metadata["faults"]:
            output.print_error(f"- {fault}", bold=False)
        output.new_line()

    def _broken_rules(self, graph: ImportGraph, root: str) -> Iterator[str]:
        rules = _table(self.rules, "->")  # type: ignore[arg-type]  # a field holds its parsed value
        closed: list[str] = self.closed  # type: ignore[assignment]
        late = self._late()
        for importer, imported in _imports_within(graph, root):
            rule = _longest_prefix(importer, rules) or ""
            allowed = rules.get(rule, [])
            if (importer, imported) in late or _covers(allowed, imported):
                continue
            if rule == _longest_prefix(imported, rules):
                continue
            if EVERYTHING in allowed and not _covers(closed, imported):
                continue
            yield f"{importer} may not import {imported} ({_lines(graph, root, importer, imported)})"
        detailed: list[str] = self.detailed  # type: ignore[assignment]
        for module in sorted(graph.modules):
            name = _relative(module, root)
            if name is None:
                continue
            if _longest_prefix(name, rules) is None:
                yield f"{name} has no rule"
            elif name not in rules and name not in detailed and _covers(detailed, name):
                yield f"{name} has no rule of its own"

    def _late(self) -> set[tuple[str, str]]:
        lines: list[str] = self.late  # type: ignore[assignment]
        pairs = (line.partition(":")[0].partition("->") for line in lines)
        return {(importer.strip(), imported.strip()) for importer, _, imported in pairs}

    def _broken_late(self, graph: ImportGraph, root: str) -> Iterator[str]:
        lines: list[str] = self.late  # type: ignore[assignment]
        existing = set(_imports_within(graph, root))
        for line in lines:
            if not line.partition(":")[2].strip():
                yield f"late import without a reason: {line}"
        for importer, imported in self._late() - existing:
            yield f"late import that does not exist: {importer} -> {imported}"

    def _cycles(self, graph: ImportGraph, root: str) -> Iterator[str]:
        """Yield one fault for each group of files, or of packages, that import each other.

        The root package loads its public names on demand, so what it imports closes no cycle.
        """
        edges = {(a, b) for a, b in _imports_within(graph, root) if a != ROOT_NAME} - self._late()
        files = {(a, b) for a, b in edges if not (_is_package(graph, root, b) and _covers([b], a))}
        packages = {(_top(a), _top(b)) for a, b in edges if _top(a) != _top(b) and b != ROOT_NAME}
        for kind, pairs in (("files", files), ("packages", packages)):
            for group in _strongly_connected(pairs):
                yield f"import cycle of {kind}: {', '.join(sorted(group))}"

    def _broken_owners(self, graph: ImportGraph, root: str) -> Iterator[str]:
        for package, owners in _table(self.owners, ":").items():  # type: ignore[arg-type]
            if package not in graph.modules:
                continue
            for importer in graph.find_modules_that_directly_import(package):
                name = _relative(importer, root)
                if name is not None and not _covers(owners, name):
                    yield f"{name} may not import {package}"


def _table(lines: list[str], arrow: str) -> dict[str, list[str]]:
    pairs = (line.partition(arrow) for line in lines)
    return {key.strip(): [name.strip() for name in names.split(",") if name.strip()] for key, _, names in pairs}


def _relative(module: str, root: str) -> str | None:
    """Return a module's name below the root package, or None for a module of others."""
    if module == root:
        return ROOT_NAME
    return module.removeprefix(f"{root}.") if module.startswith(f"{root}.") else None


def _imports_within(graph: ImportGraph, root: str) -> Iterator[tuple[str, str]]:
    for module in graph.modules:
        importer = _relative(module, root)
        if importer is None:
            continue
        for target in graph.find_modules_directly_imported_by(module):
            imported = _relative(target, root)
            if imported is not None:
                yield importer, imported


def _lines(graph: ImportGraph, root: str, importer: str, imported: str) -> str:
    def full(name: str) -> str:
        return root if name == ROOT_NAME else f"{root}.{name}"

    details = graph.get_import_details(importer=full(importer), imported=full(imported))
    return "line " + ", ".join(str(detail["line_number"]) for detail in details)


def _is_package(graph: ImportGraph, root: str, name: str) -> bool:
    return name == ROOT_NAME or bool(graph.find_children(f"{root}.{name}"))


def _strongly_connected(edges: set[tuple[str, str]]) -> Iterator[set[str]]:
    """Yield the groups of two or more nodes that reach each other."""
    targets: dict[str, set[str]] = {}
    for source, target in edges:
        targets.setdefault(source, set()).add(target)

    def reached_from(start: str) -> set[str]:
        reached: set[str] = set()
        left = [start]
        while left:
            for target in targets.get(left.pop(), set()) - reached:
                reached.add(target)
                left.append(target)
        return reached

    reach = {node: reached_from(node) for node in targets}
    seen: set[str] = set()
    for node, reached in sorted(reach.items()):
        group = {other for other in reached if node in reach.get(other, set())}
        if len(group) > 1 and node not in seen:
            seen |= group
            yield group


def _top(name: str) -> str:
    return name.partition(".")[0]


def _covers(names: list[str], name: str) -> bool:
    return any(name == prefix or name.startswith(f"{prefix}.") for prefix in names)


def _longest_prefix(name: str, rules: dict[str, list[str]]) -> str | None:
    return max((rule for rule in rules if _covers([rule], name)), key=len, default=None)
