"""A bundle read and checked: the graph keeps the contract, and its card speaks of this graph.

Read by the repository writer. Imports neither torch nor pydantic.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import onnx
from google.protobuf.message import DecodeError

from compress.errors import PublishError
from compress.plan import rounding, sparsity
from contract.card import ModelCard
from contract.errors import CardError

MODEL_FILE: Final = "model.onnx"
CARD_FILE: Final = "card.json"
# LayerNormalization came with 17; INT4 weights need 21, the newest that all our runtimes read.
OPSETS: Final = range(17, 22)


@dataclass(frozen=True)
class Tensor:
    """One input or output of a network.

    Args:
        name: As the graph calls it.
        element: "uint8", "float32" and so on, as NumPy calls it.
        dims: Without the batch axis, which comes first and may have any length.
    """

    name: str
    element: str
    dims: tuple[int, ...]

    def __str__(self) -> str:
        """Return the tensor as messages show it: ``image uint8 [b, 224, 224, 3]``."""
        return f"{self.name} {self.element} [{', '.join(['b', *map(str, self.dims)])}]"


@dataclass(frozen=True)
class Bundle:
    """An exported network and its card, found to agree.

    Args:
        model: The ONNX file.
        card: What the graph does not say.
        inputs: In the order of the graph.
        outputs: In the order of the graph.
    """

    model: Path
    card: ModelCard
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]


def _detections(_card: ModelCard, found: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    # How many places for objects there are, and how fine masks are, is the graph's own affair.
    places = next((tensor.dims[:1] for tensor in found if tensor.name == "scores"), ()) or (1,)
    expected = (
        Tensor("scores", "float32", places),
        Tensor("labels", "int32", places),
        Tensor("boxes", "float32", (*places, 4)),
    )
    masks = [tensor for tensor in found[3:4] if tensor.name == "masks" and len(tensor.dims) == 3]
    return (*expected, *(Tensor("masks", "float32", (*places, *mask.dims[1:])) for mask in masks))


_OUTPUTS: Final[Mapping[str, Callable[[ModelCard, tuple[Tensor, ...]], tuple[Tensor, ...]]]] = {
    "classify": lambda card, _: (Tensor("scores", "float32", (len(card.labels),)),),
    "segment": lambda card, _: (
        Tensor("class_map", "uint8", (card.preprocessing.height, card.preprocessing.width)),
    ),
    "detect": _detections,
}


def read_bundle(folder: Path) -> Bundle:
    """Read a bundle folder and check that graph and card agree.

    Raises:
        SparsityError: The weights are not as sparse as the card says.
        PublishError: A file is missing or unreadable, the graph breaks the contract, or the
            card speaks of another graph.
    """
    return checked(folder / MODEL_FILE, _read_card(folder / CARD_FILE))


def name_of(folder: Path) -> str:
    """Return what a bundle is called: its folder, or the run's that compressed it.

    >>> name_of(Path("runs/deit-tiny/bundle")), name_of(Path("bundles/swin-base"))
    ('deit-tiny', 'swin-base')
    """
    resolved = folder.resolve()
    return resolved.parent.name if resolved.name == "bundle" else resolved.name


def read_bundle_or_model(folder: Path) -> Bundle:
    """Read a bundle, or the served version of a model's folder in a repository.

    Raises:
        PublishError: As for :func:`read_bundle`.
        PlanError: The folder is neither.
        CardError: The card in the repository cannot be read.
    """
    if (folder / CARD_FILE).is_file() or not (folder / "config.pbtxt").is_file():
        return read_bundle(folder)
    # Needs Triton's client, which is not installed where plans are only measured.
    from compress import bundles  # noqa: PLC0415

    return checked(*bundles.find(folder))


def checked(path: Path, card: ModelCard) -> Bundle:
    """Check that a graph keeps the contract and is what a card says.

    Raises:
        PublishError: As for :func:`read_bundle`.
    """
    model = _read_model(path)
    rounding.check(model, card.precision, path)
    sparsity.check(model, card.precision.sparsity, path)
    weights = {weight.name for weight in model.graph.initializer}
    inputs = _tensors(value for value in model.graph.input if value.name not in weights)
    outputs = _tensors(model.graph.output)
    preprocessing = card.preprocessing
    image = Tensor("image", "uint8", (preprocessing.height, preprocessing.width, 3))
    _same("input", inputs, (image,))
    _same("output", outputs, _OUTPUTS[card.task](card, outputs))
    return Bundle(path, card, inputs, outputs)


def _read_card(path: Path) -> ModelCard:
    try:
        return ModelCard.from_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise PublishError(
            f"expected a bundle, a folder with {MODEL_FILE} and {CARD_FILE}, at {path.parent}, "
            f"found no {path.name}. gpusq compress writes one below its run folder."
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise PublishError(f"the bundle has no readable card: {error}") from error
    except CardError as error:
        raise PublishError(f"{path}: {error}") from error


def _read_model(path: Path) -> onnx.ModelProto:
    try:
        model = onnx.load(path, load_external_data=False)
        _check_opset(model, path)
        if any(map(onnx.external_data_helper.uses_external_data, model.graph.initializer)):
            raise PublishError(f"{path} keeps weights in other files. Export it as one file.")
        onnx.checker.check_model(model)
    except FileNotFoundError as error:
        raise PublishError(
            f"expected a bundle with the network {MODEL_FILE} at {path.parent}, found none there. "
            "Export it again."
        ) from error
    except OSError as error:
        raise PublishError(f"the bundle has no readable network: {error}") from error
    except (DecodeError, onnx.checker.ValidationError) as error:
        raise PublishError(f"{path} is not a valid ONNX file: {error}") from error
    return model


def _check_opset(model: onnx.ModelProto, path: Path) -> None:
    if not model.graph.node:
        raise PublishError(f"{path} is not a valid ONNX file: it has no operator. Export it again.")
    foreign = sorted({node.domain for node in model.graph.node} - {"", "ai.onnx"})
    if foreign:
        raise PublishError(
            f"{path} has operators of {', '.join(foreign)}, expected ONNX's own. Export it again."
        )
    opset = next((entry.version for entry in model.opset_import if not entry.domain), 0)
    if opset not in OPSETS:
        raise PublishError(
            f"{path} uses opset {opset}, expected {OPSETS[0]} to {OPSETS[-1]}. Export it again."
        )


def _tensors(values: Iterable[onnx.ValueInfoProto]) -> tuple[Tensor, ...]:
    return tuple(_tensor(value) for value in values)


def _tensor(value: onnx.ValueInfoProto) -> Tensor:
    tensor_type = value.type.tensor_type
    batch, *dims = tensor_type.shape.dim or [onnx.TensorShapeProto.Dimension()]
    if batch.HasField("dim_value"):
        raise PublishError(
            f"{value.name} has a fixed batch of {batch.dim_value}. Export it with a dynamic one."
        )
    if not all(dim.HasField("dim_value") for dim in dims):
        raise PublishError(f"{value.name} may only leave its batch axis open. Export it again.")
    element = onnx.helper.tensor_dtype_to_np_dtype(tensor_type.elem_type).name
    return Tensor(value.name, element, tuple(dim.dim_value for dim in dims))


def _same(kind: str, found: tuple[Tensor, ...], expected: tuple[Tensor, ...]) -> None:
    if found != expected:
        raise PublishError(
            f"by its card the graph has the {kind} {', '.join(map(str, expected))}, "
            f"it has {', '.join(map(str, found)) or 'none'}. Export graph and card together."
        )
