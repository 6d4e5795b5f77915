"""What regions should have become: each meets the object that it overlaps most.

Objects come padded to one number a picture, label -1 where there is none. Samples are drawn from
torch's own generator, so a run that seeds it repeats.
"""

from __future__ import annotations

import torch
from torch import Tensor

from compress.boxes import overlaps
from compress.networks.regions.offsets import Spread, offsets_between, taken

# The papers' numbers: anchors above the first are objects, below the second background.
_ANCHOR_OBJECT, _ANCHOR_BACKGROUND = 0.7, 0.3
_ANCHOR_SHARE, _REGION_SHARE = 0.5, 0.25


def anchor_goals(
    anchors: Tensor, boxes: Tensor, labels: Tensor, count: int, spread: Spread
) -> tuple[Tensor, Tensor]:
    """Say what the proposal network should answer for a sample of the anchors.

    Args:
        anchors: [a, 4].
        boxes: [b, n, 4] of the objects.
        labels: [b, n].
        count: Anchors in a picture's sample.
        spread: Of the offsets.

    Returns:
        [b, a] float: 1 an object, 0 background, -1 not in the sample; and offsets [b, a, 4].

    Source: Ren et al., NeurIPS 2015, arXiv:1506.01497, section 3.1.2.
    """
    shared = _with_objects(anchors.expand(len(boxes), -1, -1), boxes, labels)
    most, places = shared.max(dim=2)
    # Every object gets the anchors that fit it best, unless they hardly touch it.
    best = shared.amax(dim=1, keepdim=True)
    chosen = ((shared == best) & (best > _ANCHOR_BACKGROUND)).any(dim=2)
    objects = chosen | (most >= _ANCHOR_OBJECT)
    background = ~objects & (most < _ANCHOR_BACKGROUND)
    drawn_objects, drawn_background = _drawn(objects, background, count, _ANCHOR_SHARE)
    answers = drawn_objects.float() - (~drawn_objects & ~drawn_background).float()
    return answers, offsets_between(anchors, taken(boxes, places), spread)


def region_goals(
    regions: Tensor,
    valid: Tensor,
    objects: tuple[Tensor, Tensor],
    threshold: float,
    count: int,
) -> Tensor:
    """Say which object each of a sample of regions shows.

    Args:
        regions: [b, r, 4].
        valid: [b, r] bool; the others are never in the sample.
        objects: Boxes [b, n, 4] and labels [b, n].
        threshold: Overlap from which a region shows an object.
        count: Regions in a picture's sample.

    Returns:
        [b, r] int64 places among the objects: -1 for background, -2 not in the sample.

    Source: Girshick, ICCV 2015, arXiv:1504.08083, section 2.3.
    """
    most, places = _with_objects(regions, *objects).max(dim=2)
    shows = (most >= threshold) & valid
    drawn_objects, drawn_background = _drawn(shows, valid & ~shows, count, _REGION_SHARE)
    places = torch.where(drawn_objects, places, torch.full_like(places, -2))
    return torch.where(drawn_background, torch.full_like(places, -1), places)


def some(wanted: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Draw a fixed number of places where there is something.

    Args:
        wanted: [b, n] bool.
        count: Places in a picture's sample.

    Returns:
        Places [b, count], and [b, count] bool: whether there is something at each.
    """
    order = torch.rand(wanted.shape, device=wanted.device) + wanted
    places = order.topk(min(count, wanted.shape[1]), dim=1).indices
    return places, taken(wanted, places)


def _with_objects(boxes: Tensor, objects: Tensor, labels: Tensor) -> Tensor:
    """Return overlaps [b, m, n], -1 with what is no object."""
    shared = overlaps(boxes.detach().float(), objects.float())
    return torch.where((labels >= 0)[:, None, :], shared, -1.0)


def _drawn(objects: Tensor, background: Tensor, count: int, share: float) -> tuple[Tensor, Tensor]:
    """Draw objects up to a share of a sample, and background for the rest of it: both [b, n]."""
    few = _first(objects, torch.full_like(objects[:, :1], int(count * share), dtype=torch.long))
    return few, _first(background, count - few.sum(dim=1, keepdim=True))


def _first(wanted: Tensor, counts: Tensor) -> Tensor:
    """Keep ``counts`` [b, 1] of the wanted places, drawn at random: [b, n] bool."""
    order = torch.rand(wanted.shape, device=wanted.device) + wanted
    ranks = order.argsort(dim=1, descending=True).argsort(dim=1)
    return wanted & (ranks < counts)
