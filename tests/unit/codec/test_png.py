"""The head of a PNG file."""

from __future__ import annotations

from daytona_kernel_interp.codec import png


def test_size() -> None:
    """Width and height are in the header chunk; other data has no size."""
    head = png.SIGNATURE + b"\0\0\0\rIHDR" + (640).to_bytes(4, "big") + (480).to_bytes(4, "big")
    assert png.size_of(head + b"more") == (640, 480)
    assert png.size_of(head[:-1]) is None
    assert png.size_of(b"GIF89a" + head) is None
