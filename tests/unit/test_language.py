"""The language and layout of the package: idioms in prose, lengths of docstrings, unique class names.

The limits are those of the project's style: readers know Jupyter, DSPy, Daytona and asyncio, and should not have to
translate the prose. A high count shows that sentences need to be rewritten; a different synonym is not a fix.
"""

from __future__ import annotations

import ast
import collections
import io
import re
import tokenize
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterable

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "daytona_kernel_interp"
MODULES = sorted(PACKAGE.rglob("*.py"))
DOCUMENTS = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]

IDIOMS = re.compile(
    r"\b(tells?|told|telling|nobody|somebody|anybody|whoever|whose it is|who asks|what is there|of ours|come what may|"
    r"comes? no more|no more of|mend(?:s|ed|ing)?|takes? up|let(?:s)? go|by name)\b",
    re.IGNORECASE,
)
MAX_IDIOMS_PER_1000_WORDS = 0.5
MIN_PACKAGE_DOCSTRING_WORDS = 40
MAX_TOP_LEVEL_MODULES = 4
MIN_THEORY_LINES = 20

# Modules whose docstring explains the problem, the idea, the states and the failures.
THEORY_MODULES = [
    "client/execution.py",
    "client/kernel_driver.py",
    "tunnel/tunnel.py",
    "tunnel/dialer.py",
    "guest/relay/server.py",
    "guest/relay/kernel_processes.py",
    "guest/kernel/output.py",
    "recording/recorder.py",
    "recording/notebook_writer.py",
]
# Each class combines an error of the package with DSPy's base class and keeps the name of the error.
SAME_NAMES = "interpreter/dspy_errors.py"

DocumentedNode = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def prose_of(source: str) -> list[tuple[int, str]]:
    """Return the docstrings and comments of a module with their line numbers."""
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    parts = [(token.start[0], token.string) for token in tokens if token.type == tokenize.COMMENT]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, DocumentedNode) and (text := ast.get_docstring(node)):
            parts.append((node.body[0].lineno, text))
    return sorted(parts)


def check_idioms(parts: Iterable[tuple[str, str]]) -> None:
    """Fail with the places of all idioms if there are more than the limit.

    Args:
        parts: Places and their texts.
    """
    words, found = 0, []
    for place, text in parts:
        words += len(re.findall(r"\w+", text))
        found += [f"{place}: {match[0]}" for match in IDIOMS.finditer(text)]
    rate = 1000 * len(found) / words
    assert rate <= MAX_IDIOMS_PER_1000_WORDS, f"{rate:.2f} idioms per 1,000 words:\n" + "\n".join(found)


def test_the_counter_finds_docstrings_and_comments() -> None:
    """Strings of the code itself are not counted; a text above the limit fails with the place."""
    source = '"""Tell."""\nTEXT = "nobody"  # whoever\n\n\ndef f():\n    """Return what is there."""\n'
    parts = prose_of(source)
    assert parts == [(1, "Tell."), (2, "# whoever"), (6, "Return what is there.")]
    with pytest.raises(AssertionError, match=r"a\.py:2: whoever"):
        check_idioms((f"a.py:{line}", text) for line, text in parts)
    check_idioms([("a.py:1", "Return the pending call.")])


def test_docstrings_and_comments_are_plain() -> None:
    """Docstrings and comments of the package have at most one idiom in 2,000 words."""
    check_idioms(
        (f"{module.relative_to(ROOT)}:{line}", text)
        for module in MODULES
        for line, text in prose_of(module.read_text(encoding="utf-8"))
    )


def test_tests_are_plain() -> None:
    """Docstrings and comments of the tests have at most one idiom in 2,000 words."""
    check_idioms(
        (f"{module.relative_to(ROOT)}:{line}", text)
        for module in sorted((ROOT / "tests").rglob("*.py"))
        for line, text in prose_of(module.read_text(encoding="utf-8"))
    )


def test_documents_are_plain() -> None:
    """README, docs and CHANGELOG have at most one idiom in 2,000 words."""
    check_idioms(
        (f"{document.relative_to(ROOT)}:{number}", line)
        for document in DOCUMENTS
        for number, line in enumerate(document.read_text(encoding="utf-8").splitlines(), 1)
    )


@pytest.mark.parametrize("module", [m for m in MODULES if m.name == "__init__.py"], ids=lambda m: m.parent.name)
def test_each_package_has_a_description(module: Path) -> None:
    """The docstring of a package says what is in it, and what is not."""
    words = (ast.get_docstring(ast.parse(module.read_text(encoding="utf-8"))) or "").split()
    assert len(words) >= MIN_PACKAGE_DOCSTRING_WORDS, f"{module.relative_to(ROOT)} has {len(words)} words"


@pytest.mark.parametrize("name", THEORY_MODULES)
def test_hard_modules_open_with_a_theory_of_operation(name: str) -> None:
    """The docstring is long enough to explain the problem, the idea, the states and the failures."""
    lines = (ast.get_docstring(ast.parse((PACKAGE / name).read_text(encoding="utf-8"))) or "").splitlines()
    assert len(lines) >= MIN_THEORY_LINES, f"{name} has {len(lines)} lines"


def test_modules_are_in_packages() -> None:
    """The package itself holds a few modules that all parts import; everything else is in a subpackage."""
    top = {module.name for module in PACKAGE.glob("*.py")} - {"__init__.py", "__main__.py"}
    assert len(top) <= MAX_TOP_LEVEL_MODULES, sorted(top)


def test_class_names_are_unique() -> None:
    """A class name means one thing in the package; the emulator, which models another service, is left out."""
    places = collections.defaultdict(list)
    for module in MODULES:
        name = module.relative_to(PACKAGE).as_posix()
        if name.startswith("testing/") or name == SAME_NAMES:
            continue
        for node in ast.walk(ast.parse(module.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef):
                places[node.name].append(name)
    assert {name: found for name, found in places.items() if len(found) > 1} == {}
