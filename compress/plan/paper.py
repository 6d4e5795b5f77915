"""What the paper reports of speed, to stand beside what was measured."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True)
class Reported:
    """One row of the paper's Table 2: a compressed network over the dense one in FP32.

    The paper gives ratios alone: neither milliseconds, nor the batch of a throughput, nor whether
    FP32 was TF32, nor how INT4 was run.

    Args:
        network: As bundles of it are called.
        shown: As the paper calls it.
        precision: "INT8" or "INT4", both 2:4 sparse.
        a100, orin: Latency at batch 1 and throughput at a large batch, as ratios; None where no
            figure is known.
    """

    network: str
    shown: str
    precision: str
    a100: tuple[float, float]
    orin: tuple[float, float] | None


# Source: Yu et al., "Boost Vision Transformer with GPU-Friendly Sparsity and Quantization",
# CVPR 2023, arXiv:2305.10727, Table 2. Not read in the original: INT4 as quoted by GitHub
# hustzxd/EfficientPaper notes/2023/GPUSQ-ViT/note.md @012841e5, INT8 by GitHub
# yspennstate/RMT_based_pruning_in_deep_learning cast_2e @b960aa1. The ends of the abstract's
# ranges (1.39 to 1.79 and 3.43; 1.57 to 1.69 and 2.11) are among them.
TABLE_2: Final = (
    Reported("deit-tiny", "DeiT-Tiny", "INT4", (1.39, 3.43), (1.57, 2.13)),
    Reported("deit-small", "DeiT-Small", "INT4", (1.44, 3.37), (1.65, 2.11)),
    Reported("deit-base", "DeiT-Base", "INT4", (1.47, 3.35), (1.62, 2.35)),
    Reported("swin-base-384", "Swin-Base 384", "INT4", (1.79, 3.29), (1.69, 2.48)),
    Reported("swin-base", "Swin-Base 224", "INT8", (1.37, 2.56), None),
    Reported("swin-base-384", "Swin-Base 384", "INT8", (1.47, 2.47), None),
)


def reported(network: str) -> tuple[Reported, ...]:
    """Return the paper's rows of a network, by the name of its bundle.

    >>> [row.precision for row in reported("swin-base-384-w7")]
    ['INT4', 'INT8']
    >>> reported("my-own")
    ()
    """
    named = {row.network for row in TABLE_2 if network.startswith(row.network)}
    longest = max(named, key=len, default="")
    return tuple(row for row in TABLE_2 if row.network == longest)
