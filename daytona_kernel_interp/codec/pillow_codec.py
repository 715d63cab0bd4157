"""PIL images: PNG if it is lossless for the mode, else raw pixels.

========= ===================== =================================
kind       tree                  buffers
========= ===================== =================================
``png``    [mode, width, height] a PNG file
``pixels`` [mode, width, height] result of ``Image.tobytes``
========= ===================== =================================
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

from PIL import Image

from .libraries import UnsupportedValue

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

MAX_PIXELS = 64 << 20
_PNG_MODES = ("1", "L", "LA", "P", "RGB", "RGBA")
# Mode: bits per pixel.
_RAW_MODES = {"I": 32, "F": 32, "I;16": 16, "CMYK": 32, "YCbCr": 24, "LAB": 24, "HSV": 24, "RGBX": 32, "RGBa": 32}
_HEADER = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"


def take_apart(value: Any, arrow: bool) -> tuple[str, Any, list[Any]] | None:
    """Return kind, tree and buffers of an image: the pixels of its first frame, without file metadata."""
    if not isinstance(value, Image.Image):
        return None
    mode, (width, height) = value.mode, value.size
    if not 0 < width * height <= MAX_PIXELS:
        raise UnsupportedValue(
            f"an image of {width}x{height} pixels cannot be sent: the limit is {MAX_PIXELS:,} pixels"
        )
    tree = [mode, width, height]
    if mode in _PNG_MODES:
        file = io.BytesIO()
        value.save(file, "PNG", compress_level=1, icc_profile=None)
        return "png", tree, [file.getbuffer()]
    if mode in _RAW_MODES:
        return "pixels", tree, [value.tobytes()]
    raise UnsupportedValue(f"an image of mode {mode} cannot be sent: convert it with .convert('RGBA')")


def put_together(kind: str, tree: Any, buffers: Sequence[Any], claim: Callable[[int], None]) -> Any:
    """Return the decoded image, loaded in memory."""
    mode, width, height = tree
    (data,) = buffers
    if not (type(width) is type(height) is int and width > 0 and height > 0 and width * height <= MAX_PIXELS):
        raise ValueError("not the size of an image")
    if kind == "pixels":
        if len(data) * 8 != width * height * _RAW_MODES[mode]:
            raise ValueError("an image has another size than its buffer")
        return Image.frombytes(mode, (width, height), bytes(data))
    if kind != "png" or mode not in _PNG_MODES:
        raise ValueError("no such kind")
    return _read_png(mode, width, height, bytes(data), claim)


def _read_png(mode: str, width: int, height: int, data: bytes, claim: Callable[[int], None]) -> Any:
    size = width.to_bytes(4, "big") + height.to_bytes(4, "big")
    if not data.startswith(_HEADER + size):
        raise ValueError("not a PNG of that size")
    claim(2 * 4 * width * height)
    with Image.open(io.BytesIO(data), formats=["PNG"]) as file:
        if file.mode != mode or file.size != (width, height):
            raise ValueError("not the image that was announced")
        file.load()
        return file.copy()
