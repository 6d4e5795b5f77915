"""Whether requests are traced, and where their spans go."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from service.observe.observer import Tracer
from service.settings import Settings

logger = logging.getLogger(__name__)


def start(settings: Settings, environment: Mapping[str, str]) -> Tracer | None:
    """Begin to send spans; None, and nothing of OpenTelemetry is loaded, where nobody takes them.

    Args:
        settings: Where to, and how many.
        environment: OpenTelemetry's own variables, which hold where the settings say nothing.
    """
    where = endpoint(settings.otlp_endpoint, environment)
    if where is None:
        return None
    if environment.get("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf") != "http/protobuf":
        logger.warning("spans go to %s by http/protobuf, whatever the environment says", where)
    # It takes a fifth of a second and some megabytes.
    from service.observe.spans import OtlpTracer  # noqa: PLC0415

    logger.info("spans of requests are sent to %s", where)
    return OtlpTracer(where, settings.trace_ratio)


def endpoint(chosen: str | None, environment: Mapping[str, str]) -> str | None:
    """Return the whole URL that spans are sent to.

    >>> endpoint("http://127.0.0.1:4318", {})
    'http://127.0.0.1:4318/v1/traces'
    >>> endpoint(None, {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318/"})
    'http://collector:4318/v1/traces'
    """
    if chosen is None and environment.get("OTEL_SDK_DISABLED", "").lower() != "true":
        if whole := environment.get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"):
            return whole
        chosen = environment.get("OTEL_EXPORTER_OTLP_ENDPOINT") or None
    if chosen is None or chosen.endswith("/v1/traces"):
        return chosen
    return f"{chosen.rstrip('/')}/v1/traces"
