"""Ask a running service of GPUSQ-ViT about pictures: :class:`Client` and :class:`AsyncClient`."""

try:
    import httpx as _httpx  # noqa: F401 # found missing here, it is said what to install
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        "gpusq needs httpx. Install it: pip install 'gpusq-vit[client]', or '.[client]' in the "
        "checkout",
        name=error.name,
    ) from error

from gpusq.answers import (
    Accuracy,
    Alias,
    Area,
    Box,
    ClassifyAnswer,
    DetectAnswer,
    Detection,
    Limits,
    Model,
    Models,
    PictureAnswer,
    Precision,
    Prediction,
    Readiness,
    RunLengths,
    SegmentAnswer,
    Size,
)
from gpusq.async_client import AsyncClient
from gpusq.client import Client
from gpusq.errors import (
    AnswerError,
    ArgumentError,
    ConnectionFailedError,
    GpusqError,
    OutOfTimeError,
    PictureError,
    Problem,
    RequestRefusedError,
)

__all__ = [
    "Accuracy",
    "Alias",
    "AnswerError",
    "Area",
    "ArgumentError",
    "AsyncClient",
    "Box",
    "ClassifyAnswer",
    "Client",
    "ConnectionFailedError",
    "DetectAnswer",
    "Detection",
    "GpusqError",
    "Limits",
    "Model",
    "Models",
    "OutOfTimeError",
    "PictureAnswer",
    "PictureError",
    "Precision",
    "Prediction",
    "Problem",
    "Readiness",
    "RequestRefusedError",
    "RunLengths",
    "SegmentAnswer",
    "Size",
]
