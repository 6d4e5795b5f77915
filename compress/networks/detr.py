"""DETR (Carion et al., ECCV 2020, arXiv:2005.12872) on ResNet, as transformers implements it.

Pruned: every Linear of encoder and decoder (query, key, value, the projection after attention,
both FFN layers), the projection of the backbone's map, and the convolutions of 1x1 in the
backbone. Quantised but dense: the backbone's stem and its convolutions of 3x3, the class head and
the box head. The tables of queries are no operands of a product and stay float.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DetrConfig, DetrForObjectDetection, PreTrainedModel, ResNetConfig

from compress.criteria.queries import SetCriterion
from compress.errors import CheckpointError
from compress.networks import checkpoint as checkpoints
from compress.networks import detr_layout, resnet_backbone
from compress.networks.architecture import building, part_of, refuse_unknown
from compress.networks.fold import fold_batch_norms
from compress.networks.network import Family, Layer
from compress.networks.query_detector import (
    BOX_REASON,
    QueryDetector,
    best_queries,
    cut_to_labels,
    require_plain_stride,
)
from compress.networks.roles import HEAD_REASON

_CLASSES: dict[str, type[PreTrainedModel]] = {"detr": DetrForObjectDetection}
_OUTER = {
    "transformer.decoder.norm": "model.decoder.layernorm",
    "query_embed": "model.query_position_embeddings",
    "input_proj": "model.input_projection",
    "class_embed": "class_labels_classifier",
    "bbox_embed": "bbox_predictor",
}
_NORMS = {
    "encoder": {"norm1": "self_attn_layer_norm", "norm2": "final_layer_norm"},
    "decoder": {
        "multihead_attn": "encoder_attn",
        "norm1": "self_attn_layer_norm",
        "norm2": "encoder_attn_layer_norm",
        "norm3": "final_layer_norm",
    },
}


class Detr(QueryDetector):
    """A ``transformers.DetrForObjectDetection``: c = k + 1 classes, the last is "no object"."""

    def detect(self, pixels: Tensor, _hint: Tensor | None) -> dict[str, Tensor]:
        """Return ``logits`` [b, q, k + 1] and ``boxes`` [b, q, 4].

        It computes what the body computes where every pixel is valid. Positions then are the
        same for every picture, so that in a graph they are constants.
        """
        body: Any = self.body
        model = body.model
        features = model.backbone.model(pixels).feature_maps[-1]
        tokens = model.input_projection(features).flatten(2).transpose(1, 2)
        places = model.position_embedding(
            shape=torch.Size((1, *features.shape[1:])), device=pixels.device, dtype=pixels.dtype
        )
        places = places.flatten(2).transpose(1, 2)
        encoded = model.encoder(
            inputs_embeds=tokens, spatial_position_embeddings=places
        ).last_hidden_state
        queries = model.query_position_embeddings.weight[None].expand(pixels.shape[0], -1, -1)
        decoded = model.decoder(
            inputs_embeds=torch.zeros_like(queries),
            encoder_hidden_states=encoded,
            spatial_position_embeddings=places,
            object_queries_position_embeddings=queries,
        ).last_hidden_state
        return {
            "logits": body.class_labels_classifier(decoded),
            "boxes": body.bbox_predictor(decoded).sigmoid(),
        }

    def answer(self, raw: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the best class of each query, best query first.

        Returns:
            ``scores`` [b, q], ``labels`` [b, q] int32 and ``boxes`` [b, q, 4] xyxy in 0..1.
        """
        scores, labels = raw["logits"].softmax(dim=-1)[..., :-1].max(dim=-1)
        return best_queries(scores, labels, raw["boxes"])


def build(architecture: dict[str, Any]) -> nn.Module:
    """Build an untrained DETR.

    Args:
        architecture: Keyword arguments of ``transformers.DetrConfig``; ``backbone_config`` holds
            those of ``transformers.ResNetConfig``.

    Raises:
        RecipeError: An unknown keyword, or values that make no network.
    """
    settings = dict(architecture)
    backbone = part_of(settings, "backbone_config")
    refuse_unknown(settings, DetrConfig(backbone_config=ResNetConfig()))
    refuse_unknown(backbone, ResNetConfig())
    with building():
        return _prepared(_body(settings, backbone))


def load(checkpoint: str, classes: int) -> nn.Module:
    """Load a DETR; see :func:`compress.networks.checkpoint.load`.

    Weights are in the layout of transformers, with a ResNet of transformers, or in that of the
    authors. In the latter ``config.json`` may give ``nheads``. Of the 91 rows that checkpoints for
    COCO have, those of its 80 classes stay.

    Raises:
        CheckpointError: As there, or a dilated backbone, or one that is no ResNet.
    """
    body: Any = checkpoints.read(checkpoint, _CLASSES, _from_authors)
    kind = body.config.backbone_config.model_type
    if kind != "resnet":
        raise CheckpointError(f"{checkpoint} has a backbone of type {kind!r}; expected 'resnet'")
    require_plain_stride(body.config, checkpoint)
    cut_to_labels(body, [body.class_labels_classifier], checkpoint, classes)
    return _prepared(body)


def layers(body: Any) -> list[Layer]:
    """Name every Linear and Conv2d in the order in which they run, and say what is done to it."""
    config, projection = body.config, "model.input_projection"
    found = resnet_backbone.layers(body.model.backbone.model, "model.backbone.model")
    found.append(Layer(projection, "projection", projection))
    for index in range(config.encoder_layers):
        stem = f"model.encoder.layers.{index}"
        found += attention(f"{stem}.self_attn")
        found += ffn(stem)
    for index in range(config.decoder_layers):
        stem = f"model.decoder.layers.{index}"
        found += attention(f"{stem}.self_attn")
        found += _cross_attention(f"{stem}.encoder_attn")
        found += ffn(stem)
    head = "class_labels_classifier"
    found.append(Layer(head, "head", "decoded", prune=False, reason=HEAD_REASON))
    return found + box_head(body.bbox_predictor, "bbox_predictor", "decoded")


def blocks(body: Any) -> list[str]:
    """Name the layers of the encoder, then those of the decoder."""
    return [
        f"model.{half}.layers.{index}"
        for half, depth in (
            ("encoder", body.config.encoder_layers),
            ("decoder", body.config.decoder_layers),
        )
        for index in range(depth)
    ]


def attention(stem: str) -> list[Layer]:
    """Name the layers of attention whose queries and keys read the same, with positions."""
    return [
        Layer(f"{stem}.q_proj", "query", f"{stem}.placed"),
        Layer(f"{stem}.k_proj", "key", f"{stem}.placed"),
        Layer(f"{stem}.v_proj", "value", f"{stem}.v_proj"),
        Layer(f"{stem}.o_proj", "attention output", f"{stem}.o_proj"),
    ]


def ffn(stem: str) -> list[Layer]:
    """Name both FFN layers of a layer."""
    names = (("fc1", "FFN in"), ("fc2", "FFN out"))
    return [Layer(f"{stem}.mlp.{name}", role, f"{stem}.mlp.{name}") for name, role in names]


def box_head(head: Any, stem: str, reads: str) -> list[Layer]:
    """Name the layers of a head that ends in boxes, the first of which reads ``reads``."""
    names = [f"{stem}.layers.{index}" for index in range(len(head.layers))]
    return [
        Layer(name, "box head", name if index else reads, prune=False, reason=BOX_REASON)
        for index, name in enumerate(names)
    ]


FAMILY = Family(
    build=build,
    load=load,
    layers=layers,
    blocks=blocks,
    wrap=Detr,
    criterion=SetCriterion(),
)


def _cross_attention(stem: str) -> list[Layer]:
    """Keys and values of every decoder layer read what the encoder gave, keys with positions."""
    return [
        Layer(f"{stem}.q_proj", "query", f"{stem}.q_proj"),
        Layer(f"{stem}.k_proj", "key", "encoded and placed"),
        Layer(f"{stem}.v_proj", "value", "encoded"),
        Layer(f"{stem}.o_proj", "attention output", f"{stem}.o_proj"),
    ]


def _body(settings: dict[str, Any], backbone: dict[str, Any]) -> PreTrainedModel:
    if settings.get("dilation"):
        raise ValueError("the ResNet of transformers has no dilated last stage")
    inner = ResNetConfig(**{"out_features": ["stage4"], **backbone})
    return DetrForObjectDetection(DetrConfig(**{**settings, "backbone_config": inner}))


def _prepared(body: Any) -> nn.Module:
    """Fold the frozen norms; all that is left can be trained, as what is pruned has to be."""
    resnet_backbone.drop_unread_stages(body.model.backbone.model)
    fold_batch_norms(body)
    prepared: nn.Module = body.requires_grad_(True)
    return prepared


def _from_authors(folder: Path, config: dict[str, Any]) -> PreTrainedModel:
    require_plain_stride(config, str(folder))
    state = checkpoints.read_state(folder)
    settings = detr_layout.sizes_of(state, config)
    backbone = settings.pop("backbone_config")
    try:
        settings["num_queries"] = state["query_embed.weight"].shape[0]
        settings["num_labels"] = state["class_embed.weight"].shape[0] - 1
    except KeyError as error:
        raise CheckpointError(f"not a checkpoint of DETR: it lacks {error}") from error
    body = _body(settings, backbone)
    renamed = detr_layout.to_transformers(state, _OUTER, _NORMS)
    checkpoints.fill(body, renamed.items(), folder, "a DETR of its authors")
    return body
