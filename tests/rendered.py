"""How an object shows itself in a notebook, by IPython's own formatter."""

from __future__ import annotations

from IPython.core.formatters import HTMLFormatter


def html_of(shown: object) -> str:
    """Return the HTML that a notebook displays for ``shown``."""
    return str(HTMLFormatter()(shown))
