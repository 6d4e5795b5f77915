"""Detection by queries (DETR): each query names one object or none.

The student begins as its teacher, with the same learned queries, so query i of the one is
compared with query i of the other; labels are matched to queries at the lowest cost.

Source: Carion et al., "End-to-End Object Detection with Transformers", ECCV 2020, sections 3.1 and
A.2; Zhu et al., "Deformable DETR", ICLR 2021, appendix A.4, for sigmoid classes.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from compress.boxes import giou, paired_giou, to_xyxy

# Weights of the two box terms, and of "no object" among the classes (DETR, section A.4).
_L1, _GIOU, _NOTHING = 5.0, 2.0, 0.1
# Focal loss of Deformable DETR: its weight and two parameters.
_FOCAL, _ALPHA, _GAMMA = 2.0, 0.25, 2.0
# Queries above it say that there is an object.
_CONFIDENT = 0.5


@dataclass(frozen=True)
class SetCriterion:
    """Compares sets of boxes.

    Outputs are ``logits`` [b, q, c], ``boxes`` [b, q, 4] as centre and sides in 0..1, and
    ``sides`` [4]: width, height, width and height of the input in pixels. Where queries are
    proposed, ``proposal_logits`` [b, s, 1] and ``proposal_boxes`` [b, s, 4] are compared in the
    same way, as a set of one class (Deformable DETR, appendix A.4). Targets are ``labels``
    [b, n] class indices, -1 where there is no object, and ``boxes`` [b, n, 4] xyxy in pixels.

    Args:
        sigmoid: Whether each class has a probability of its own (c = k); otherwise the last of
            the c = k + 1 says that there is nothing.
    """

    sigmoid: bool = False

    def hard(self, outputs: dict[str, Tensor], targets: dict[str, Tensor]) -> Tensor:
        """Match objects to queries and return the loss of classes and boxes."""
        total = self._hard(outputs, targets)
        if proposals := _proposals(outputs):
            anything = {**targets, "labels": targets["labels"].clamp(max=0)}
            total = total + SetCriterion(sigmoid=True).hard(proposals, anything)
        return total

    def _hard(self, outputs: dict[str, Tensor], targets: dict[str, Tensor]) -> Tensor:
        there = targets["labels"] >= 0
        wanted = _normalized(targets["boxes"], outputs["sides"])
        picture, query, place = self._matched(outputs, targets["labels"], wanted)
        count = there.sum().clamp(min=1)
        labels = targets["labels"][picture, place]
        ours, theirs = outputs["boxes"][picture, query], wanted[picture, place]
        overlap = paired_giou(to_xyxy(ours), to_xyxy(theirs))
        boxes = _L1 * (ours - theirs).abs().sum() + _GIOU * (1 - overlap).sum()
        return self._classes(outputs["logits"], (picture, query), labels, count) + boxes / count

    def soft(
        self, student: dict[str, Tensor], teacher: dict[str, Tensor], temperature: float
    ) -> Tensor:
        """Return the divergence of classes and boxes; queries count by the teacher's confidence."""
        total = self._soft(student, teacher, temperature)
        if proposals := _proposals(teacher):
            one_class = SetCriterion(sigmoid=True)
            total = total + one_class.soft(_proposals(student), proposals, temperature)
        return total

    def _soft(
        self, student: dict[str, Tensor], teacher: dict[str, Tensor], temperature: float
    ) -> Tensor:
        confidence = self._confidence(teacher["logits"])
        # What is nothing to the teacher shall stay nothing, at the weight it has in training.
        weight = confidence.clamp(min=_NOTHING)
        divergence = self._divergence(
            student["logits"] / temperature, teacher["logits"] / temperature
        )
        ours, theirs = student["boxes"], teacher["boxes"]
        overlap = paired_giou(to_xyxy(ours), to_xyxy(theirs))
        boxes = _L1 * (ours - theirs).abs().sum(dim=-1) + _GIOU * (1 - overlap)
        classes = (weight * divergence).sum() / weight.sum() * temperature**2
        return classes + (confidence * boxes).sum() / confidence.sum().clamp(min=1e-6)

    def agreement(self, student: dict[str, Tensor], teacher: dict[str, Tensor]) -> Tensor:
        """Return the share of the teacher's objects that the student gives the same class.

        Of a picture on which the teacher sees nothing, the share of all queries.
        """
        ours, theirs = self._best(student["logits"]), self._best(teacher["logits"])
        seen = (self._confidence(teacher["logits"]) >= _CONFIDENT).float()
        seen = torch.where(seen.sum(dim=1, keepdim=True) > 0, seen, torch.ones_like(seen))
        return ((ours == theirs) * seen).sum(dim=1) / seen.sum(dim=1)

    def predicted(self, teacher: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the objects of which the teacher is sure."""
        probabilities = self._probabilities(teacher["logits"])
        sure, best = probabilities.max(dim=-1)
        labels = torch.where(sure >= _CONFIDENT, best, torch.full_like(best, -1))
        return {"labels": labels, "boxes": to_xyxy(teacher["boxes"]) * teacher["sides"]}

    def _probabilities(self, logits: Tensor) -> Tensor:
        """Return the probability of each of the k classes."""
        return logits.sigmoid() if self.sigmoid else logits.softmax(dim=-1)[..., :-1]

    def _confidence(self, logits: Tensor) -> Tensor:
        return self._probabilities(logits).max(dim=-1).values

    def _best(self, logits: Tensor) -> Tensor:
        """Return the best class of each query; -1 where that is nothing."""
        if not self.sigmoid:
            best = logits.argmax(dim=-1)
            return torch.where(best == logits.shape[-1] - 1, torch.full_like(best, -1), best)
        best = logits.argmax(dim=-1)
        return torch.where(self._confidence(logits) < _CONFIDENT, torch.full_like(best, -1), best)

    def _divergence(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Return ``KL(teacher || student)`` of each query's classes: [b, q]."""
        if self.sigmoid:
            truth = teacher.sigmoid()
            cross = F.binary_cross_entropy_with_logits(student, truth, reduction="none")
            entropy = F.binary_cross_entropy_with_logits(teacher, truth, reduction="none")
            return (cross - entropy).sum(dim=-1)
        ours, theirs = student.log_softmax(dim=-1), teacher.log_softmax(dim=-1)
        return F.kl_div(ours, theirs, reduction="none", log_target=True).sum(dim=-1)

    def _classes(
        self, logits: Tensor, matched: tuple[Tensor, Tensor], labels: Tensor, count: Tensor
    ) -> Tensor:
        if self.sigmoid:
            wanted = torch.zeros_like(logits)
            picture, query = matched
            wanted[picture, query, labels] = 1
            return _FOCAL * _focal(logits, wanted).sum() / count
        nothing = logits.shape[-1] - 1
        wanted = torch.full(logits.shape[:2], nothing, device=logits.device)
        wanted[matched] = labels
        weights = torch.ones(logits.shape[-1], device=logits.device)
        weights[nothing] = _NOTHING
        return F.cross_entropy(logits.flatten(0, 1), wanted.flatten(), weights)

    @torch.no_grad()
    def _matched(
        self, outputs: dict[str, Tensor], labels: Tensor, wanted: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Match each object to one query; return picture, query and place of each pair."""
        cost = self._class_cost(outputs["logits"], labels.clamp(min=0))
        cost = cost + _L1 * torch.cdist(outputs["boxes"], wanted, p=1)
        cost = cost - _GIOU * giou(to_xyxy(outputs["boxes"]), to_xyxy(wanted))
        # The one place where a step waits for the GPU: the assignment is solved on the CPU.
        # Where training diverged there is nothing to match; the loss will tell.
        costs, there = cost.nan_to_num().cpu().numpy(), (labels >= 0).cpu().numpy()
        pairs: list[tuple[int, int, int]] = []
        for picture, (matrix, real) in enumerate(zip(costs, there, strict=True)):
            places = real.nonzero()[0]
            queries, chosen = linear_sum_assignment(matrix[:, places])
            pairs += [
                (picture, int(q), int(places[c])) for q, c in zip(queries, chosen, strict=True)
            ]
        found = torch.tensor(pairs, dtype=torch.int64).reshape(-1, 3)
        found = found.to(labels.device, non_blocking=True)
        return found[:, 0], found[:, 1], found[:, 2]

    def _class_cost(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return what it costs each query [b, q] to be each object [b, n]: [b, q, n]."""
        if self.sigmoid:
            there, away = _focal_terms(logits)
            each = _FOCAL * (there - away)
        else:
            each = -logits.softmax(dim=-1)
        return each.gather(2, labels[:, None].expand(-1, logits.shape[1], -1))


def _proposals(outputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return what is proposed as a set of its own; empty where nothing is."""
    if "proposal_logits" not in outputs:
        return {}
    logits, boxes = outputs["proposal_logits"], outputs["proposal_boxes"]
    return {"logits": logits, "boxes": boxes, "sides": outputs["sides"]}


def _normalized(boxes_px: Tensor, sides: Tensor) -> Tensor:
    """Return xyxy in pixels as centre and sides in 0..1."""
    corners = boxes_px / sides
    first, last = corners[..., :2], corners[..., 2:]
    return torch.cat([(first + last) / 2, last - first], dim=-1)


def _focal_terms(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Return the focal loss of each class if it is there, and if it is not."""
    probability = logits.sigmoid()
    there = _ALPHA * (1 - probability) ** _GAMMA * F.softplus(-logits)
    away = (1 - _ALPHA) * probability**_GAMMA * F.softplus(logits)
    return there, away


def _focal(logits: Tensor, wanted: Tensor) -> Tensor:
    there, away = _focal_terms(logits)
    return there * wanted + away * (1 - wanted)
