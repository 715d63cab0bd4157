"""The text of a cell's output for a model: as a terminal would show it, with a name in place of each picture."""

from __future__ import annotations

import base64
import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

# ECMA-48: control sequences such as colours; operating system commands such as titles and links.
_ESCAPES = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[()][0-9A-B]|[=>78cDEHM])")
_EMPTY_REPR = re.compile(r"<[\w.]+(?: object)?(?: at 0x[0-9a-f]+)?>|<(?:Figure size|PIL\.\S+ image) [^>]*>|")
_PNG = b"\x89PNG\r\n\x1a\n"
_SVG_SIZE = re.compile(r"<svg\b[^>]{0,2000}")
_NUMBER = r"""["']\s*([0-9.]{1,9})(?:px|pt)?\s*["']"""
_NAMES = {
    "image/jpeg": "picture JPEG",
    "image/gif": "picture GIF",
    "image/webp": "picture WebP",
    "application/pdf": "PDF",
    "text/html": "HTML",
    "text/latex": "LaTeX",
    "text/markdown": "Markdown",
    "application/javascript": "JavaScript",
    "application/json": "JSON",
    "application/geo+json": "GeoJSON",
}


def plain_text(text: str) -> str:
    """Return ``text`` without ANSI escapes and with each line in its last state, as redrawn by carriage returns."""
    if "\x1b" in text:
        text = _ESCAPES.sub("", text)
    if "\r" in text:
        lines = text.split("\n")
        text = "\n".join(_last_redraw(line) if "\r" in line else line for line in lines)
    return text


def join_streams(parts: Iterable[tuple[str, str]]) -> str:
    """Join ``(stream name, text)`` pairs in order.

    A line that a stream redraws appears where it was redrawn last, after lines that other streams wrote in between. It
    never overwrites another stream's text.
    """
    texts: list[str] = []
    unfinished: dict[str, int] = {}  # by stream: the index of its unfinished line
    for name, text in parts:
        first = text.partition("\n")[0]
        place = unfinished.pop(name, None)
        if place is not None and first.startswith("\r") and _last_redraw(first):
            texts[place] = texts[place][: texts[place].rfind("\n") + 1]
        if "\r" in first and _last_redraw(first) and texts and texts[-1] and not texts[-1].endswith("\n"):
            texts.append("\n")
        texts.append(text)
        if not text.endswith("\n"):
            unfinished[name] = len(texts) - 1
    return "".join(texts)


def _last_redraw(line: str) -> str:
    return next((state for state in reversed(line.split("\r")) if state), "")


def display_text(data: Mapping[str, Any]) -> str:
    """Return the text for displayed data: its ``text/plain`` if that is informative, else its kind and size.

    A picture is always named, because its text, such as ``<Figure size 640x480 with 1 Axes>``, says little.
    """
    text = str(data.get("text/plain", ""))
    if (picture := _picture_text(data)) is not None:
        return picture if _EMPTY_REPR.fullmatch(text) else f"{text}\n{picture}"
    if not _EMPTY_REPR.fullmatch(text):
        return plain_text(text)
    for mime, content in data.items():
        if mime.startswith("application/vnd.plotly"):
            return "[figure plotly]"
        if mime in _NAMES:
            size = f", {len(content):,} characters" if isinstance(content, str) else ""
            return f"[{_NAMES[mime]}{size}]"
    return text


def _picture_text(data: Mapping[str, Any]) -> str | None:
    if isinstance(png := data.get("image/png"), str):
        return f"[figure {_png_size(png)}PNG]"
    if isinstance(svg := data.get("image/svg+xml"), str):
        return f"[figure {_svg_size(svg)}SVG]"
    return next((f"[{_NAMES[mime]}]" for mime in data if mime.startswith("image/") and mime in _NAMES), None)


def _png_size(text: str) -> str:
    try:
        head = base64.b64decode(text[:32])
    except ValueError:
        return ""
    if not head.startswith(_PNG) or len(head) < 24:
        return ""
    return f"{int.from_bytes(head[16:20], 'big')}x{int.from_bytes(head[20:24], 'big')} "


def _svg_size(text: str) -> str:
    found = _SVG_SIZE.search(text[:10_000])
    sizes = [re.search(rf"\b{name}\s*=\s*{_NUMBER}", found[0]) for name in ("width", "height")] if found else [None]
    return "x".join(size[1] for size in sizes if size) + " " if all(sizes) else ""
