import numpy as np
import pytest

from contract import labels
from contract.preprocess import Preprocessing
from contract.view import View
from service.errors import Code, GatewayError, ModelError
from service.tasks import classify
from service.tasks.classify import Options, Prediction
from service.tasks.task import Asked

NAMES = labels.inline(["a", "b", "c", "d"])
VIEW = View.of((8, 8), Preprocessing(8, 8, 8))


def predict(scores: np.ndarray, top_k: int) -> list[Prediction]:
    return classify.predict({"scores": scores}, Asked(NAMES, VIEW, Options(top_k)))


def test_the_best_class_comes_first():
    scores = np.array([[0.1, 0.6, 0.05, 0.25]], np.float32)

    predictions = predict(scores, top_k=2)

    assert [(p.index, p.label) for p in predictions] == [(1, "b"), (3, "d")]
    assert predictions[0].score == pytest.approx(0.6)


def test_of_equal_scores_the_lower_index_comes_first():
    scores = np.full((1, 4), 0.25, np.float32)

    predictions = predict(scores, top_k=3)

    assert [p.index for p in predictions] == [0, 1, 2]


def test_fewer_classes_than_asked_for_are_all_named():
    scores = np.array([[0.4, 0.3, 0.2, 0.1]], np.float32)

    assert len(predict(scores, top_k=100)) == 4


def test_the_order_is_a_slow_sort_of_the_pairs():
    scores = np.random.default_rng(0).integers(0, 5, 50).astype(np.float32)
    expected = sorted(range(50), key=lambda i: (-scores[i], i))

    assert classify.best(scores, 50).tolist() == expected


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_scores_that_are_not_numbers_are_no_answer(value: float):
    scores = np.array([[0.1, value, 0.2, 0.3]], np.float32)

    with pytest.raises(GatewayError) as caught:
        predict(scores, top_k=1)

    assert caught.value.code is Code.INTERNAL


@pytest.mark.parametrize(
    "outputs",
    [
        {},
        {"logits": ("float32", (-1, 4))},
        {"scores": ("float32", (-1, 5))},
        {"scores": ("float16", (-1, 4))},
    ],
)
def test_outputs_of_no_classifier_are_refused(outputs: dict):
    with pytest.raises(ModelError, match="4 labels"):
        classify.require_outputs(outputs, NAMES)
