"""Compare figures by size or by pixels."""

from __future__ import annotations

import base64
import io
import re
from typing import Any

from ..codec import png

_MAX_PIXELS = 50_000_000
_SHADES = 2  # of 255; other builds of a font or a compressor change pixels by this much
_SVG_SIZE = re.compile(
    r"""<svg\b[^>]{0,2000}?\b(width|height)\s*=\s*["']([0-9.]{1,12})[^>]{0,2000}?"""
    r"""\b(width|height)\s*=\s*["']([0-9.]{1,12})"""
)


def size_of(mime: str, content: str) -> tuple[str, ...] | None:
    """Return the width and height of a PNG or SVG, None if they cannot be read."""
    if mime == "image/png":
        try:
            head = base64.b64decode(content[:48])
        except ValueError:
            return None
        size = png.size_of(head)
        return size and (str(size[0]), str(size[1]))
    if mime == "image/svg+xml" and (found := _SVG_SIZE.search(content[:10_000])):
        return tuple(number for _, number in sorted([(found[1], found[2]), (found[3], found[4])]))
    return None


def same_pixels(one: str, other: str) -> bool | None:
    """Return whether two pictures in base64 have the same pixels, None if they cannot be decoded."""
    try:
        from PIL import Image, ImageChops
    except ImportError:
        return None
    try:
        first, second = (_open(Image, picture) for picture in (one, other))
    except Exception:  # Pillow raises what its decoders raise for a broken or hostile picture
        return None
    if first.size != second.size:
        return False
    extremes: Any = ImageChops.difference(first, second).getextrema()
    return all(high <= _SHADES for _, high in extremes)


def _open(library: Any, picture: str) -> Any:
    image = library.open(io.BytesIO(base64.b64decode(picture)))
    if image.width * image.height > _MAX_PIXELS:
        raise ValueError("too large")
    return image.convert("RGBA")
