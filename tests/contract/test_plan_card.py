from __future__ import annotations

import dataclasses
import json

import pytest

from contract import plan_card
from contract.errors import CardError
from contract.plan_card import PARAMETER, PlanCard

CARD = PlanCard(
    tensorrt="10.3.0",
    capability="8.7",
    gpu="Orin",
    driver="540.4.0, CUDA 12.6",
    flags=("SPARSE_WEIGHTS", "TF32"),
    max_batch=8,
    model_sha256="ab" * 32,
    sparsity={"eligible": ["fc1", "fc2"], "picked": ["fc1"], "fell_back": {"fc2": "slower"}},
)


def test_cards_come_back_from_parameters_as_they_went():
    other = dataclasses.replace(CARD, capability="8.0", gpu="A100", sparsity={})
    cards = {"orin.plan": CARD, "a100.plan": other}

    parameters = plan_card.to_parameters(cards)

    assert list(parameters) == [PARAMETER]
    assert plan_card.from_parameters({"gpusq_card": "{}", **parameters}) == cards


def test_a_model_without_plans_has_no_cards():
    assert plan_card.from_parameters({"gpusq_card": "{}"}) == {}
    assert plan_card.to_parameters({}) == {}


def test_a_plan_is_taken_where_version_and_capability_are_the_same():
    assert CARD.refusal("10.3.0", "8.7") is None


@pytest.mark.parametrize(
    ("tensorrt", "capability"), [("10.3.1", "8.7"), ("11.4.1", "8.7"), ("10.3.0", "9.0")]
)
def test_a_plan_of_elsewhere_is_refused_with_what_it_needs(tensorrt: str, capability: str):
    said = CARD.refusal(tensorrt, capability)

    assert said is not None
    assert f"TensorRT {tensorrt} and compute capability {capability}" in said
    assert "built by TensorRT 10.3.0 for compute capability 8.7 (Orin)" in said
    assert "gpusq plan" in said


def text(**changes: object) -> str:
    plain = {**dataclasses.asdict(CARD), **changes}
    return json.dumps({"model.plan": {k: v for k, v in plain.items() if v != "left out"}})


@pytest.mark.parametrize(
    ("parameter", "said"),
    [
        ("{", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("[]", "must be an object of plans by file name, got list"),
        ('{"model.plan": 3}', r"gpusq_plans\['model.plan'\] must be an object, got int"),
        (text(tensorrt="left out"), "lacks: tensorrt"),
        (text(cuda="12"), "unknown fields: cuda"),
        (text(tensorrt=10.3), r"\.tensorrt must be text, got 10.3"),
        (text(flags="TF32"), r"\.flags must be a list of texts"),
        (text(flags=[1]), r"\.flags must be a list of texts"),
        (text(max_batch=True), r"\.max_batch must be a whole number"),
        (text(max_batch=0), "at least one picture, got max_batch = 0"),
        (text(sparsity=[]), r"\.sparsity must be an object"),
    ],
)
def test_what_is_wrong_with_a_card_is_said(parameter: str, said: str):
    with pytest.raises(CardError, match=said):
        plan_card.from_parameters({PARAMETER: parameter})


def test_a_card_without_proof_of_sparsity_is_read():
    cards = plan_card.from_parameters({PARAMETER: text(sparsity="left out")})

    assert cards["model.plan"].sparsity == {}
