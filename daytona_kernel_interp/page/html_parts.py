"""Render untrusted text, code, markdown and outputs as inert HTML.

Every returned :class:`~markupsafe.Markup` is safe in a page. HTML of an output is shown in an ``<iframe sandbox>``,
without scripts, forms, navigation of the page and an origin. SVG is shown as a picture, which runs no scripts and loads
nothing (HTML standard, "img": image documents are non-interactive).
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import json
import re
from html import escape as html_escape
from typing import TYPE_CHECKING, Any

import mistune
from markupsafe import Markup, escape
from pygments.lexers.python import PythonLexer
from pygments.token import Token

from ..client.output_text import display_text, plain_text
from ..client.outputs import CellError, DisplayData, ExecuteResult, StreamText
from ..codec import png
from ..formatting import cut_middle

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ..client.outputs import Output

MAX_HIGHLIGHTED = 50_000  # characters; highlighting longer code takes too long
MAX_MARKDOWN = 20_000
_MAX_PICTURE = 20 << 20
_MAX_FRAME = 2 << 20

_PICTURES = {
    "image/png": png.SIGNATURE,
    "image/jpeg": b"\xff\xd8\xff",
    "image/gif": b"GIF8",
    "image/webp": b"RIFF",
}

# The nearest ancestor of a token type decides. Other tokens have no color and no element.
_COLOURS = {
    Token.Keyword: "k",
    Token.Operator.Word: "k",
    Token.Literal.String: "s",
    Token.Literal.Number: "m",
    Token.Comment: "c",
    Token.Name.Function: "f",
    Token.Name.Class: "f",
    Token.Name.Decorator: "f",
    Token.Name.Builtin: "b",
    Token.Name.Exception: "b",
}

_LEXER = PythonLexer(stripnl=False, ensurenl=False)

# The policy of a frame with untrusted HTML. The policy of the page applies to it, too.
_FRAME_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
_FRAME_STYLE = (
    "body{margin:0;padding:2px;font:13px/1.45 system-ui,sans-serif;color:#1d2129;background:#fff}"
    "table{border-collapse:collapse;font-variant-numeric:tabular-nums}"
    "th,td{padding:3px 10px;text-align:right;border:0;border-bottom:1px solid #e3e5ea}th{color:#5b6270}"
)
# These tags load or navigate. No policy covers `<link rel="preconnect">`, so they are renamed to unknown elements.
_EXTERNAL_TAGS = re.compile(r"<(/?)(?=(?:link|meta|base|object|embed|iframe|frame|frameset|form)\b)", re.IGNORECASE)
_SCRIPT = re.compile(r"<(script|style)\b.*?(?:</\1\s*>|\Z)", re.IGNORECASE | re.DOTALL)


def cut(text: str, limit: int) -> str:
    """Return ``text``; of a longer one, beginning and end with the number of characters left out."""
    return cut_middle(text, limit, "{:,} characters are in the recording")


def code(source: str) -> Markup:
    """Return highlighted Python code."""
    if len(source) > MAX_HIGHLIGHTED:
        return escape(source)
    pieces: list[tuple[str, list[str]]] = []
    for kind, text in _LEXER.get_tokens(source):
        colour = ""
        while kind is not None and not colour:
            colour, kind = _COLOURS.get(kind, ""), kind.parent
        if not text.strip() and pieces:
            colour = pieces[-1][0]
        if pieces and pieces[-1][0] == colour:
            pieces[-1][1].append(text)
        else:
            pieces.append((colour, [text]))
    shown = ((colour, html_escape("".join(texts), quote=False)) for colour, texts in pieces)
    return Markup("".join(f'<i class="{colour}">{text}</i>' if colour else text for colour, text in shown))


class _Renderer(mistune.HTMLRenderer):
    """Markdown without raw HTML and pictures, with links to the web only, which open in a new tab."""

    def __init__(self) -> None:
        super().__init__(escape=True, allow_harmful_protocols=False)

    def link(self, text: str, url: str, title: str | None = None) -> str:
        if not re.match(r"(?:https?://|mailto:)", url, re.IGNORECASE):
            return text
        return str(
            Markup('<a href="{}" rel="noopener noreferrer nofollow" target="_blank">{}</a>').format(url, Markup(text))
        )

    def image(self, text: str, url: str, title: str | None = None) -> str:
        return str(Markup("[picture: {}]").format(Markup(text) or url))

    def heading(self, text: str, level: int, **attrs: object) -> str:
        return f"<h4>{text}</h4>\n"

    def block_code(self, code_text: str, info: str | None = None) -> str:
        shown = code(code_text) if (info or "python").split()[:1] == ["python"] else escape(code_text)
        return f'<pre class="code">{shown}</pre>\n'


_MARKDOWN: Callable[[str], Any] = mistune.create_markdown(renderer=_Renderer(), plugins=["table", "strikethrough"])


def markdown(text: str) -> Markup:
    """Return markdown as HTML; text that is too long or nested too deeply is shown as it is."""
    if len(text) <= MAX_MARKDOWN:
        try:
            return Markup(_MARKDOWN(text))
        except RecursionError:
            pass
    return Markup('<p class="plain">{}</p>').format(text)


def frame(html: str, name: str) -> Markup:
    """Return a frame that shows ``html`` without scripts. Its height is estimated, since no script can measure it."""
    inert = _EXTERNAL_TAGS.sub(r"<\1x-", html)
    page = (
        f'<!doctype html><meta charset="utf-8"><meta http-equiv="Content-Security-Policy" content="{_FRAME_POLICY}">'
        f"<style>{_FRAME_STYLE}</style><body>{inert}"
    )
    rows = len(re.findall(r"<(?:tr|p|li|h[1-6]|br)\b", html, re.IGNORECASE)) or html.count("\n") + 1
    height = min(60 + 27 * rows, 420)
    return Markup(
        '<iframe sandbox="" loading="lazy" referrerpolicy="no-referrer" title="{}" style="height:{}px" srcdoc="{}">'
        "</iframe>"
    ).format(name, height, page)


def picture(mime: str, data: str) -> Markup | None:
    """Return a picture, or None if the data does not have the format of its MIME type."""
    if len(data) > _MAX_PICTURE:
        return None
    if mime == "image/svg+xml":
        content = data.encode("utf-8", "replace")
    else:
        try:
            content = base64.b64decode("".join(data.split()), validate=True)
        except (binascii.Error, ValueError):
            return None
        if not content.startswith(_PICTURES[mime]):
            return None
    encoded = base64.b64encode(content).decode("ascii")
    shown = display_text({mime: data}).strip("[]")
    return Markup('<img alt="{}" src="data:{};base64,{}">').format(shown, mime, encoded)


def output_html(shown: Output, limit: int) -> Markup:
    """Return an output of a cell."""
    match shown:
        case StreamText(name=name, text=text):
            kind = "stderr" if name == "stderr" else "stdout"
            return _block(kind, cut(plain_text(text), limit))
        case CellError() as error:
            return _block("error", cut(plain_text(error.traceback) or error.summary, limit))
        case DisplayData(data=data) | ExecuteResult(data=data):
            kind = "result" if isinstance(shown, ExecuteResult) else "display"
            return _rich(data, kind, limit)


def _rich(data: Mapping[str, object], kind: str, limit: int) -> Markup:
    """Return the richest representation that can be shown safely. The others are in the recording only."""
    for mime in (*_PICTURES, "image/svg+xml"):
        content = data.get(mime)
        if isinstance(content, str) and (image := picture(mime, content)) is not None:
            return Markup('<figure class="out figure">{}</figure>').format(image)
    html = data.get("text/html")
    if isinstance(html, str) and len(html) <= _MAX_FRAME and _has_visible_content(html):
        return Markup('<div class="out {}">{}</div>').format(kind, frame(html, "HTML output"))
    text = data.get("text/markdown")
    if isinstance(text, str):
        return Markup('<div class="out {} prose">{}</div>').format(kind, markdown(cut(text, limit)))
    if "application/json" in data:
        with contextlib.suppress(RecursionError, ValueError):
            laid_out = json.dumps(data["application/json"], indent=2, ensure_ascii=False, default=str)
            return _block(kind, cut(laid_out, limit))
    return _block(kind, cut(display_text(data), limit))


def _has_visible_content(html: str) -> bool:
    """Return whether HTML shows anything without its scripts; interactive charts often do not."""
    rest = _SCRIPT.sub("", html)
    return bool(
        re.search(r"<(?:img|svg|progress|meter|hr)\b", rest, re.IGNORECASE) or re.sub(r"<[^<>]*>", "", rest).strip()
    )


def _block(kind: str, text: str) -> Markup:
    return Markup('<pre class="out {}">{}</pre>').format(kind, text)
