"""The private names of ipykernel and IPython: each exists in the installed version, and is used in one module only."""

from __future__ import annotations

import ast
import inspect
import re
import types
from importlib.metadata import version
from pathlib import Path

import pytest
from ipykernel.iostream import OutStream

from daytona_kernel_interp.guest.kernel import interactive_kernel, ipykernel_compat, kernel, kernel_app, output
from daytona_kernel_interp.guest.kernel.ipykernel_compat import PRIVATE_NAMES, PrivateName

pytestmark = pytest.mark.kernel

FOLDER = Path(ipykernel_compat.__file__).parent
DEPENDENCIES = ("ipykernel", "IPython", "traitlets", "jupyter_client", "comm")
MODULES = (interactive_kernel, kernel, kernel_app, output)
# Documented in spite of their underscore.
PUBLIC = {"_replace", "_current_frames", "_exit"}


COMPAT_CLASSES = (
    ipykernel_compat.HookedKernel,
    ipykernel_compat.HookedOutStream,
    ipykernel_compat.HookedShell,
)
REPLACING = (types.FunctionType, property, bool, int, float, str)  # what traitlets adds to a class is none of these


def bases_of(cls: type) -> list[type]:
    """Return the classes of dependencies that ``cls`` is or derives from."""
    return [base for base in cls.__mro__ if base.__module__.partition(".")[0] in DEPENDENCIES]


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


@pytest.mark.parametrize("private", PRIVATE_NAMES, ids=lambda private: private.name)
def test_a_private_name_exists(private: PrivateName) -> None:
    """The owner defines the name, or sets it as an attribute of its instances."""
    distribution, major = private.since
    if int(version(distribution).partition(".")[0]) < major:
        pytest.skip(f"{distribution} {version(distribution)} does not have {private.name} yet")
    owners = bases_of(private.owner) if isinstance(private.owner, type) else []
    is_set = re.compile(rf"\bself\.{private.name}\b[^=\n]*=[^=]")
    assert hasattr(private.owner, private.name) or any(is_set.search(inspect.getsource(owner)) for owner in owners), (
        f"{private.owner.__name__} of ipykernel {version('ipykernel')} and IPython {version('ipython')} has no "
        f"{private.name} any more: change {ipykernel_compat.__name__}"
    )


def test_a_name_that_is_gone_fails() -> None:
    """The check above names what an upgrade has removed."""
    with pytest.raises(AssertionError, match=r"OutStream of ipykernel .* has no _never_there any more"):
        test_a_private_name_exists(PrivateName(OutStream, "_never_there"))


def test_every_private_name_is_listed() -> None:
    """The module uses no private name of a dependency that is not in its list, and the list has no unused one."""
    tree = ast.parse(inspect.getsource(ipykernel_compat))
    used = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute) and is_private(node.attr)}
    defined = {
        node.name
        for cls in tree.body
        if isinstance(cls, ast.ClassDef)
        for node in cls.body
        if isinstance(node, ast.FunctionDef) and is_private(node.name)
    }
    assigned = {"_execute_sleep", "_supports_kernel_subshells"}  # attributes of the class
    assert used | defined | assigned == {private.name for private in PRIVATE_NAMES}


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.py")), ids=lambda path: path.stem)
def test_no_other_module_uses_one(path: Path) -> None:
    """A private attribute is one of the module's own, or of the standard library and documented."""
    if path == Path(ipykernel_compat.__file__):
        return
    tree = ast.parse(path.read_text())
    own = {node.name for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))}
    own |= {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    attributes = [node for node in ast.walk(tree) if isinstance(node, ast.Attribute) and is_private(node.attr)]
    own |= {node.attr for node in attributes if isinstance(node.ctx, ast.Store)}
    assert {node.attr for node in attributes} - own - PUBLIC == set()


def test_no_other_class_replaces_one() -> None:
    """A class that derives from a dependency's replaces none of its private methods and values."""
    classes = [cls for module in MODULES for cls in vars(module).values() if isinstance(cls, type)]
    for cls in (cls for cls in classes if cls.__module__.startswith("daytona_kernel_interp.")):
        own = {name for name, value in vars(cls).items() if is_private(name) and isinstance(value, REPLACING)}
        if cls not in COMPAT_CLASSES:
            assert {name for name in own for base in bases_of(cls) if name in vars(base)} == set(), cls
