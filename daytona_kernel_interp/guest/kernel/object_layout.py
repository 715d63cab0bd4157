"""Facts of objects as C code keeps them: read without running any Python code, whatever their classes are. Sans-I/O.

A class's name, a slot, what lies in an instance's dict: each by a getter of C code, past ``__getattribute__``,
properties and metaclasses.
"""

from __future__ import annotations

import types
from typing import Any

# The getters of C code, kept before any cell ran; a metaclass's own __getattribute__ or properties have no say in them.
NAME: Any = type.__dict__["__name__"]
MODULE: Any = type.__dict__["__module__"]
MODULE_DICT: Any = vars(types.ModuleType)["__dict__"]
_MRO: Any = type.__dict__["__mro__"]
_DICT: Any = type.__dict__["__dict__"]
_FLAGS: Any = type.__dict__["__flags__"]

_HEAP_TYPE = 1 << 9  # CPython's Py_TPFLAGS_HEAPTYPE: set for every class that Python code made


def type_name(cls: type) -> str:
    """Return a class's name; that of its package comes first where it is neither Python's own nor the cells'."""
    try:
        name, module = NAME.__get__(cls), MODULE.__get__(cls)
    except Exception:
        return "?"
    if type(name) is not str:
        return "?"
    package = module.partition(".")[0] if type(module) is str else "builtins"
    return name[:80] if package in ("builtins", "__main__", "") else f"{package[:40]}.{name[:80]}"


def is_python_class(cls: type) -> bool:
    """Whether Python code made the class, so that its methods may be anybody's."""
    return bool(_FLAGS.__get__(cls) & _HEAP_TYPE)


def is_c_type(value: Any, name: str) -> bool:
    """Whether a value's type is the one of that name that C code made; nobody can change that or derive from it so."""
    return type_name(type(value)) == name and not is_python_class(type(value))


def attribute_of(value: Any, name: str) -> Any:
    """Return what an object keeps under a name: in its own dict, or where C code keeps it; None if it does not."""
    slots = _slot(value, "__dict__")
    found = dict.get(slots, name) if issubclass(type(slots), dict) else None
    return _slot(value, name) if found is None else found


def _slot(value: Any, name: str) -> Any:
    entry = _entry(value, name)
    readable = type(entry) in (types.GetSetDescriptorType, types.MemberDescriptorType)
    return entry.__get__(value) if readable else None


def call_method(value: Any, cls: str, name: str) -> Any:
    """Return what a method without arguments gives that C code made for a class of that name; None if it is another."""
    entry = _entry(value, name)
    is_c_method = type(entry) is types.MethodDescriptorType and type_name(entry.__objclass__) == cls
    return entry(value) if is_c_method else None


def _entry(value: Any, name: str) -> Any:
    for cls in _MRO.__get__(type(value)):
        entry = _DICT.__get__(cls).get(name)
        if entry is not None:
            return entry
    return None
