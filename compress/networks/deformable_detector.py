"""Deformable DETR as a network: what transformers' body computes where every pixel is valid."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from compress.networks.query_detector import QueryDetector, best_pairs

# As many as its authors evaluate.
_MOST_OBJECTS = 100
# Logits of what is closer to 0 or 1 than this are cut, as its authors do.
_EDGE = 1e-5
# A logit whose sigmoid is 1 in float32, and that is finite in float16 as well.
_CERTAIN = 1e4


@dataclass(frozen=True)
class _Maps:
    """Maps of several levels, one after the other, and what layers need to sample them."""

    # [b, s, channels] and, the same for every picture, [1, s, channels].
    tokens: Tensor
    places: Tensor
    # Height and width of each level, as numbers and as [levels, 2].
    sizes: list[tuple[int, int]]
    shapes: Tensor

    def sampling(self) -> dict[str, Any]:
        """Return what every layer is told of them."""
        return {"spatial_shapes": self.shapes, "spatial_shapes_list": self.sizes}


class DeformableDetector(QueryDetector):
    """A ``transformers.DeformableDetrForObjectDetection`` with one class head: c = k classes.

    Positions, reference points of the encoder and proposals are the same for every picture, so
    that in a graph they are constants.
    """

    def detect(self, pixels: Tensor, hint: Tensor | None) -> dict[str, Tensor]:
        """Return ``logits`` [b, q, k] and ``boxes`` [b, q, 4].

        With two stages also what is proposed: ``proposal_logits`` [b, s, 1] and
        ``proposal_boxes`` [b, s, 4] of all places, and ``places`` [b, q] of the queries.
        """
        body: Any = self.body
        maps = self._maps(pixels)
        encoded = self._encoded(maps)
        proposed: dict[str, Tensor] = {}
        if body.config.two_stage:
            proposed, queries, target, reference = self._proposed(encoded, maps, hint)
        else:
            queries, target, reference = self._learned(encoded)
        decoded, boxes = self._decoded(encoded, maps, queries, target, reference)
        return {"logits": body.class_embed[0](decoded), "boxes": boxes, **proposed}

    def hint(self, raw: dict[str, Tensor] | None, _targets: Any = None) -> Tensor | None:
        """Return the places of this network's queries, so that a student asks at the same."""
        return None if raw is None else raw.get("places")

    def answer(self, raw: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the best pairs of query and class, the best first.

        Returns:
            ``scores`` [b, n], ``labels`` [b, n] int32 and ``boxes`` [b, n, 4] xyxy in 0..1, n
            being 100, or all pairs where they are fewer.
        """
        return best_pairs(raw["logits"].sigmoid(), raw["boxes"], _MOST_OBJECTS)

    def _maps(self, pixels: Tensor) -> _Maps:
        body: Any = self.body
        model = body.model
        features = list(model.backbone.model(pixels).feature_maps)
        sources = [
            project(feature) for project, feature in zip(model.input_proj, features, strict=False)
        ]
        for project in model.input_proj[len(features) :]:
            further = features[-1] if len(sources) == len(features) else sources[-1]
            sources.append(project(further))
        sizes = [(source.shape[2], source.shape[3]) for source in sources]
        places = []
        for size, level in zip(sizes, model.level_embed, strict=True):
            shape = torch.Size((1, 1, *size))
            place = model.position_embedding(shape=shape, device=pixels.device, dtype=level.dtype)
            places.append(place.flatten(2).transpose(1, 2) + level)
        tokens = torch.cat([source.flatten(2).transpose(1, 2) for source in sources], dim=1)
        shapes = torch.tensor(sizes).to(pixels.device, non_blocking=True)
        return _Maps(tokens, torch.cat(places, dim=1), sizes, shapes)

    def _encoded(self, maps: _Maps) -> Tensor:
        encoder: Any = self.body.model.encoder  # type: ignore[union-attr]
        dropout = torch.nn.functional.dropout
        hidden = dropout(maps.tokens, encoder.dropout, self.training)
        centres = torch.cat([_centres(maps, size) for size in maps.sizes], dim=1)
        for layer in encoder.layers:
            hidden = layer(
                hidden,
                None,
                spatial_position_embeddings=maps.places,
                reference_points=centres[:, :, None].expand(-1, -1, len(maps.sizes), -1),
                **maps.sampling(),
            )
        return hidden

    def _learned(self, encoded: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return positions and contents [b, q, channels] of the queries, and where they begin."""
        model: Any = self.body.model
        width = encoded.shape[2]
        learned = model.query_position_embeddings.weight
        learned = learned[None].expand(encoded.shape[0], -1, -1)
        queries, target = learned.split(width, dim=2)
        return queries, target, model.reference_points(queries).sigmoid()

    def _proposed(
        self, encoded: Tensor, maps: _Maps, places: Tensor | None
    ) -> tuple[dict[str, Tensor], Tensor, Tensor, Tensor]:
        """Take given places, or those of the best scores, as the queries of the decoder."""
        model: Any = self.body.model
        boxes = torch.cat(
            [
                torch.cat([centres, torch.full_like(centres, 0.05 * 2.0**level)], dim=-1)
                for level, centres in enumerate(_centres(maps, size) for size in maps.sizes)
            ],
            dim=1,
        )
        valid = ((boxes > 0.01) & (boxes < 0.99)).all(dim=-1, keepdim=True)
        start = torch.where(valid, torch.log(boxes / (1 - boxes)), _CERTAIN)
        hidden = model.enc_output_norm(model.enc_output(encoded * valid))
        scores = model.decoder.class_embed[-1](hidden)[..., :1]
        logits = model.decoder.bbox_embed[-1](hidden) + start
        if places is None:
            count = self.body.config.two_stage_num_proposals  # type: ignore[union-attr]
            places = scores[..., 0].topk(count, dim=1).indices
        chosen = logits.gather(1, places[..., None].expand(-1, -1, 4)).detach()
        mixed = model.pos_trans_norm(model.pos_trans(_waves(chosen.sigmoid(), encoded.shape[2])))
        queries, target = mixed.split(encoded.shape[2], dim=2)
        proposed = {
            "proposal_logits": scores,
            "proposal_boxes": logits.sigmoid(),
            "places": places,
        }
        return proposed, queries, target, chosen.sigmoid()

    def _decoded(
        self, encoded: Tensor, maps: _Maps, queries: Tensor, target: Tensor, reference: Tensor
    ) -> tuple[Tensor, Tensor]:
        body: Any = self.body
        decoder, levels = body.model.decoder, len(maps.sizes)
        for index, layer in enumerate(decoder.layers):
            target = layer(
                target,
                queries,
                reference[:, :, None].expand(-1, -1, levels, -1),
                encoder_hidden_states=encoded,
                encoder_attention_mask=None,
                **maps.sampling(),
            )
            if body.config.with_box_refine:
                boxes = _moved(decoder.bbox_embed[index](target), reference)
                # Each layer learns its own step, as its authors train it.
                reference = boxes.detach()
        if not body.config.with_box_refine:
            boxes = _moved(body.bbox_embed[0](target), reference)
        return target, boxes


def _centres(maps: _Maps, size: tuple[int, int]) -> Tensor:
    """Return x and y of the places of a level in 0..1: [1, height * width, 2]."""
    height, width = size
    device, dtype = maps.tokens.device, maps.tokens.dtype
    y = (torch.arange(height, device=device, dtype=dtype) + 0.5) / height
    x = (torch.arange(width, device=device, dtype=dtype) + 0.5) / width
    rows, columns = torch.meshgrid(y, x, indexing="ij")
    return torch.stack([columns, rows], dim=-1).flatten(0, 1)[None]


def _moved(delta: Tensor, reference: Tensor) -> Tensor:
    """Move points or boxes [b, q, 2 or 4] by what a box head says [b, q, 4]."""
    start = torch.log(reference.clamp(min=_EDGE) / (1 - reference).clamp(min=_EDGE))
    if reference.shape[-1] == 4:
        return (delta + start).sigmoid()
    return torch.cat([delta[..., :2] + start, delta[..., 2:]], dim=-1).sigmoid()


def _waves(boxes: Tensor, width: int) -> Tensor:
    """Turn each coordinate of boxes [b, q, 4] into ``width / 2`` waves: [b, q, 2 * width]."""
    count = width // 2
    exponents = 2 * torch.arange(count // 2, device=boxes.device, dtype=boxes.dtype) / count
    angles = boxes[..., None] * 2 * math.pi / 10000**exponents
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(2)
