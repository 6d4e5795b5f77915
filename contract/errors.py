"""The errors of the contract, one tree.

ContractError (ValueError)
├── CardError      a model card that cannot be read, or that contradicts itself
├── EngineError    a plan cannot be loaded or run here: no GPU, another one, another TensorRT
└── ImageError     bytes that cannot become a picture; `fault` says in which way
"""

from enum import Enum


class ContractError(ValueError):
    """Something that both halves must agree on does not hold."""


class CardError(ContractError):
    """A model card is missing a field, has an unknown one, or contradicts itself."""


class EngineError(ContractError):
    """A plan cannot be loaded or run on this machine."""


class ImageFault(str, Enum):
    """In which way bytes failed to become a picture. Transports map it to their own codes."""

    EMPTY = "empty"
    UNSUPPORTED_FORMAT = "unsupported_format"
    TOO_MANY_PIXELS = "too_many_pixels"
    DAMAGED = "damaged"


class ImageError(ContractError):
    """Bytes could not be decoded into a picture within the limits.

    Args:
        fault: The kind of failure.
        message: What was expected, what came, what to do.
    """

    def __init__(self, fault: ImageFault, message: str) -> None:
        super().__init__(message)
        self.fault = fault
