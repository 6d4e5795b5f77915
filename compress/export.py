"""From a student to a bundle: ``model.onnx`` and ``card.json`` in one folder.

The graph is the contract of docs/contract.md: uint8 NHWC in, normalisation first, explicit Q/DQ,
weights stored in the format they are quantised to. It is refused when a mask is broken or when
ONNX Runtime does not compute what the network computes.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import shutil
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir.passes.common as graph_passes
import torch
from torch import Tensor, nn

from compress import attention, qdq
from compress.errors import ExportError
from compress.evaluate import onnx_scorer
from compress.networks.network import Classifier
from compress.prune import PATTERNS, Pattern
from compress.quantize import formats_of, freeze_scales
from contract.card import ModelCard
from contract.preprocess import Preprocessing

PARITY_IMAGES = 64
# Two correct implementations round a few activations to neighbouring integers, which moves
# probabilities a little; a wrong graph moves them a lot, and everywhere.
_MEAN_TOLERANCE = 2e-3
_AGREEMENT = 0.98
# Between classes whose probabilities differ by less, such rounding may decide.
_WAVERING = 0.1


@dataclass(frozen=True)
class Parity:
    """How far the exported graph is from the network.

    Args:
        largest: Largest difference of a probability.
        mean: Mean difference over the classes with any probability to speak of.
        agreement: Share of pictures whose best class in the graph is the network's best too, or
            one that the network itself holds to be nearly as likely.
        where: The picture and class of the largest difference.
    """

    largest: float
    mean: float
    agreement: float
    where: str


class _Scores(nn.Module):
    def __init__(self, network: Classifier) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> Tensor:
        logits: Tensor = self.network(image)
        return logits.softmax(dim=-1)


def write_graph(network: Classifier, preprocessing: Preprocessing, path: Path) -> None:
    """Export a classifier as the graph of the contract.

    Args:
        network: Maps [b, h, w, 3] pictures to [b, k] logits; put into evaluation mode.
        preprocessing: Says how large its input is.
        path: Of the ONNX file.
    """
    size = (preprocessing.height, preprocessing.width)
    example = torch.zeros(2, *size, 3, dtype=torch.uint8)
    if not attention.is_quantized(network):
        network.use_exportable_attention()
    freeze_scales(network)
    wrapped = _Scores(network).eval()
    with _quiet():
        program = torch.onnx.export(
            wrapped,
            (example,),
            dynamo=True,
            opset_version=qdq.opset(formats_of(network)),
            input_names=["image"],
            output_names=["scores"],
            dynamic_shapes={"image": {0: torch.export.Dim("b", min=1, max=1024)}},
            verbose=False,
        )
        if program is None:
            raise ExportError("torch returned no ONNX program for this network")
        # Query, key and value read the same tensor: its quantisation is emitted three times.
        graph_passes.DeduplicateInitializersPass()(program.model)
        graph_passes.CommonSubexpressionEliminationPass()(program.model)
        # Stack traces of the export, which would be a quarter of the file.
        graph_passes.ClearMetadataAndDocStringPass()(program.model)
    model = program.model_proto
    qdq.store_weights(model)
    onnx.checker.check_model(model)
    onnx.save(model, path)


def write_bundle(
    network: Classifier,
    card: ModelCard,
    pictures: Iterable[Tensor],
    pruned: list[str],
    folder: Path,
) -> Parity:
    """Export a network, check it, and put graph and card into ``folder``, both or neither.

    Args:
        network: Maps [b, h, w, 3] pictures to [b, k] logits.
        card: What travels with it.
        pictures: Batches on which the graph has to agree with the network.
        pruned: Names of the weights that have to be sparse in the graph.
        folder: Replaced as a whole.

    Raises:
        SparsityError: A weight in the graph does not follow the card's pattern.
        ExportError: ONNX Runtime and the network disagree, or a weight is missing.
    """
    unfinished = folder.with_name(f".{folder.name}.{os.getpid()}")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    try:
        model = unfinished / "model.onnx"
        write_graph(network, card.preprocessing, model)
        check_sparsity(model, pruned, PATTERNS[card.precision.sparsity])
        parity = check_parity(network, model, pictures)
        (unfinished / "card.json").write_text(card.to_json(), encoding="utf-8")
        # A folder cannot be replaced by renaming. Killed between these two, a run has no bundle
        # and makes it again.
        shutil.rmtree(folder, ignore_errors=True)
        unfinished.rename(folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return parity


def check_sparsity(model: Path, pruned: list[str], pattern: Pattern) -> None:
    """Check on the stored weights themselves that every pruned layer follows its pattern.

    Raises:
        SparsityError: A group of a weight holds more than may survive.
        ExportError: A weight is not in the graph under its own name.
    """
    stored = {entry.name: entry for entry in onnx.load(model).graph.initializer}
    for name in pruned:
        matches = [entry for key, entry in stored.items() if key.endswith(name)]
        if len(matches) != 1:
            raise ExportError(f"expected weight {name} once in {model.name}, found {len(matches)}")
        weight = qdq.stored_weight(matches[0])
        pattern.check(weight.flatten(1), name, f"in {model.name}")


def check_parity(network: nn.Module, model: Path, pictures: Iterable[Tensor]) -> Parity:
    """Compare ONNX Runtime on the graph with the network itself.

    Raises:
        ExportError: They disagree; says by how much, and on which picture and class.
    """
    score = onnx_scorer(model)
    expected, came = [], []
    for batch in pictures:
        with torch.inference_mode():
            expected.append(network(batch).softmax(dim=-1).numpy())
        came.append(score(batch.numpy()))
    parity = _compare(np.concatenate(expected), np.concatenate(came))
    # Written so that NaN is refused.
    if not (parity.mean <= _MEAN_TOLERANCE and parity.agreement >= _AGREEMENT):
        raise ExportError(
            f"{model.name} does not compute what the network computes: probabilities differ by "
            f"{parity.largest:.4f} at most ({parity.where}) and {parity.mean:.5f} on average "
            f"(allowed {_MEAN_TOLERANCE}); {parity.agreement:.1%} of the pictures get the "
            f"same class or one nearly as likely (required {_AGREEMENT:.0%})"
        )
    return parity


def _compare(expected: npt.NDArray[np.float32], came: npt.NDArray[np.float32]) -> Parity:
    difference = np.abs(expected - came)
    picture, label = np.unravel_index(difference.argmax(), difference.shape)
    # Most of 1,000 classes have no probability at all; they would hide a difference.
    told = ~(np.maximum(expected, came) < 1e-3)
    chosen = np.take_along_axis(expected, came.argmax(axis=1)[:, None], axis=1)[:, 0]
    agreed = expected.max(axis=1) - chosen < _WAVERING
    return Parity(
        largest=float(difference.max()),
        mean=float(difference[told].mean()),
        agreement=float(agreed.mean()),
        where=f"picture {picture}, class {label}",
    )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence the exporter, which narrates every step on three channels."""
    loggers = [logging.getLogger(name) for name in ("onnxscript", "onnx_ir", "torch.onnx")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
