"""The settings of the gateway: read once, passed in, never global. docs/settings.md has each."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import Field, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from contract.cpu import cpus
from contract.preprocess import MAX_PIXELS

PREFIX: Final = "GPUSQ_"
MAX_TOP_K: Final = 100
# Read by `gpusq predict`, from an environment that both may share.
_OF_CLIENTS: Final = frozenset({"URL", "API_KEY"})
_ORIGIN: Final = r"https?://[A-Za-z0-9.:\[\]-]+"
# None, all, or some, as browsers send them: without a path.
ORIGINS: Final = rf"^(|\*|{_ORIGIN}(,\s*{_ORIGIN})*)$"


class Settings(BaseSettings):
    """What an operator may choose, each as ``GPUSQ_<NAME>`` in the environment."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        frozen=True,
        extra="forbid",
        # Compose writes a variable that is not set as an empty one.
        env_ignore_empty=True,
    )

    repository: Path = Path("model_repository")
    repository_check_s: float = Field(5.0, ge=0.1, le=300)
    host: str = "127.0.0.1"
    port: int = Field(8000, ge=0, le=65535)
    grpc: bool = True
    grpc_port: int = Field(9000, ge=0, le=65535)
    executor: Literal["auto", "openvino", "onnxruntime", "tensorrt", "triton"] = "auto"
    cpu_concurrency: int = Field(1, ge=1, le=64)
    triton_url: str = Field(
        "127.0.0.1:8001", pattern=r"^[^\s/]+:\d+$", description="HOST:PORT, without http://"
    )
    triton_concurrency: int = Field(16, ge=1, le=1024)
    triton_shared_memory_bytes: int = Field(0, ge=0, le=1 << 30)
    triton_check_s: float = Field(5.0, ge=0.1, le=300)
    default_model: str | None = None
    routes: Path | None = None
    top_k: int = Field(5, ge=1, le=MAX_TOP_K)
    max_body_bytes: int = Field(10_000_000, ge=1)
    max_tensor_bytes: int = Field(32_000_000, ge=1)
    url_hosts: Annotated[tuple[str, ...], NoDecode] = ()
    max_bytes_in_flight: int = Field(256_000_000, ge=1)
    # Above 89 million Pillow itself begins to refuse.
    max_pixels: int = Field(MAX_PIXELS, ge=1, le=89_000_000)
    decode_threads: int = Field(default_factory=cpus, ge=1, le=256)
    queue_limit: int = Field(32, ge=0, le=10_000)
    deadline_s: float = Field(2.0, gt=0, le=30)
    read_timeout_s: float = Field(30.0, gt=0, le=300)
    stop_grace_s: float = Field(2.0, ge=0, le=300)
    drain_timeout_s: int = Field(25, ge=0, le=600)
    api_keys: Path | None = None
    metrics_need_key: bool = False
    tls_certificate: Path | None = None
    tls_key: Path | None = None
    tls_client_ca: Path | None = None
    # Separated by commas.
    cors_origins: str = Field(
        "", pattern=ORIGINS, description="origins such as https://example.org, divided by commas"
    )
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["text", "json"] = "text"
    otlp_endpoint: str | None = Field(
        None, pattern=r"^https?://[^\s/]+", description="a URL such as http://127.0.0.1:4318"
    )
    trace_ratio: float = Field(1.0, ge=0, le=1)

    @field_validator("url_hosts", mode="before")
    @classmethod
    def _listed(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        return tuple(name.strip() for name in value.split(",") if name.strip())


def unknown(names: Iterable[str]) -> list[str]:
    """Say of each variable that looks like a setting and is none that it changes nothing.

    Args:
        names: Of environment variables.

    >>> unknown(["GPUSQ_TOPK", "GPUSQ_URL", "HOME"])
    ['GPUSQ_TOPK is no setting and changes nothing. Did you mean GPUSQ_TOP_K?']
    """
    known = [name.upper() for name in Settings.model_fields]
    said = []
    silent = {*known, *_OF_CLIENTS}
    for name in sorted(name for name in names if name.upper().startswith(PREFIX)):
        # The prefix, which all share, would make any name look near.
        if (own := name.upper().removeprefix(PREFIX)) not in silent:
            near = difflib.get_close_matches(own, known, n=1)
            mend = f"Did you mean {PREFIX}{near[0]}?" if near else "docs/settings.md has them all."
            said.append(f"{name} is no setting and changes nothing. {mend}")
    return said
