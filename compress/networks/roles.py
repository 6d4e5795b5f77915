"""What the layers of Vision Transformers are for, by the names that transformers gives them."""

from __future__ import annotations

from torch import nn

from compress.networks.network import Layer

_ROLES = {
    "attention.q_proj": ("query", "attention input"),
    "attention.k_proj": ("key", "attention input"),
    "attention.v_proj": ("value", "attention input"),
    "attention.o_proj": ("attention output", "attention output"),
    "mlp.fc1": ("FFN in", "FFN in"),
    "mlp.fc2": ("FFN out", "FFN out"),
}
WINDOW_REASON = "a window wider than 1x1: sparse kernels group channels, a mask would cross places"
HEAD_REASON = "the head stays dense: one row a class, and every answer passes through it"


def layers(body: nn.Module) -> list[Layer]:
    """Name every Linear and Conv2d in the order in which they run, and say what is done to it."""
    weighted = (nn.Linear, nn.Conv2d)
    return [_layer(name) for name, module in body.named_modules() if isinstance(module, weighted)]


def _layer(name: str) -> Layer:
    if "classifier" in name:
        return Layer(name, "head", name, prune=False, reason=HEAD_REASON)
    if name.endswith("patch_embeddings.projection"):
        return Layer(name, "patch embedding", name)
    if name.endswith("downsample.reduction"):
        return Layer(name, "patch merging", name)
    inner = next(key for key in _ROLES if name.endswith(key))
    role, reads = _ROLES[inner]
    return Layer(name, role, f"{name.removesuffix(inner)}{reads}")
