"""How large a picture says it is, by a look at a few bytes: for estimates, not for decisions.

Takes microseconds whatever the file holds, where Pillow may be kept busy by a file that is made for
it. Whoever must be sure asks :func:`contract.opening.read_header`.
"""

from __future__ import annotations

import struct
from typing import Final

from contract.opening import Header

_PNG: Final = b"\x89PNG\r\n\x1a\n"
_JPEG: Final = b"\xff\xd8\xff"
# Cameras write a dozen segments before the one that has the size.
_MOST_SEGMENTS: Final = 64
# Start of frame: baseline, extended and progressive Huffman coding. The rest nobody writes.
_FRAMES: Final = (0xC0, 0xC1, 0xC2)
_PROGRESSIVE: Final = 0xC2
_SCAN: Final = 0xDA


def glance(data: bytes) -> Header | None:
    """Return what a JPEG or PNG seems to be; None where it takes more than a look.

    >>> glance(b"no picture") is None
    True
    """
    if data.startswith(_PNG) and data[12:16] == b"IHDR" and len(data) >= 24:
        return _header(*struct.unpack_from(">II", data, 16), reducible=False)
    return _jpeg(data) if data.startswith(_JPEG) else None


def _jpeg(data: bytes) -> Header | None:
    at = 2
    for _ in range(_MOST_SEGMENTS):
        # A marker, its length and, where it begins a frame, precision, height and width.
        if len(data) < at + 9 or data[at] != 0xFF or data[at + 1] == _SCAN:
            return None
        if data[at + 1] in _FRAMES:
            height, width = struct.unpack_from(">HH", data, at + 5)
            return _header(width, height, reducible=data[at + 1] != _PROGRESSIVE)
        at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return None


def _header(width: int, height: int, *, reducible: bool) -> Header | None:
    """Return a header, if there are pixels under it: estimates divide by sides."""
    return Header((width, height), reducible) if width and height else None
