"""The mixed distillation of networks that detect and segment."""

import copy

import pytest
import torch

from compress.distill import MixedDistillation, Weights
from compress.networks import FAMILIES
from compress.networks.network import Network
from tests.compress import graphs
from tests.compress.operators import waits
from tests.end_to_end import systems

CLASSES = 3


def network(family: str, seed: int = 0) -> Network:
    torch.manual_seed(seed)
    known = FAMILIES[family]
    body = known.build({**systems.ARCHITECTURES[family], "num_labels": CLASSES})
    return known.wrap(graphs.shaken(body), (0.5,) * 3, (0.25,) * 3).eval()


def mixed(family: str, teacher: Network, student: Network, **changes) -> MixedDistillation:
    names = [f"body.{name}" for name in FAMILIES[family].blocks(teacher.body)[-2:]]
    plain = {"hard": 1, "soft": 10, "feature": 5, "temperature": 1.0, "agree_only": True}
    weights = Weights(**{**plain, **changes}, layers=dict.fromkeys(names, 1.0))
    return MixedDistillation(teacher, student, weights, FAMILIES[family].criterion)


def labelled(family: str) -> object:
    """Return targets for two pictures, the second without an object."""
    side = systems.SIDE_PX
    if family == "upernet":
        return torch.randint(0, CLASSES, (2, side, side), generator=torch.Generator())
    masks = torch.zeros(2, 2, side, side, dtype=torch.uint8)
    masks[0, 0, 10:40, 8:30] = 1
    boxes = torch.zeros(2, 2, 4)
    boxes[0, 0] = torch.tensor([8.0, 10, 30, 40])
    return {"labels": torch.tensor([[1, -1], [-1, -1]]), "boxes": boxes, "masks": masks}


@pytest.fixture
def pictures() -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    shape = (2, systems.SIDE_PX, systems.SIDE_PX, 3)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)


FAMILY = pytest.mark.parametrize("family", systems.ARCHITECTURES)


@FAMILY
@pytest.mark.parametrize("labels", [True, False])
def test_a_student_that_is_its_teacher_differs_in_nothing(family, labels, pictures):
    teacher = network(family)
    compare = mixed(family, teacher, copy.deepcopy(teacher))

    losses = compare(pictures, labelled(family) if labels else None)

    assert losses.terms["soft"].item() == pytest.approx(0, abs=1e-4)
    assert losses.terms["feature"].item() == pytest.approx(0, abs=1e-6)
    assert torch.isfinite(losses.terms["hard"])


@FAMILY
def test_another_network_differs_and_every_weight_hears_of_it(family, pictures):
    teacher, student = network(family), network(family, seed=1)
    compare = mixed(family, teacher, student, agree_only=False)

    losses = compare(pictures, labelled(family))
    losses.total.backward()

    assert losses.terms["soft"] > 1e-3
    assert losses.terms["feature"] > 1e-3
    silent = [name for name, weight in student.named_parameters() if weight.grad is None]
    # Refined boxes are handed from one layer to the next without gradients.
    assert [name for name in silent if ".decoder.bbox_embed.0." not in name] == []


@FAMILY
@pytest.mark.parametrize("labels", [True, False])
def test_a_step_waits_for_the_device_to_match_queries_at_most(family, labels, pictures):
    compare = mixed(family, network(family), network(family, seed=1))
    targets = labelled(family) if labels else None

    with waits() as found:
        compare(pictures, targets).total.backward()

    matches = {"deformable_detr": 2, "detr": 1}.get(family, 0)
    # What it costs, and which objects there are.
    assert found == ["cpu()", "numpy()"] * 2 * matches


@FAMILY
def test_bfloat16_outputs_are_compared_in_float32(family, pictures):
    teacher, student = network(family), network(family, seed=1)

    with torch.autocast("cpu", torch.bfloat16):
        losses = mixed(family, teacher, student)(pictures, None)

    assert {term.dtype for term in losses.terms.values()} == {torch.float32}
    assert torch.isfinite(losses.total)
