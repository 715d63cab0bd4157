"""What must not enter a recording, wherever it was said: keys that this process knows.

A recorder writes down what cells, tools and models say, and any of them may say a key: code that prints its kernel's
connection file, a provider's error that quotes the key it refused. So what is written is looked through for the keys
of the session, of the models that were asked, and of the environment.
"""

from __future__ import annotations

import base64
import json
import os
import re
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..codec.values import Buffer

REPLACEMENT = "[secret]"
_NAMES = re.compile(r"(?i)(key|token|secret|password|passwd|credentials?|authorization|headers?)$")
_MIN_CHARS = 12  # what is shorter may be anything


class Secrets:
    """A set of texts, which may be added and forgotten by several sessions at once."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: Counter[str] = Counter()  # how often each was added
        # As they may stand in what is written, the longest first. Replaced and never changed, since others read them.
        self._forms: tuple[str, ...] = ()
        self._encoded: tuple[tuple[bytes, bytes], ...] = ()  # with what takes their place
        self._shortest = _MIN_CHARS  # of those

    def add(self, *texts: str) -> None:
        """Add texts; those that are too short to be secret are left out."""
        with self._lock:
            self._known.update(text for text in texts if len(text) >= _MIN_CHARS)
            self._settle()

    def discard(self, *texts: str) -> None:
        """Forget texts that open nothing any more, unless they were added by somebody else too."""
        with self._lock:
            self._known.subtract(text for text in texts if text in self._known)
            self._known += Counter()  # without those that are at zero
            self._settle()

    def _settle(self) -> None:
        forms = {form for text in self._known for form in _forms(text)}
        if len(forms) != len(self._forms) or not forms.issuperset(self._forms):
            self._forms = tuple(sorted(forms, key=len, reverse=True))
            replacement, encoded = REPLACEMENT.encode("ascii"), [_bytes_of(form) for form in self._forms]
            in_base64 = {form for text in self._known for form in _base64_forms(_bytes_of(text))}
            self._encoded = (
                *((form, replacement) for form in encoded),
                *((form, b"A" * len(form)) for form in sorted(in_base64)),  # zeros: it stays base64, and text
            )
            self._shortest = min((len(form) for form, _ in self._encoded), default=_MIN_CHARS)

    def add_named(self, settings: Mapping[str, object]) -> None:
        """Add the texts of settings whose names say that they are secret."""
        self.add(*(text for name, value in settings.items() if _NAMES.search(str(name)) for text in _texts(value)))

    def add_environment(self) -> None:
        """Add those of this process's environment."""
        self.add_named(os.environ)

    def found_in(self, text: str) -> bool:
        """Return whether there is one in ``text``."""
        for form in self._forms:  # noqa: SIM110 - a generator would cost more than the search
            if form in text:
                return True
        return False

    def scrub(self, text: str) -> str:
        """Return ``text`` without them."""
        for form in self._forms:
            text = text.replace(form, REPLACEMENT)
        return text

    def scrub_bytes(self, data: Buffer) -> Buffer:
        """Return a buffer of a value without them, in base64 neither: itself, if there is none in it."""
        whole = data if isinstance(data, (bytes, bytearray)) else bytes(data)
        if len(whole) < self._shortest:
            return data
        found = False
        for form, replacement in self._encoded:
            if form in whole:
                whole, found = whole.replace(form, replacement), True
        return whole if found else data

    def scrub_tree(self, tree: object) -> Any:
        """Return JSON without them."""
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
    """Return a text as it is, and as it stands in JSON."""
    return {text, *(json.dumps(text, ensure_ascii=ascii_only)[1:-1] for ascii_only in (False, True))}


def _bytes_of(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def _base64_forms(data: bytes) -> Iterator[bytes]:
    """Yield what of base64 tells ``data``, wherever among other bytes it begins: of three bytes four characters."""
    for before in range(3):
        encoded = base64.b64encode(bytes(before) + data).rstrip(b"=")
        whole = (before + len(data)) * 8 // 6
        yield encoded[-(-before * 8 // 6) : whole]


known_secrets = Secrets()  # of this process: its environment's, its models', and of the sessions that are recorded
