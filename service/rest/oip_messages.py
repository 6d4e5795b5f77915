"""The JSON of the Open Inference Protocol, as clients see it and as the OpenAPI document has it."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictInt, StrictStr

_BINARY_SIZE = "Bytes of this tensor behind the JSON, instead of `data`."
# Longer lists are no request for a picture.
_MOST_TENSORS = 64
_MOST_AXES = 64


class InputParameters(BaseModel):
    """What may be said of an input. Others are ignored."""

    binary_data_size: StrictInt | None = Field(None, ge=0, description=_BINARY_SIZE)
    shared_memory_region: Any = Field(None, description="Refused: shared memory is not read.")


class InferInput(BaseModel):
    """One input tensor."""

    name: StrictStr = Field(description="`image`.")
    shape: list[StrictInt] = Field(
        max_length=_MOST_AXES, description="`[b, h, w, 3]`; `[b]` or `[b, 1]` of BYTES."
    )
    datatype: StrictStr = Field(description="UINT8; or BYTES, encoded pictures.")
    parameters: InputParameters = InputParameters()
    data: Any = Field(None, description="The values row by row, flat or nested; not of BYTES.")


class OutputParameters(BaseModel):
    """What may be said of a wanted output. Others are ignored."""

    binary_data: StrictBool | None = Field(None, description="Whether it comes behind the JSON.")
    classification: Any = Field(None, description="Refused: ask `/v1/classify`.")
    shared_memory_region: Any = Field(None, description="Refused: shared memory is not written.")


class InferOutput(BaseModel):
    """One output that is wanted."""

    name: StrictStr
    parameters: OutputParameters = OutputParameters()


class InferParameters(BaseModel):
    """What may be said of a request. Others are ignored."""

    binary_data_output: StrictBool = Field(
        False, description="Whether outputs come behind the JSON that do not say themselves."
    )
    timeout: StrictInt | None = Field(
        None, ge=0, description="Microseconds after which the client no longer waits."
    )


class InferRequest(BaseModel):
    """A request to run a network."""

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "id": "1",
                "inputs": [
                    {
                        "name": "image",
                        "shape": [1, 224, 224, 3],
                        "datatype": "UINT8",
                        "parameters": {"binary_data_size": 150528},
                    }
                ],
                "outputs": [{"name": "scores", "parameters": {"binary_data": False}}],
            }
        }
    )

    id: StrictStr | None = Field(None, description="Comes back with the answer.")
    parameters: InferParameters = InferParameters()
    inputs: list[InferInput] = Field(max_length=_MOST_TENSORS)
    outputs: list[InferOutput] = Field([], max_length=_MOST_TENSORS, description="All without it.")
