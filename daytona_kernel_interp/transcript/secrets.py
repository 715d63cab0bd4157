"""What must not enter a recording, wherever it was said: keys that this process knows.

A recorder writes down what cells, tools and models say, and any of them may say a key: code that prints its kernel's
connection file, a provider's error that quotes the key it refused. So what is written is looked through for the keys
of the session, of the models that were asked, and of the environment.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from typing import Any

REPLACEMENT = "[secret]"
_NAMES = re.compile(r"(?i)(key|token|secret|password|passwd|credentials?|authorization|headers?)$")
_MIN_CHARS = 12  # what is shorter may be anything


class Secrets:
    """A set of texts."""

    def __init__(self) -> None:
        self._known: set[str] = set()

    def add(self, *texts: str) -> None:
        """Add texts; those that are too short to be secret are left out."""
        self._known |= {text for text in texts if len(text) >= _MIN_CHARS}

    def discard(self, *texts: str) -> None:
        """Forget texts that open nothing any more."""
        self._known -= set(texts)

    def add_named(self, settings: Mapping[str, Any]) -> None:
        """Add the texts of settings whose names say that they are secret."""
        for name, value in settings.items():
            if _NAMES.search(str(name)):
                self.add(*_texts(value))

    def add_environment(self) -> None:
        """Add those of this process's environment."""
        self.add_named(os.environ)

    def found_in(self, text: str) -> bool:
        """Return whether there is one in ``text``."""
        return any(secret in text for secret in self._known)

    def scrub(self, text: str) -> str:
        """Return ``text`` without them."""
        for secret in sorted(self._known, key=len, reverse=True):
            text = text.replace(secret, REPLACEMENT)
        return text

    def scrub_bytes(self, data: Any) -> Any:
        """Return a buffer without them: itself, if there is none in it."""
        known = [secret.encode("utf-8") for secret in self._known]
        whole = data if isinstance(data, (bytes, bytearray)) else bytes(data)
        if not any(secret in whole for secret in known):
            return data
        for secret in sorted(known, key=len, reverse=True):
            whole = whole.replace(secret, REPLACEMENT.encode("ascii"))
        return whole

    def scrub_tree(self, tree: Any) -> Any:
        """Return JSON without them."""
        if isinstance(tree, str):
            return self.scrub(tree)
        if isinstance(tree, dict):
            return {self.scrub(key): self.scrub_tree(item) for key, item in tree.items()}
        return [self.scrub_tree(item) for item in tree] if isinstance(tree, list) else tree


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
        yield from value.split()[1:]  # "Bearer ..."
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _texts(item)


known = Secrets()  # of this process: its environment's, its models', and of the sessions that are recorded
