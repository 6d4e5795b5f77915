"""The headers of every answer that tell browsers what they may do with it."""

from __future__ import annotations

from typing import Any, Final

from service.rest import inference

# As servers send them: encoded once, for every answer.
Raw = list[tuple[bytes, bytes]]

ALWAYS: Final = {
    # A picture that was sent cannot come back as a script.
    "X-Content-Type-Options": "nosniff",
    # Nobody is told which model was asked.
    "Referrer-Policy": "no-referrer",
    # For browsers that do not know frame-ancestors.
    "X-Frame-Options": "DENY",
    # An answer opened by itself loads and runs nothing; the pages have policies of their own.
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    # Another site cannot load an answer as an image or a script, and time or measure it.
    "Cross-Origin-Resource-Policy": "same-origin",
    # A site that opens the page in a window gets no hold of it.
    "Cross-Origin-Opener-Policy": "same-origin",
    # The page takes files, so not even a script in it could ask for these.
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    # What a picture shows belongs to who sent it: no cache keeps it.
    "Cache-Control": "no-store",
}
# Thirty days. Browsers apply it to every port of the host, so a year would bind an operator who
# gives TLS up, or has another service there, for that long.
OVER_TLS: Final = {"Strict-Transport-Security": "max-age=2592000"}


def of_answers(*, tls: bool) -> Raw:
    """Return the headers of answers that have none of their own of that name.

    Args:
        tls: Whether the service itself speaks TLS. Behind a proxy that does, the proxy decides.
    """
    said = {**ALWAYS, **OVER_TLS} if tls else ALWAYS
    return [(name.lower().encode("latin-1"), text.encode("latin-1")) for name, text in said.items()]


def cors(origins: str) -> dict[str, Any]:
    """Return what pages of other origins may do.

    Args:
        origins: Separated by commas, or `*` for all. Nothing that a browser keeps is accepted from
            them: they send the key themselves.
    """
    return {
        "allow_origins": [origin.strip() for origin in origins.split(",")],
        "allow_methods": ["GET", "POST"],
        "allow_headers": [
            "Accept",
            "Authorization",
            "Content-Type",
            "X-API-Key",
            inference.TIMEOUT,
        ],
        "expose_headers": [inference.HEADER, "Retry-After", "X-Request-ID"],
    }
