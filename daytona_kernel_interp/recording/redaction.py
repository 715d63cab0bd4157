"""Remove the keys that this process knows from what a recording contains.

Any cell, tool or model may output a key: code may print the kernel's connection file, a provider's error may quote the
key that it refused. So every text and value that is written is searched for the keys of the session, of the models that
were called, and of the environment.
"""

from __future__ import annotations

import base64
import json
import re
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..codec.values import Buffer

REPLACEMENT = "[secret]"
_NAMES = re.compile(r"(?i)(key|token|secret|password|passwd|credentials?|authorization|headers?)$")
_MIN_CHARS = 12  # a shorter text is too likely to occur by chance


class Secrets:
    """A set of secret texts, which several sessions may change at the same time."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: Counter[str] = Counter()  # how often each was added
        # The forms of each text in written data, the longest first. Readers take no lock, so these are replaced and
        # never changed in place.
        self._forms: tuple[str, ...] = ()
        self._encoded: tuple[tuple[bytes, bytes], ...] = ()  # form and replacement
        self._shortest = _MIN_CHARS  # the length of the shortest encoded form

    def add(self, *texts: str) -> None:
        """Add texts; a text that is too short to be a secret is ignored."""
        with self._lock:
            self._known.update(text for text in texts if len(text) >= _MIN_CHARS)
            self._settle()

    def discard(self, *texts: str) -> None:
        """Remove texts that are no longer valid keys, unless another session added them as well."""
        with self._lock:
            self._known.subtract(text for text in texts if text in self._known)
            self._known += Counter()  # drops the counts that are zero
            self._settle()

    def _settle(self) -> None:
        forms = {form for text in self._known for form in _forms(text)}
        if len(forms) != len(self._forms) or not forms.issuperset(self._forms):
            self._forms = tuple(sorted(forms, key=len, reverse=True))
            replacement, encoded = REPLACEMENT.encode("ascii"), [_bytes_of(form) for form in self._forms]
            in_base64 = {form for text in self._known for form in _base64_forms(_bytes_of(text))}
            self._encoded = (
                *((form, replacement) for form in encoded),
                *((form, b"A" * len(form)) for form in sorted(in_base64)),  # stays base64: "A" is zero
            )
            self._shortest = min((len(form) for form, _ in self._encoded), default=_MIN_CHARS)

    def add_named(self, settings: Mapping[str, object]) -> None:
        """Add the values of settings with a name such as ``api_key``."""
        self.add(*(text for name, value in settings.items() if _NAMES.search(str(name)) for text in _texts(value)))

    def scrub(self, text: str) -> str:
        """Return ``text`` with each secret replaced."""
        for form in self._forms:
            text = text.replace(form, REPLACEMENT)
        return text

    def scrub_bytes(self, data: Buffer) -> Buffer:
        """Return a value's buffer with each secret replaced, also in base64; the same object if it contains none."""
        whole = data if isinstance(data, (bytes, bytearray)) else bytes(data)
        if len(whole) < self._shortest:
            return data
        found = False
        for form, replacement in self._encoded:
            if form in whole:
                whole, found = whole.replace(form, replacement), True
        return whole if found else data

    def scrub_tree(self, tree: object) -> Any:
        """Return parsed JSON with each secret replaced, in keys and values."""
        if isinstance(tree, str):
            return self.scrub(tree)
        if isinstance(tree, dict):
            return {self.scrub(key): self.scrub_tree(item) for key, item in tree.items()}
        return [self.scrub_tree(item) for item in tree] if isinstance(tree, list) else tree


def _texts(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
        yield from value.split()[1:]  # "Bearer ..."
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _texts(item)


def _forms(text: str) -> set[str]:
    """Return a text, and its forms inside a JSON string."""
    return {text, *(json.dumps(text, ensure_ascii=ascii_only)[1:-1] for ascii_only in (False, True))}


def _bytes_of(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def _base64_forms(data: bytes) -> Iterator[bytes]:
    """Yield the base64 characters that ``data`` alone determines, for each offset in a group of three bytes."""
    for before in range(3):
        encoded = base64.b64encode(bytes(before) + data).rstrip(b"=")
        whole = (before + len(data)) * 8 // 6
        yield encoded[-(-before * 8 // 6) : whole]


known_secrets = Secrets()  # of this process: of its environment, its models and its recorded sessions
