"""Records: replacements of objects whose class is unknown on this side."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections import abc


class Record(dict[str, Any]):
    """Fields of a dataclass, namedtuple or model whose class is unknown on this side.

    A dict, so that ``json.dumps`` and pydantic accept it; its fields are also attributes. ``record_type`` is the name
    of the original class.
    """

    record_type: str

    def __init__(self, record_type: str, fields: abc.Mapping[str, Any]) -> None:
        super().__init__(fields)
        object.__setattr__(self, "record_type", record_type)

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(f"{self.record_type} has no field {name!r}") from None

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.record_type, dict(self))

    def __repr__(self) -> str:
        return f"{self.record_type}({', '.join(f'{k}={v!r}' for k, v in self.items())})"


class SequenceRecord(Record):
    """The record of a namedtuple: it unpacks to its values and supports integer indices and slices."""

    def __iter__(self) -> abc.Iterator[Any]:
        return iter(self.values())

    def __getitem__(self, key: Any) -> Any:
        if isinstance(key, (int, slice)):
            return list(self.values())[key]
        return super().__getitem__(key)
