"""The file that a stand-in builder writes: a header, and the ONNX graph it was built from."""

from __future__ import annotations

import json
import struct
from typing import Any

_MAGIC = b"STANDIN\0"
_LENGTHS = struct.Struct("<IQ")


class Refused(Exception):
    """A plan cannot be loaded here; the message is what TensorRT writes into its log."""


def pack(header: dict[str, Any], model: bytes) -> bytes:
    described = json.dumps(header, sort_keys=True).encode()
    return _MAGIC + _LENGTHS.pack(len(described), len(model)) + described + model


def unpack(plan: bytes, version: str, capability: tuple[int, int]) -> tuple[dict[str, Any], bytes]:
    """Return header and graph of a plan that fits.

    Raises:
        Refused: Not a plan, cut off, of another version or for another GPU.
    """
    begin = len(_MAGIC) + _LENGTHS.size
    if len(plan) < begin or not plan.startswith(_MAGIC):
        raise Refused(_serialization("plan->header.magicTag == rt::kPLAN_MAGIC_TAG failed."))
    described, size = _LENGTHS.unpack(plan[len(_MAGIC) : begin])
    if len(plan) < begin + described:
        raise Refused(_serialization("blobSize > sizeof(PlanHeader) failed."))
    header = json.loads(plan[begin : begin + described])
    if header["tensorrt"] != version:
        raise Refused(_other_version(version, header["tensorrt"]))
    if tuple(header["capability"]) != capability:
        expected, got = (".".join(map(str, c)) for c in (header["capability"], capability))
        raise Refused(
            "6: The engine plan file is generated on an incompatible device, expecting compute "
            f"{got} got compute {expected}, please rebuild."
        )
    model = plan[begin + described :]
    if len(model) != size:
        raise Refused(_serialization("plan->header.size == blobSize failed."))
    return header, model


def _serialization(what: str) -> str:
    where = "1: [runtime.cpp::parsePlan::314] Error Code 1: "
    return f"{where}Serialization (Serialization assertion {what})"


def _other_version(here: str, there: str) -> str:
    # From 10 on the log has numbers of TensorRT's own instead of its versions.
    if here.startswith("8."):
        return (
            "6: The engine plan file is not compatible with this version of TensorRT, expecting "
            f"library version {here} got {there}, please rebuild."
        )
    return (
        "IRuntime::deserializeCudaEngine: Error Code 1: Serialization (Serialization assertion "
        "stdVersionRead == kSERIALIZATION_VERSION failed.Version tag does not match. Note: "
        "Current Version: 240, Serialized Engine Version: 239)"
    )
