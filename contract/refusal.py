"""Say why bytes did not become a picture: what was expected, what came, what to do.

In our own words: what a decoder says is about its insides, and stays the cause of the error.
"""

from __future__ import annotations

import re
from typing import Final

from contract.errors import ImageError, ImageFault

KNOWN: Final = "a JPEG, PNG or WebP picture"
# Pillow's names; MPO is a JPEG with more pictures behind the first, which many phones write.
NAMES: Final = {"JPEG": "JPEG", "MPO": "JPEG", "PNG": "PNG", "WEBP": "WebP"}
_SIGNATURES: Final = {
    "JPEG": rb"\xff\xd8\xff",
    "PNG": rb"\x89PNG\r\n\x1a\n",
    "WebP": rb"RIFF....WEBP",
}
# So short that the signature itself is cut off.
_CUT_SIGNATURES: Final = {
    "JPEG": rb"\xff\xd8?\Z",
    "PNG": rb"\x89(P(N(G(\r(\n\x1a?)?)?)?)?)?\Z",
    "WebP": rb"R(I(F(F.{0,7})?)?)?\Z",
}
_OTHERS: Final = {
    rb"GIF8[79]a": "GIF",
    rb"BM.{4}\x00\x00\x00\x00": "BMP",
    rb"II\*\x00|MM\x00\*": "TIFF",
    rb"....ftyp(hei|hev|mif|msf)": "HEIC",
    rb"....ftypavi": "AVIF",
    rb"....ftyp": "a video",
    rb"\xff\x0a|\x00\x00\x00\x0cJXL ": "JPEG XL",
    rb"\x00\x00\x00\x0cjP  |\xff\x4f\xff\x51": "JPEG 2000",
    rb"%PDF-": "PDF",
    rb"%!PS": "PostScript",
    rb"P[1-7]\s": "PNM",
    rb"8BPS": "Photoshop",
    rb"\x00\x00\x01\x00": "ICO",
    rb"PK\x03\x04": "a ZIP archive",
    rb"\s*<(!doctype html|html)": "HTML",
    rb"\s*<(svg|\?xml)": "SVG",
}
_LIMIT_OF_TEXTS: Final = "MAX_TEXT"


def unreadable(data: bytes, cause: BaseException) -> ImageError:
    """Say what bytes are that could not even be opened as a picture."""
    if not data:
        return ImageError(
            ImageFault.EMPTY,
            f"Expected {KNOWN}, got an empty file. Choose one with a picture in it.",
        )
    if kind(data):
        return damaged(data, "its header cannot be read", cause)
    return ImageError(
        ImageFault.UNSUPPORTED_FORMAT,
        f"Expected {KNOWN}, got {_other(data)}. Convert it to one of these formats, or choose "
        "another file.",
    )


def damaged(data: bytes, what: str, cause: BaseException) -> ImageError:
    """Say that a picture of a known format is not whole.

    Args:
        data: The file.
        what: What could not be done with it.
        cause: What the decoder raised.
    """
    name = kind(data) or "picture"
    if _LIMIT_OF_TEXTS in str(cause):
        message = (
            f"Expected a {name} with at most 1 MB in each text and colour profile, this one has "
            "more. Save it again without them."
        )
    else:
        message = (
            f"Expected a whole {name} file, this one is damaged or cut off: {what}. Send all of "
            "it, or save it again with another program."
        )
    return ImageError(ImageFault.DAMAGED, message)


def too_many_pixels(what: str, limit: int, came: str) -> ImageError:
    """Say that a picture has too many pixels.

    Args:
        what: Which kind of picture.
        limit: How many it may have.
        came: How many it has.
    """
    return ImageError(
        ImageFault.TOO_MANY_PIXELS,
        f"A {what} may have {limit:,} pixels, this one has {came}. Send it smaller.",
    )


def bomb(data: bytes, limit: int, cause: BaseException) -> ImageError:
    """Say that a picture has more pixels than Pillow opens, which is beyond any limit of ours."""
    claimed = re.search(r"\((\d+) pixels\)", str(cause))
    came = f"{int(claimed[1]):,}" if claimed else "far more"
    return too_many_pixels(f"{kind(data) or 'picture'} picture", limit, came)


def kind(data: bytes) -> str | None:
    """Return the format that a file begins as, of those that are read; None for any other.

    >>> kind(b"GIF89a"), kind(b"RIFF????WEBPVP8 ")
    (None, 'WebP')
    """
    for signatures in (_SIGNATURES, _CUT_SIGNATURES):
        for name, signature in signatures.items():
            if re.match(signature, data, re.DOTALL):
                return name
    return None


def _other(data: bytes) -> str:
    for signature, name in _OTHERS.items():
        if re.match(signature, data, re.DOTALL | re.IGNORECASE):
            return name
    size = "1 byte" if len(data) == 1 else f"{len(data):,} bytes"
    return f"a file of {size} in none of these formats"
