"""How often a network is right: top-1 and top-5, of a torch network or of an exported one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from compress.data.folder import ImageFolder, chosen_batches
from compress.errors import DataError, PlanError
from compress.parallel import Processes
from compress.progress import progress

if TYPE_CHECKING:
    from contract.card import ModelCard

_BATCH = 32
# uint8 [b, h, w, 3] -> scores [b, k], of any scale that ranks the classes.
Scorer = Callable[[npt.NDArray[np.uint8]], npt.NDArray[np.float32]]


@dataclass(frozen=True)
class Score:
    """What one network scored on one folder.

    Args:
        top1: Share of pictures whose best class is right.
        top5: Share of pictures whose class is among the best five.
        images: Pictures scored.
        skipped: Pictures that could not be decoded, with the reason.
    """

    top1: float
    top5: float
    images: int
    skipped: dict[str, str] = field(default_factory=dict)


def evaluate(
    score: Scorer,
    images: ImageFolder,
    what: str,
    processes: Processes | None = None,
    workers: int = 0,
) -> Score:
    """Score every picture of a labelled folder.

    Args:
        score: The network.
        images: Labelled, without augmentation.
        what: Shown at the progress bar.
        processes: That share the work; each gets the whole result.
        workers: That decode the pictures of each process; 0 decodes in the process itself.

    Raises:
        DataError: Not one picture could be decoded.
    """
    processes = processes or Processes()
    found: list[int] = []
    unread: list[tuple[str, str]] = []
    share = range(processes.rank, len(images), processes.count)
    with progress(what, len(share), "image", leave=False, quiet=not processes.main) as bar:
        for batch in chosen_batches(images, _BATCH, share, workers):
            unread.extend(batch.skipped)
            bar.update(len(batch.labels) + len(batch.skipped))
            if len(batch.labels):
                scores = score(batch.images.numpy())
                found.extend(_ranks(scores, batch.labels.numpy()))
    ranks = processes.gathered(found)
    skipped = dict(processes.gathered(unread))
    if not ranks:
        raise DataError(f"none of the {len(images)} pictures could be decoded: {skipped}")
    first, five = np.mean([r == 0 for r in ranks]), np.mean([r < 5 for r in ranks])
    return Score(float(first), float(five), len(ranks), skipped)


def torch_scorer(network: nn.Module) -> Scorer:
    """Score with a torch network, in float32."""
    device = next(network.parameters()).device

    def score(images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        with torch.inference_mode():
            logits = network(torch.from_numpy(images).to(device))
        return np.asarray(logits.float().cpu())

    return score


def onnx_scorer(model: Path, classes: int | None = None) -> Scorer:
    """Score with an exported network in ONNX Runtime, the reference.

    Args:
        model: The ONNX file.
        classes: How many its card names; None does not ask.

    Raises:
        PlanError: Not a graph that ONNX Runtime takes, or one of another number of classes.
    """
    # Imported late: evaluating torch networks needs no runtime.
    import onnxruntime  # noqa: PLC0415
    from onnxruntime.capi import onnxruntime_pybind11_state as faults  # noqa: PLC0415

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    # As the graph says, in float: INT8 kernels saturate on processors without VNNI.
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    try:
        session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except (faults.Fail, faults.InvalidProtobuf, faults.InvalidGraph) as error:
        raise PlanError(f"ONNX Runtime cannot read {model}: {error}") from error
    scored = session.get_outputs()[0].shape[-1]
    if classes not in (None, scored):
        raise PlanError(
            f"{model} tells {scored} classes apart, its card names {classes}. "
            "Export graph and card together."
        )

    def score(images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        return np.asarray(session.run(["scores"], {"image": images})[0])

    return score


def reference() -> str:
    """Name what :func:`onnx_scorer` scores with."""
    import onnxruntime  # noqa: PLC0415

    return f"ONNX Runtime {onnxruntime.__version__}, the reference, which computes in float"


def evaluation_images(root: Path, card: ModelCard) -> ImageFolder:
    """Read a labelled folder the way a card says its network reads pictures."""
    return ImageFolder(root, card.labels, card.preprocessing)


def _ranks(scores: npt.NDArray[np.float32], labels: npt.NDArray[np.int64]) -> list[int]:
    # How many classes come before the right one. Of equal scores the lower index comes first, as
    # in argmax, so that a network with one answer for everything is not always right; NaN comes
    # before everything.
    right = np.take_along_axis(scores, labels[:, None], axis=1)
    earlier = np.arange(scores.shape[1]) < labels[:, None]
    before = ~(scores <= right) | ((scores == right) & earlier)
    return [int(rank) for rank in before.sum(axis=1)]
