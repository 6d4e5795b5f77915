"""The recipe: every decision of one compression, checked at the door.

Values are frozen; unknown keys are refused. Defaults are explained in docs/method.md.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from compress.networks import FAMILIES
from contract.preprocess import Preprocessing

Fraction = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]


# What may change between a run and its resumption.
_NOT_DECISIVE: Any = {
    "run": True,
    "publish": True,
    "description": True,
    "licence": True,
    "checkpoint_every_s": True,
    "trackers": True,
    "data": {"workers"},
    # How a batch is divided changes rounding, not the method; but see Recipe.digest.
    "teacher": {"micro_batch"},
    "prune": {"schedule": {"micro_batch"}},
    "quantize": {"schedule": {"micro_batch"}},
}


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Network(_Part):
    """The network to compress: a checkpoint, or an architecture to train from scratch.

    Attributes:
        family: Which file of ``compress/networks`` knows it.
        checkpoint: A local folder, or a name on the Hugging Face hub.
        architecture: Keyword arguments of the transformers configuration, for training from
            scratch.
        backbone: Checkpoint of a classifier with whose weights the backbone of ``architecture``
            begins.
        mean, std: Normalisation of 0..1 RGB; becomes part of the exported graph.
    """

    family: Literal[
        "deit",
        "swin",
        "auto",
        "upernet",
        "detr",
        "deformable_detr",
        "mask_rcnn",
        "cascade_mask_rcnn",
    ] = "deit"
    checkpoint: str | None = None
    architecture: dict[str, Any] = Field(default_factory=dict)
    backbone: str | None = None
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[Positive, Positive, Positive] = (0.229, 0.224, 0.225)

    @model_validator(mode="after")
    def _one_source(self) -> Network:
        if (self.checkpoint is None) == (not self.architecture):
            raise ValueError("give either checkpoint or architecture, not both and not neither")
        others = [name for name, family in FAMILIES.items() if family.task != "classify"]
        if self.backbone is not None and (self.checkpoint or self.family not in others):
            raise ValueError(
                "backbone fills the backbone of an architecture that detects or segments: give it "
                f"with architecture and a family among {', '.join(others)}"
            )
        return self


class Input(_Part):
    """How a picture becomes the network's input; see contract.preprocess.Preprocessing."""

    height: Count
    width: Count
    shorter_side_px: Annotated[int, Field(ge=0)] = 0
    interpolation: Literal["bicubic", "bilinear", "lanczos"] = "bicubic"
    framing: Literal["crop", "letterbox"] = "crop"

    @model_validator(mode="after")
    def _can_be_cut(self) -> Input:
        Preprocessing(**self.model_dump())
        return self


class Augment(_Part):
    """What training does to a picture.

    Attributes:
        crop_scale: Smallest and largest share of the picture's area that a random crop keeps.
        crop_aspect: Largest aspect ratio of the crop, width to height or the reverse.
        flip: Mirror half of the pictures.
        mix: Share of pictures blended with another one of the batch (mixup with a uniform
            weight). Only where the teacher gives the labels, which it then gives for the blend.
    """

    crop_scale: tuple[Fraction, Fraction] = (1.0, 1.0)
    crop_aspect: Annotated[float, Field(ge=1)] = 1.0
    flip: bool = False
    mix: Fraction = 0.0

    @model_validator(mode="after")
    def _crops_exist(self) -> Augment:
        smallest, largest = self.crop_scale
        if not 0 < smallest <= largest:
            raise ValueError(f"crop_scale needs 0 < smallest <= largest, got {self.crop_scale}")
        return self


class Data(_Part):
    """Pictures in ImageNet layout: one folder a class, named by id or class name.

    Attributes:
        source: "folder", or "digits": scikit-learn's scanned digits, written out as such a folder.
        train: Folder of training pictures, or several; every picture below it when ``labelled`` is
            false. A folder with ``*.tar`` files below it holds tar shards.
        evaluate: Folders to report accuracy on, by the name the report shows.
        labels: A label set's name, or the class names themselves.
        labelled: False: folder names in ``train`` are ignored and the predictions of each
            stage's teacher are the labels.
        workers: Processes that decode pictures; 0 decodes in the training process.
    """

    source: Literal["folder", "digits"] = "folder"
    train: Path | Annotated[list[Path], Field(min_length=1)]
    evaluate: dict[str, Path] = Field(min_length=1)
    labels: str | list[str]
    labelled: bool = True
    augment: Augment = Augment()
    workers: Annotated[int, Field(ge=0)] = 0

    @property
    def train_folders(self) -> list[Path]:
        """The training folders, however many were given."""
        return self.train if isinstance(self.train, list) else [self.train]

    def for_classification(self) -> list[str]:
        """Say what other tasks cannot take, and what to do about each."""
        faults = []
        if self.augment.mix:
            faults.append("cannot learn from blended pictures, leave data.augment.mix out")
        if self.source == "digits":
            faults.append("has no source digits, set data.source: folder")
        return faults


class Schedule(_Part):
    """One run of the optimiser (AdamW, cosine decay after a linear warm-up).

    Attributes:
        epochs: Passes over the training pictures; fractions are allowed.
        batch_size: Pictures an optimiser step, of all processes together.
        micro_batch: Largest number of pictures that one process computes at once; a step averages
            the losses of as many such pieces as it needs. None computes its whole part at once.
            Pieces change the method a little where ``distill.agree_only`` is on: the feature term
            is then a mean over the agreeing samples of each piece.
        learning_rate: Peak rate at this batch size.
        warmup: Share of the steps with a rising rate.
        clip_norm: Largest gradient norm.
        autocast: "bfloat16" and "float16" compute matrix products in that format, with float32
            master weights; float16 with scaled gradients.
        evaluate_every: Epochs between two evaluations while training goes on; None has only those
            before the first step and at the end.
    """

    epochs: Positive
    batch_size: Count = 32
    micro_batch: Count | None = None
    learning_rate: Positive
    weight_decay: NotNegative = 0.0
    warmup: Fraction = 0.1
    clip_norm: Positive = 5.0
    autocast: Literal["float32", "bfloat16", "float16"] = "float32"
    evaluate_every: Positive | None = None


class Distill(_Part):
    """The mixed distillation loss of both stages, ``hard*H + soft*S + feature*F``.

    Attributes:
        hard, soft, feature: Weights; 1, 10 and 5 are reported for the paper.
        hard_label: What the hard term learns: "given" labels, or the class that the "teacher" of
            the stage predicts. Without labels it is the teacher's in any case.
        temperature: Of the soft term.
        feature_layers: How many of the last blocks are compared.
        agree_only: Compare features only on samples on which teacher and student predict the
            same class.
        layer_weights: How stage 2 weights each layer's feature term by the stage-1 loss of that
            layer: "inverse" or "softmax" (larger loss, smaller weight), "uniform", or "direct".
        freeze_head: Keep the teacher's head, which few classes or few pictures would bend.
    """

    hard: NotNegative = 1.0
    soft: NotNegative = 10.0
    feature: NotNegative = 5.0
    hard_label: Literal["given", "teacher"] = "given"
    temperature: Positive = 1.0
    feature_layers: Count = 4
    agree_only: bool = True
    layer_weights: Literal["inverse", "softmax", "uniform", "direct"] = "inverse"
    freeze_head: bool = False


class Prune(_Part):
    """Stage 1: the sparse student of the dense teacher.

    Attributes:
        pattern: Survivors and group length along the reduction axis; "4:8" cuts adjacent pairs,
            which sparse INT4 kernels need.
        criterion: "magnitude" keeps the largest weights, "wanda" those of the largest product of
            weight and input (Sun et al. 2024); "reconstruct" picks and corrects weights against
            calibration activations, column by column (Frantar and Alistarh 2023); "admm" picks
            them all together and solves for the survivors (Meng et al. 2024).
        calibration_images: Pictures that all criteria but "magnitude" see, augmented as in
            training: on the plain pictures of few classes corrections fit those alone.
        permute: Reorder the FFN's hidden channels and each head's value channels first, so that
            masks keep more (Pool and Yu 2021); the network computes the same.
        masks: "fixed" chooses them once; "recomputed" chooses them anew while training goes on,
            "gradual" does so and cuts in steps. Both need the magnitude criterion.
        settle: Share of the steps after which moving masks stay.
        every: Steps between two choices of moving masks.
        schedule: Distillation after pruning; None skips it.
    """

    pattern: Literal["2:4", "4:8"] = "2:4"
    criterion: Literal["magnitude", "wanda", "reconstruct", "admm"] = "magnitude"
    calibration_images: Count = 256
    permute: bool = False
    masks: Literal["fixed", "recomputed", "gradual"] = "fixed"
    settle: Annotated[float, Field(gt=0, lt=1)] = 0.5
    every: Count = 10
    schedule: Schedule | None

    @field_validator("pattern", mode="before")
    @classmethod
    def _not_a_time(cls, value: Any) -> Any:
        # YAML 1.1 reads an unquoted 4:8 as four minutes and eight seconds.
        return {124: "2:4", 248: "4:8"}.get(value, value) if isinstance(value, int) else value

    @model_validator(mode="after")
    def _parts_fit(self) -> Prune:
        if self.masks != "fixed" and (self.criterion != "magnitude" or self.schedule is None):
            raise ValueError(
                f"masks {self.masks} need criterion magnitude and a schedule in which they move"
            )
        if self.permute and self.pattern != "2:4":
            raise ValueError(f"permute needs pattern 2:4, got {self.pattern}")
        return self


# Inputs that weights of each format go with; float32 is weight-only.
_ACTIVATIONS = {"int8": ("int8",), "int4": ("int4", "int8", "float32"), "fp8": ("fp8",)}


class Quantize(_Part):
    """Stage 2: the quantised student of the sparse float teacher.

    Attributes:
        teacher: "sparse", the student of stage 1, or "dense", the network it came from.
        weights, activations: Number formats; int8, fp8 and int4 take activations of the same
            format, int4 also int8, or float32 where the weights alone are quantised.
        block_size: Neighbours along the reduction axis that share a scale, of int4 weights with
            float32 activations; None is one scale an output channel.
        first_last: "int8" keeps patch embedding and head at 8 bits when the rest has 4.
        placement: "gemm" rounds the inputs of Linear and Conv2d, "gemm+add" also what residual
            additions take from them, "gemm+add+bmm" also the inputs of attention's products.
        observer: How activation ranges are found: "max", "percentile" or "mse".
        percentile: Share of absolute values inside the range, in percent.
        calibration_images: Pictures the observers see.
        weight_scales: "max" follows the largest weight, "mse" has the least squared error,
            "learned" starts there and is trained; None is "max" for 8 bits and for int4 "learned"
            or "mse", as ``learned_scales`` says.
        learned_scales: Train activation scales with the weights (Esser et al., LSQ, 2020).
        schedule: Quantisation-aware training; None leaves it at calibration.
    """

    teacher: Literal["sparse", "dense"] = "sparse"
    weights: Literal["int8", "int4", "fp8"] = "int8"
    activations: Literal["int8", "int4", "fp8", "float32"] = "int8"
    block_size: Literal[64, 128] | None = None
    first_last: Literal["int8", "same"] = "int8"
    placement: Literal["gemm", "gemm+add", "gemm+add+bmm"] = "gemm"
    observer: Literal["max", "percentile", "mse"] = "percentile"
    percentile: Annotated[float, Field(gt=50, le=100)] = 99.99
    calibration_images: Count = 256
    weight_scales: Literal["max", "mse", "learned"] | None = None
    learned_scales: bool = True
    schedule: Schedule | None

    @model_validator(mode="after")
    def _formats_fit(self) -> Quantize:
        known = _ACTIVATIONS[self.weights]
        if self.activations not in known:
            wanted = " or ".join(known)
            raise ValueError(
                f"weights {self.weights} need activations {wanted}, got {self.activations}"
            )
        if self.block_size and self.activations != "float32":
            raise ValueError("block_size needs weights int4 and activations float32")
        if self.placement != "gemm" and self.activations == "float32":
            raise ValueError(f"placement {self.placement} has nothing to round in float32")
        return self


class Publish(_Part):
    """Where the bundle goes when it is done.

    Attributes:
        repository: The Triton model repository.
        max_batch_size: Largest batch that the server may form.
    """

    repository: Path = Path("model_repository")
    max_batch_size: Count = 8


class Recipe(_Part):
    """One compression, whole.

    Attributes:
        name: Names the run, the bundle and the model in the repository.
        teacher: Training of the dense network; required with an architecture, absent with a
            checkpoint.
        run: Folder of checkpoints, metrics, report and bundle.
        checkpoint_every_s: How much work a kill may cost.
        threads: Threads of the training process; None leaves it to torch. Results repeat bit
            by bit only for the same number.
        licence: Of the resulting weights, for the card.
        trackers: Where metrics go while they happen; TensorBoard's files lie in the run's folder.
    """

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    description: str = ""
    licence: str = ""
    task: Literal["classify", "detect", "segment"] = "classify"
    seed: Annotated[int, Field(ge=0)] = 0
    threads: Count | None = None
    network: Network
    input: Input
    data: Data
    teacher: Schedule | None = None
    distill: Distill = Distill()
    prune: Prune
    quantize: Quantize
    publish: Publish = Publish()
    run: Path
    checkpoint_every_s: Positive = 60.0
    trackers: tuple[Literal["tensorboard", "mlflow", "wandb"], ...] = ("tensorboard",)

    @model_validator(mode="after")
    def _parts_agree(self) -> Recipe:
        if (task := FAMILIES[self.network.family].task) != self.task:
            raise ValueError(f"family {self.network.family} needs task: {task}, got {self.task}")
        if self.task != "classify" and (faults := self.data.for_classification()):
            raise ValueError(f"task: {self.task} {' and '.join(faults)}")
        if bool(self.network.architecture) != (self.teacher is not None):
            raise ValueError(
                "an architecture needs a teacher schedule to train it, a checkpoint needs none"
            )
        if self.data.augment.mix and self.data.labelled:
            raise ValueError("augment.mix needs labelled: false, where the teacher labels blends")
        if self.data.source == "digits" and isinstance(self.data.train, list):
            raise ValueError("data.source digits writes one training folder, give one")
        if self.teacher and not self.data.labelled:
            raise ValueError("a teacher trained from scratch needs labelled: true")
        return self

    def digest(self) -> str:
        """Return a hash of everything that decides the result, to tell runs apart."""
        left_out = dict(_NOT_DECISIVE)
        if self.distill.agree_only and self.distill.feature:
            # Each piece has its own number of agreeing samples to divide the feature term by.
            del left_out["prune"], left_out["quantize"]
        decides = self.model_dump(mode="json", exclude=left_out)
        return hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()[:16]
