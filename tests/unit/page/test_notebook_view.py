"""The notebook view of a session: compact, escaped, without scripts."""

from __future__ import annotations

import re
from dataclasses import replace

from daytona_kernel_interp.client.outputs import StreamText
from daytona_kernel_interp.page.notebook_view import to_card
from tests.sessions import long, small

ALLOWED = re.compile(r"</?(?:details|summary|strong)>|</?(?:div|span|b|pre)(?: style=(?:'[^'<>]*'|\"[^\"<>]*\"))?>")


def test_it_says_what_happened() -> None:
    """The view has the totals, and each step with code, outputs and outcome."""
    card = to_card(small(), "run.ipynb")
    for wanted in ("5 steps", "1 failed", "3 tool calls", "17,200 tokens", "$0.0080", "Three searches at once."):
        assert wanted in card
    for wanted in ("51,200 characters", "ZeroDivisionError", "[figure 240x120 PNG]", "SUBMIT {&#x27;answer&#x27;"):
        assert wanted in card


def test_it_is_text_only() -> None:
    """Untrusted text becomes no element and no attribute."""
    evil = "</pre><script>PWNED=1</script><img src=x onerror='PWNED=1'>\""
    entries = [replace(one, code=evil, reasoning=evil, outputs=[StreamText(evil, evil)]) for one in small().entries]
    card = to_card(replace(small(), entries=entries, problems=[evil]), evil)
    assert "<" not in ALLOWED.sub("", card)
    assert card.count("PWNED") > 10


def test_it_stays_small() -> None:
    """A long session shows its first and last steps and the number of steps between."""
    card = to_card(long(200), "run.ipynb")
    assert card.count("<details>") == 50
    assert "… 150 more steps …" in card
    assert len(card) < 300_000
