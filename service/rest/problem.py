"""A problem as RFC 9457 has it."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class Problem(BaseModel):
    """Why a request has no answer, as RFC 9457 has it."""

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "type": "urn:gpusq:problem:bad_image",
                "title": "The picture cannot be read",
                "status": 422,
                "detail": "Expected a JPEG, PNG or WebP picture, got an empty file. "
                "Choose one with a picture in it.",
                "instance": "urn:uuid:0d1f1c2e-5a0b-4a8e-9a55-0f8b7f1f6f0a",
                "code": "bad_image",
                "timings_ms": {"read": 0.11, "decode": 0.02, "queue": 0.08, "total": 0.5},
            }
        }
    )

    type: str
    title: str
    status: int
    detail: str
    instance: str
    code: str
    timings_ms: dict[str, float] | None = Field(
        None,
        description="Milliseconds of the stages that were reached, and `total`; only where a "
        "network was asked.",
    )
