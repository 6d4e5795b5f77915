"""Pictures inside a page, as ``data:`` addresses."""

from __future__ import annotations

import base64
import io

from PIL import Image

_SMALL_PX = 64


def address(image: Image.Image, longest_px: int = 128) -> str:
    """Return a picture as an address; small ones are stored without loss.

    Args:
        image: Left as it is.
        longest_px: Larger pictures are scaled down to it.
    """
    small = image.copy()
    small.thumbnail((longest_px, longest_px))
    kind = "png" if max(small.size) <= _SMALL_PX else "jpeg"
    data = io.BytesIO()
    small.save(data, kind)
    return f"data:image/{kind};base64,{base64.b64encode(data.getvalue()).decode()}"
