"""Detection by regions: what is proposed, what it is, where its box is and which points it holds.

The student judges the regions of its teacher, so that both say something on the same places; see
docs/detection.md. The terms are added with equal weight, those of a cascade's stages with the
weights of its paper.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

# Of the stages of a cascade: Cai and Vasconcelos, arXiv:1906.09756, section 5.1.
_STAGE_WEIGHTS = (1.0, 0.5, 0.25)
# Detections from this score on are taken for labels where there are none.
_SURE = 0.5

Raw = Mapping[str, Tensor]


class Regions:
    """Compares what RegionBody gives; labels are objects, padded to one number a picture.

    Targets hold ``boxes`` [b, n, 4] in pixels of the input, ``labels`` [b, n], -1 where there is no
    object, and where masks are known ``masks`` [b, n, h, w] of the whole input or ``box_masks``
    [b, n, m, m] within the boxes. The outputs have to come from a hint with the same targets.
    """

    def hard(self, outputs: Raw, targets: Raw) -> Tensor:
        """Return the losses of proposals, classes, boxes and masks, added up.

        Source: He et al., ICCV 2017, arXiv:1703.06870, section 3; absolute differences of offsets
        as the detectors of Liu et al., ICCV 2021, arXiv:2103.14030, were trained.
        """
        total = _proposal_loss(outputs)
        for stage in range(stages(outputs)):
            boxes = _region_loss(outputs, targets["labels"], stage)
            total = total + _STAGE_WEIGHTS[stage] * (boxes + _mask_loss(outputs, targets, stage))
        return total

    def soft(self, student: Raw, teacher: Raw, temperature: float) -> Tensor:
        """Return how far the student is from its teacher; zero where both say the same.

        Logits are compared by ``KL(teacher || student)``, those of classes at the temperature, and
        boxes by their offsets. Offsets and masks count by the teacher's confidence.
        """
        sure = teacher["objectness"].sigmoid()
        apart = binary_divergence(student["objectness"], teacher["objectness"])
        total = apart.sum() / sure.sum().clamp(min=1)
        total = total + _between(student["anchor_offsets"], teacher["anchor_offsets"], sure)
        for stage in range(stages(teacher)):
            term = _soft_stage(student, teacher, stage, temperature)
            total = total + _STAGE_WEIGHTS[stage] * (term + _soft_masks(student, teacher, stage))
        return total

    def agreement(self, student: Raw, teacher: Raw) -> Tensor:
        """Return of each picture the share of the teacher's objects that are the student's too.

        An object is a region whose likeliest class is not the background; 1 where there is none.
        """
        theirs = _mean_logits(teacher)
        ours = _mean_logits(student)[:, : theirs.shape[1]]
        answers = theirs.argmax(dim=2)
        objects = teacher["valid"] & (answers < theirs.shape[2] - 1)
        same = (objects & (ours.argmax(dim=2) == answers)).sum(dim=1)
        count = objects.sum(dim=1)
        return torch.where(count > 0, same / count.clamp(min=1), torch.ones_like(same).float())

    def predicted(self, teacher: Raw) -> dict[str, Tensor]:
        """Return the teacher's detections that are more likely than not."""
        drawn = torch.stack(
            [teacher[f"masks.{stage}"].sigmoid() for stage in range(stages(teacher))]
        )
        labels = teacher["labels"]
        return {
            "boxes": teacher["boxes"],
            "labels": torch.where(teacher["scores"] >= _SURE, labels, torch.full_like(labels, -1)),
            "box_masks": drawn.mean(dim=0) >= 0.5,
        }


def stages(raw: Raw) -> int:
    """Return how many box heads outputs come from."""
    return sum(name.startswith("logits.") for name in raw)


def best_class(logits: Tensor) -> Tensor:
    """Return the likeliest class that is not the background, which is last: [b, r]."""
    return logits[..., :-1].argmax(dim=-1)


def of_class(offsets: Tensor, labels: Tensor) -> Tensor:
    """Return the offsets [b, r, 4] of one class a region, out of [b, r, classes or 1, 4]."""
    if offsets.shape[2] == 1:
        return offsets[:, :, 0]
    return offsets.gather(2, labels[..., None, None].expand(-1, -1, 1, 4))[:, :, 0]


def binary_divergence(student: Tensor, teacher: Tensor) -> Tensor:
    """Return ``KL(teacher || student)`` of logits of yes and no, element by element."""
    yes = F.logsigmoid(teacher) - F.logsigmoid(student)
    no = F.logsigmoid(-teacher) - F.logsigmoid(-student)
    likely = teacher.sigmoid()
    return likely * yes + (1 - likely) * no


def mask_goals(masks: Tensor, objects: Tensor, extents: Tensor, boxes: Tensor, side: int) -> Tensor:
    """Cut boxes out of masks.

    Args:
        masks: [b, n, h, w] of the objects.
        objects: [b, m], the object of each box.
        extents: [b, m, 4], what its mask covers, in pixels of the input.
        boxes: [b, m, 4] in the same.
        side: Of the cuts.

    Returns:
        [b, m, side, side], 1 where the centre of a cell lies in the mask and 0 elsewhere.
    """
    height, width = masks.shape[2:]
    x_at, x_inside = _cells(boxes[..., 0::2], extents[..., 0::2], width, side)
    y_at, y_inside = _cells(boxes[..., 1::2], extents[..., 1::2], height, side)
    rows = objects[..., None] * height + y_at
    places = rows[..., :, None] * width + x_at[..., None, :]
    cut = masks.flatten(1).gather(1, places.flatten(1)).reshape(places.shape)
    return cut.float() * (y_inside[..., :, None] & x_inside[..., None, :])


def _cells(ends: Tensor, extent: Tensor, length: int, side: int) -> tuple[Tensor, Tensor]:
    """Return where the cells' centres lie along one axis of a mask, and whether within it."""
    centres = (torch.arange(side, device=ends.device) + 0.5) / side
    at = ends[..., :1] + centres * (ends[..., 1:] - ends[..., :1])
    share = (at - extent[..., :1]) / (extent[..., 1:] - extent[..., :1]).clamp(min=1e-3)
    places = (share * length).floor().long()
    return places.clamp(0, length - 1), (places >= 0) & (places < length)


def _proposal_loss(outputs: Raw) -> Tensor:
    goals = outputs["anchor_goals"]
    drawn, objects = goals >= 0, goals > 0
    losses = F.binary_cross_entropy_with_logits(
        outputs["objectness"], goals.clamp(min=0), reduction="none"
    )
    apart = (outputs["anchor_offsets"] - outputs["anchor_goal_offsets"]).abs().sum(dim=2)
    return ((losses * drawn).sum() + (apart * objects).sum()) / drawn.sum().clamp(min=1)


def _region_loss(outputs: Raw, labels: Tensor, stage: int) -> Tensor:
    goals, logits = outputs[f"goals.{stage}"], outputs[f"logits.{stage}"]
    drawn, objects = goals > -2, goals >= 0
    if labels.shape[1]:
        classes = labels.long().gather(1, goals.clamp(min=0)).clamp(min=0)
    else:
        classes = torch.zeros_like(goals)
    background = torch.full_like(classes, logits.shape[2] - 1)
    answers = torch.where(objects, classes, background)
    losses = F.cross_entropy(logits.flatten(0, 1), answers.flatten(), reduction="none")
    moves = of_class(outputs[f"offsets.{stage}"], classes)
    apart = (moves - outputs[f"goal_offsets.{stage}"]).abs().sum(dim=2)
    total = (losses * drawn.flatten()).sum() + (apart * objects).sum()
    return total / drawn.sum().clamp(min=1)


def _mask_loss(outputs: Raw, targets: Raw, stage: int) -> Tensor:
    logits, objects = outputs[f"drawn.{stage}"], outputs[f"drawn_objects.{stage}"]
    name = "masks" if "masks" in targets else "box_masks"
    if name not in targets or not targets[name].shape[1]:
        # Still a function of every weight, for which several processes would wait.
        return logits.sum() * 0
    masks, chosen = targets[name], objects.clamp(min=0)
    if name == "masks":
        corner = torch.zeros(objects.shape, device=masks.device)
        sides = corner + masks.shape[3], corner + masks.shape[2]
        extents = torch.stack([corner, corner, *sides], dim=-1)
    else:
        extents = targets["boxes"].float().gather(1, chosen[..., None].expand(-1, -1, 4))
    boxes = outputs[f"drawn_boxes.{stage}"].detach().float()
    goals = mask_goals(masks, chosen, extents, boxes, logits.shape[-1])
    losses = F.binary_cross_entropy_with_logits(logits, goals, reduction="none").mean(dim=(2, 3))
    there = objects >= 0
    return (losses * there).sum() / there.sum().clamp(min=1)


def _soft_stage(student: Raw, teacher: Raw, stage: int, temperature: float) -> Tensor:
    theirs, valid = teacher[f"logits.{stage}"], teacher["valid"]
    # Behind the teacher's regions the student has those of labelled objects.
    count = theirs.shape[1]
    ours = student[f"logits.{stage}"][:, :count]
    apart = F.kl_div(
        F.log_softmax(ours / temperature, dim=2),
        F.log_softmax(theirs / temperature, dim=2),
        reduction="none",
        log_target=True,
    ).sum(dim=2)
    classes = (apart * valid).sum() / valid.sum().clamp(min=1) * temperature**2
    best = best_class(theirs)
    sure = theirs.softmax(dim=2).gather(2, best[..., None])[..., 0] * valid
    moves = of_class(student[f"offsets.{stage}"][:, :count], best)
    return classes + _between(moves, of_class(teacher[f"offsets.{stage}"], best), sure)


def _soft_masks(student: Raw, teacher: Raw, stage: int) -> Tensor:
    name = f"masks.{stage}"
    apart = binary_divergence(student[name], teacher[name]).mean(dim=(2, 3))
    return (apart * teacher["scores"]).sum() / teacher["scores"].sum().clamp(min=1)


def _between(ours: Tensor, theirs: Tensor, sure: Tensor) -> Tensor:
    """Return the mean distance of offsets [b, n, 4], weighted by ``sure`` [b, n]."""
    return ((ours - theirs).abs().sum(dim=2) * sure).sum() / sure.sum().clamp(min=1)


def _mean_logits(raw: Raw) -> Tensor:
    return torch.stack([raw[f"logits.{stage}"] for stage in range(stages(raw))]).mean(dim=0)
