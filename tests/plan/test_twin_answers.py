"""Answers of a network's twins, written into its bundle and read again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from compress.errors import PlanError
from compress.plan import recorded, twin_answers
from tests import sparse_bundle
from tests.bundles import colour_card, colour_graph, write_bundle


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return sparse_bundle.write(tmp_path_factory.mktemp("twins") / "bundle")


def test_each_twin_has_answers_of_its_own(bundle):
    pictures = recorded.read(bundle)

    answers = twin_answers.read(bundle, pictures)

    assert set(answers) == {"bundle", "float", "fp8", "int4"}
    np.testing.assert_array_equal(answers["bundle"]["scores"], pictures.answers["scores"])
    scores = [answers[kind]["scores"] for kind in ("bundle", "float", "fp8", "int4")]
    assert {one.shape for one in scores} == {(6, sparse_bundle.CLASSES)}
    assert all((one != other).any() for one in scores for other in scores if one is not other)


def test_a_network_that_lacks_twins_has_the_answers_of_those_it_has(tmp_path):
    folder = write_bundle(tmp_path / "colours", colour_graph(), colour_card())
    pictures = np.zeros((2, 8, 8, 3), np.uint8)
    recorded.ask(folder / "model.onnx", pictures, "black").save(folder)

    assert twin_answers.record(folder) == ["float"]
    assert set(twin_answers.read(folder, recorded.read(folder))) == {"bundle", "float"}


def test_without_pictures_there_are_no_answers(tmp_path):
    folder = write_bundle(tmp_path / "colours", colour_graph(), colour_card())

    assert twin_answers.read(folder, recorded.read(folder)) == {}
    with pytest.raises(PlanError, match=r"expected answers.npz in .*Export it again"):
        twin_answers.record(folder)


def test_a_damaged_file_is_refused(tmp_path):
    folder = sparse_bundle.write(tmp_path / "bundle")
    file = folder / twin_answers.FILE
    file.write_bytes(file.read_bytes()[:100])

    with pytest.raises(PlanError, match="found a damaged file"):
        twin_answers.read(folder, recorded.read(folder))
