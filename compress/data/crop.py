"""The part of a picture that training looks at, drawn anew each time."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from compress.recipe import Augment

_CROP_TRIES = 10


def random_box(
    size_px: tuple[int, int], augment: Augment, rng: np.random.Generator
) -> tuple[float, float, float, float]:
    """Draw a crop by its share of the area and its aspect ratio.

    What sticks out of the picture is drawn again; where nothing fits, as with strips, the middle
    is taken, as large as the largest aspect ratio allows.

    Source: Szegedy et al., "Going deeper with convolutions", CVPR 2015, section 6.
    """
    width, height = size_px
    for _ in range(_CROP_TRIES):
        area = rng.uniform(*augment.crop_scale) * width * height
        aspect = np.exp(rng.uniform(-1, 1) * np.log(augment.crop_aspect))
        crop_width, crop_height = float(np.sqrt(area * aspect)), float(np.sqrt(area / aspect))
        # Half a pixel of grace: at full scale rounding alone may exceed the picture.
        if crop_width <= width + 0.5 and crop_height <= height + 0.5:
            break
    else:
        crop_width = min(width, height * augment.crop_aspect)
        crop_height = min(height, width * augment.crop_aspect)
        left, top = (width - crop_width) / 2, (height - crop_height) / 2
        return left, top, left + crop_width, top + crop_height
    crop_width, crop_height = min(crop_width, width), min(crop_height, height)
    left = rng.uniform(0, width - crop_width)
    top = rng.uniform(0, height - crop_height)
    return left, top, left + crop_width, top + crop_height
