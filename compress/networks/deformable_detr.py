"""Deformable DETR (Zhu et al., ICLR 2021, arXiv:2010.04159), as transformers implements it.

With a ResNet or a Swin backbone, with iterative refinement of boxes and with two stages as the
configuration says. Pruned: every Linear of encoder and decoder but those named below, what mixes
the stages' proposals, the projections of 1x1 from the backbone, and of the backbone what its own
file says. Quantised but dense: the Linears that give sampling offsets and their weights (an
offset moves what everything after it reads, and both are a tenth of an encoder layer), that of
reference points, the 3x3 projection, the class heads and the box heads.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor, nn
from transformers import (
    DeformableDetrConfig,
    DeformableDetrForObjectDetection,
    PreTrainedConfig,
    PreTrainedModel,
    ResNetConfig,
    SwinConfig,
)
from transformers.utils.hub import cached_file

from compress.criteria.queries import SetCriterion
from compress.errors import CheckpointError, RecipeError
from compress.networks import checkpoint as checkpoints
from compress.networks import detr_layout, resnet_backbone, swin_backbone
from compress.networks.architecture import building, part_of, refuse_unknown
from compress.networks.deformable_detector import DeformableDetector
from compress.networks.deformable_sampling import use_gathers
from compress.networks.detr import attention, box_head, ffn
from compress.networks.fold import fold_batch_norms
from compress.networks.network import Family, Layer
from compress.networks.query_detector import cut_to_labels, require_plain_stride
from compress.networks.roles import HEAD_REASON, WINDOW_REASON

_CLASSES: dict[str, type[PreTrainedModel]] = {"deformable_detr": DeformableDetrForObjectDetection}
_BACKBONES: dict[str, type[PreTrainedConfig]] = {"resnet": ResNetConfig, "swin": SwinConfig}
_OFFSET_REASON = "says where to look: an error moves everything that is read after it"
_OUTER = {
    "transformer.level_embed": "model.level_embed",
    "transformer.reference_points": "model.reference_points",
    "transformer.enc_output_norm": "model.enc_output_norm",
    "transformer.enc_output": "model.enc_output",
    "transformer.pos_trans_norm": "model.pos_trans_norm",
    "transformer.pos_trans": "model.pos_trans",
    "transformer.decoder": "model.decoder",
    "query_embed": "model.query_position_embeddings",
    "input_proj": "model.input_proj",
}
_NORMS = {
    "encoder": {"norm1": "self_attn_layer_norm", "norm2": "final_layer_norm"},
    "decoder": {
        "cross_attn": "encoder_attn",
        "norm1": "encoder_attn_layer_norm",
        "norm2": "self_attn_layer_norm",
        "norm3": "final_layer_norm",
    },
}


def build(architecture: dict[str, Any]) -> nn.Module:
    """Build an untrained Deformable DETR.

    Args:
        architecture: Keyword arguments of ``transformers.DeformableDetrConfig``;
            ``backbone_config`` holds ``model_type``, "resnet" or "swin", and those of
            ``ResNetConfig`` or ``SwinConfig``.

    Raises:
        RecipeError: An unknown keyword, or values that make no network.
    """
    settings = dict(architecture)
    backbone = part_of(settings, "backbone_config")
    kind = backbone.pop("model_type", "resnet")
    if kind not in _BACKBONES:
        known = ", ".join(_BACKBONES)
        raise RecipeError(
            f"network.architecture.backbone_config.model_type: expected {known}, got {kind!r}"
        )
    refuse_unknown(settings, DeformableDetrConfig(backbone_config=ResNetConfig()))
    refuse_unknown(backbone, _BACKBONES[kind]())
    with building():
        return _prepared(_body(settings, kind, backbone))


def load(checkpoint: str, classes: int) -> nn.Module:
    """Load a Deformable DETR; see :func:`compress.networks.checkpoint.load`.

    Weights are in the layout of transformers, with a backbone of transformers, or in that of the
    authors, with a ResNet. In the latter ``config.json`` may give ``nheads``,
    ``two_stage_num_proposals`` and, where that is not 4 each, ``enc_n_points`` and
    ``dec_n_points``. Of the 91 rows that checkpoints for COCO have, those of its 80 classes stay.

    Raises:
        CheckpointError: As there, or a dilated backbone, or one of another kind.
    """
    body: Any = checkpoints.read(checkpoint, _CLASSES, _from_authors)
    config = body.config
    kind = config.backbone_config.model_type
    if kind not in _BACKBONES:
        known = ", ".join(_BACKBONES)
        raise CheckpointError(f"{checkpoint} has a backbone of type {kind!r}; expected {known}")
    require_plain_stride(config, checkpoint)
    if config.with_box_refine and not config.two_stage:
        _untie_classes(body, checkpoint)
    prepared = _prepared(body)
    cut_to_labels(body, [body.class_embed[0]], checkpoint, classes)
    return prepared


def layers(body: Any) -> list[Layer]:
    """Name every Linear and Conv2d in the order in which they run, and say what is done to it."""
    config, model = body.config, body.model
    found = _backbone(body).layers(model.backbone.model, "model.backbone.model")
    for level in range(config.num_feature_levels):
        found.append(_projection(body, level))
    for index in range(config.encoder_layers):
        stem = f"model.encoder.layers.{index}"
        found += _deformable(f"{stem}.self_attn", f"{stem}.self_attn.value_proj")
        found += ffn(stem)
    found += _proposals(body)
    for index in range(config.decoder_layers):
        stem = f"model.decoder.layers.{index}"
        found += attention(f"{stem}.self_attn")
        found += _deformable(f"{stem}.encoder_attn", "encoded")
        found += ffn(stem)
        if config.with_box_refine:
            head = f"model.decoder.bbox_embed.{index}"
            further = f"model.decoder.layers.{index + 1}.self_attn.v_proj"
            decoded = "decoded" if index == config.decoder_layers - 1 else further
            found += box_head(model.decoder.bbox_embed[index], head, decoded)
    if not config.with_box_refine:
        found += box_head(body.bbox_embed[0], "bbox_embed.0", "decoded")
    return [*found, _class_head("class_embed.0", "decoded")]


def blocks(body: Any) -> list[str]:
    """Name the layers of the encoder, then those of the decoder."""
    halves = (("encoder", body.config.encoder_layers), ("decoder", body.config.decoder_layers))
    return [f"model.{half}.layers.{index}" for half, depth in halves for index in range(depth)]


FAMILY = Family(
    build=build,
    load=load,
    layers=layers,
    blocks=blocks,
    wrap=DeformableDetector,
    criterion=SetCriterion(sigmoid=True),
)


def _backbone(body: Any) -> Any:
    """Return what knows the layers of the body's backbone."""
    kind = body.config.backbone_config.model_type
    return resnet_backbone if kind == "resnet" else swin_backbone


def _projection(body: Any, level: int) -> Layer:
    name = f"model.input_proj.{level}.0"
    wide = body.get_submodule(name).kernel_size != (1, 1)
    reason = WINDOW_REASON if wide else ""
    return Layer(name, "projection", _projected(body, level), prune=not wide, reason=reason)


def _projected(body: Any, level: int) -> str:
    """Name the map that a projection reads, as the first that reads it does."""
    config = body.config.backbone_config
    stages = [int(stage.removeprefix("stage")) for stage in config.out_features]
    if level > len(stages):
        return f"model.input_proj.{level}.0"
    # The first of the additional levels reads the backbone's last map, as the last stage does.
    number = stages[min(level, len(stages) - 1)]
    if config.model_type == "resnet" and number < len(body.model.backbone.model.encoder.stages):
        return f"model.backbone.model.encoder.stages.{number}.layers.0"
    return f"model.input_proj.{min(level, len(stages) - 1)}.0"


def _deformable(stem: str, reads: str) -> list[Layer]:
    placed = f"{stem}.placed"
    return [
        Layer(f"{stem}.value_proj", "value", reads),
        Layer(f"{stem}.sampling_offsets", "sampling offsets", placed, False, _OFFSET_REASON),
        Layer(f"{stem}.attention_weights", "sampling weights", placed, False, _OFFSET_REASON),
        Layer(f"{stem}.output_proj", "attention output", f"{stem}.output_proj"),
    ]


def _proposals(body: Any) -> list[Layer]:
    """Name what runs between encoder and decoder."""
    if not body.config.two_stage:
        name = "model.reference_points"
        return [Layer(name, "reference points", name, False, _OFFSET_REASON)]
    last = body.config.decoder_layers
    heads = body.model.decoder
    return [
        Layer("model.enc_output", "proposals", "model.enc_output"),
        _class_head("model.decoder.class_embed.0", "proposed"),
        *box_head(heads.bbox_embed[last], f"model.decoder.bbox_embed.{last}", "proposed"),
        Layer("model.pos_trans", "proposals", "model.pos_trans"),
    ]


def _class_head(name: str, reads: str) -> Layer:
    return Layer(name, "head", reads, prune=False, reason=HEAD_REASON)


def _body(settings: dict[str, Any], kind: str, backbone: dict[str, Any]) -> PreTrainedModel:
    if settings.get("dilation"):
        raise ValueError("no backbone of transformers has a dilated last stage")
    levels = settings.get("num_feature_levels", 4)
    stages = ["stage2", "stage3", "stage4"] if levels > 1 else ["stage4"]
    inner = _BACKBONES[kind](**{"out_features": stages, **backbone})
    config = DeformableDetrConfig(**{**settings, "backbone_config": inner})
    return DeformableDetrForObjectDetection(config)


def _prepared(body: Any) -> nn.Module:
    """Leave of a body what answers: one class head, and a box head wherever one is needed.

    transformers keeps heads for every decoder layer, which serve losses in training from
    scratch, and those of refinement twice. Frozen norms are folded; all that is left can be
    trained, as what is pruned has to be.
    """
    backbone = body.model.backbone.model
    if body.config.backbone_config.model_type == "swin":
        swin_backbone.drop_last_norm(backbone)
    else:
        resnet_backbone.drop_unread_stages(backbone)
        fold_batch_norms(backbone)
    use_gathers(body)
    decoder, last = body.model.decoder, body.config.decoder_layers - 1
    if body.config.two_stage:
        # Proposals are told apart by the first row alone, whatever it is called.
        decoder.class_embed = nn.ModuleList([_first_row(decoder.class_embed[-1])])
    body.class_embed = nn.ModuleList([body.class_embed[last]])
    body.bbox_embed = (
        None if body.config.with_box_refine else nn.ModuleList([body.bbox_embed[last]])
    )
    prepared: nn.Module = body.requires_grad_(True)
    return prepared


def _first_row(head: nn.Linear) -> nn.Linear:
    row = nn.Linear(head.in_features, 1)
    row.load_state_dict({name: weight[:1] for name, weight in head.state_dict().items()})
    return row


def _untie_classes(body: Any, checkpoint: str) -> None:
    """Read the last class head, which transformers ties to the first one, from the file."""
    folder = Path(checkpoint)
    if not folder.is_dir():
        folder = Path(str(cached_file(checkpoint, "config.json"))).parent
    state = checkpoints.read_state(folder)
    last = body.config.decoder_layers - 1
    if f"class_embed.{last}.weight" not in state:
        return
    head = nn.Linear(body.config.d_model, body.config.num_labels)
    head.load_state_dict({kind: state[f"class_embed.{last}.{kind}"] for kind in ("weight", "bias")})
    body.class_embed[last] = head


def _from_authors(folder: Path, config: dict[str, Any]) -> PreTrainedModel:
    require_plain_stride(config, str(folder))
    state = checkpoints.read_state(folder)
    settings = _settings(state, config)
    backbone = settings.pop("backbone_config")
    body = _body(settings, "resnet", backbone)
    _untie(body)
    renamed = detr_layout.to_transformers(state, _OUTER, _NORMS)
    checkpoints.fill(body, renamed.items(), folder, "a Deformable DETR of its authors")
    return body


def _settings(state: dict[str, Tensor], config: dict[str, Any]) -> dict[str, Any]:
    """Read the architecture off the weights; single-scale and refined ones tell themselves."""
    refine = "transformer.decoder.bbox_embed.0.layers.0.weight" in state
    two_stage = "transformer.enc_output.weight" in state
    sizes = detr_layout.sizes_of(state, config)
    try:
        queries = 300 if two_stage else state["query_embed.weight"].shape[0]
        return {
            **sizes,
            "num_feature_levels": state["transformer.level_embed"].shape[0],
            "with_box_refine": refine,
            "two_stage": two_stage,
            "num_queries": queries,
            "two_stage_num_proposals": config.get("two_stage_num_proposals", queries),
            "encoder_n_points": config.get("enc_n_points", 4),
            "decoder_n_points": config.get("dec_n_points", 4),
            "num_labels": state["class_embed.0.weight"].shape[0],
        }
    except KeyError as error:
        raise CheckpointError(f"not a checkpoint of Deformable DETR: it lacks {error}") from error


def _untie(body: Any) -> None:
    """Give every head weights of its own, as the authors' files have them."""
    for heads in (body.class_embed, body.bbox_embed):
        for head in heads:
            for part in head.modules():
                if isinstance(part, nn.Linear):
                    part.weight = nn.Parameter(part.weight.detach().clone())
                    part.bias = nn.Parameter(part.bias.detach().clone())
