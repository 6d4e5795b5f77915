"""From a student to a bundle: ``model.onnx``, ``card.json`` and ``answers.npz`` in one folder.

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
from pathlib import Path
from typing import NamedTuple

import onnx
import onnx_ir.passes.common as graph_passes
import torch
from torch import Tensor, nn

from compress import attention, empty_masks, parity, qdq
from compress.agreement import Parity
from compress.errors import ExportError
from compress.networks.network import Network
from compress.plan import recorded, sparsity
from compress.quantize import formats_of, freeze_scales
from contract.card import ModelCard
from contract.preprocess import Preprocessing

PARITY_IMAGES = 64


class _Answers(nn.Module):
    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        answers = self.network.answer(self.network(image))
        return tuple(answers[name] for name in self.network.outputs)


def write_graph(network: Network, preprocessing: Preprocessing, path: Path) -> None:
    """Export a network as the graph of the contract.

    Args:
        network: Put into evaluation mode.
        preprocessing: Says how large its input is.
        path: Of the ONNX file.
    """
    size = (preprocessing.height, preprocessing.width)
    example = torch.zeros(2, *size, 3, dtype=torch.uint8)
    if not attention.is_quantized(network):
        network.use_exportable_attention()
    freeze_scales(network)
    wrapped = _Answers(network).eval()
    with _quiet():
        program = torch.onnx.export(
            wrapped,
            (example,),
            dynamo=True,
            opset_version=qdq.opset(formats_of(network)),
            input_names=["image"],
            output_names=list(network.outputs),
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
    qdq.add_biases(model)
    empty_masks.drop(model)
    onnx.checker.check_model(model)
    onnx.save(model, path)


class Exported(NamedTuple):
    """An exported graph.

    Args:
        model: In the bundle; beside it, without a card, where ONNX Runtime disagrees with the
            network.
        parity: How far ONNX Runtime is from the network.
    """

    model: Path
    parity: Parity


def write_bundle(
    network: Network,
    card: ModelCard,
    pictures: Iterable[Tensor],
    pruned: list[str],
    folder: Path,
) -> Exported:
    """Export a network, check it, and put graph and card into ``folder``, both or neither.

    A graph that does not compute what the network computes becomes ``refused.onnx`` beside it.

    Args:
        network: In evaluation mode, on the CPU.
        card: What travels with it.
        pictures: Batches on which the graph has to agree with the network.
        pruned: Names of the weights that have to be sparse in the graph.
        folder: Replaced as a whole.

    Raises:
        SparsityError: A weight in the graph does not follow the card's pattern, or is missing.
        ExportError: torch cannot export this network.
    """
    unfinished = folder.with_name(f".{folder.name}.{os.getpid()}")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    refused = folder.with_name("refused.onnx")
    refused.unlink(missing_ok=True)
    try:
        model = unfinished / "model.onnx"
        write_graph(network, card.preprocessing, model)
        sparsity.check(onnx.load(model), card.precision.sparsity, model.name, pruned)
        batches = list(pictures)
        found = parity.compare(network, model, batches, card.task)
        if found.refusal:
            return Exported(model.rename(refused), found)
        shown = torch.cat(batches)[: recorded.MOST_PICTURES].numpy()
        recorded.ask(model, shown, "calibration").save(unfinished)
        (unfinished / "card.json").write_text(card.to_json(), encoding="utf-8")
        # A folder cannot be replaced by renaming. Killed between these two, a run has no bundle
        # and makes it again.
        shutil.rmtree(folder, ignore_errors=True)
        unfinished.rename(folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return Exported(folder / model.name, found)


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
