"""Addresses, keys and what httpx raises: what both clients have in common beside the exchange."""

from __future__ import annotations

import ssl
from typing import Any, Final

import httpx

from gpusq.calls import Call, Reply
from gpusq.errors import ArgumentError
from gpusq.exchange import Lost, Policy, Send

DEFAULT_URL: Final = "http://127.0.0.1:8000"
# The service keeps an idle connection for 75 s. The client gives it up first, so that no request
# meets a connection that is being closed.
LIMITS: Final = httpx.Limits(max_connections=100, keepalive_expiry=60)
_MAX_RETRIES: Final = 20


def address(base_url: str) -> httpx.URL:
    """Return where the service is.

    Raises:
        ArgumentError: It is no address of HTTP, or carries a password.
    """
    try:
        url = httpx.URL(base_url)
    except (httpx.InvalidURL, TypeError) as error:
        raise ArgumentError(f"base_url: expected {DEFAULT_URL!r} or the like: {error}.") from error
    # Not shown either: messages end in logs. Without a scheme it is no user to httpx.
    if url.userinfo or "@" in str(base_url):
        raise ArgumentError("base_url: leave out user and password; a key goes into api_key.")
    if url.scheme not in ("http", "https") or not url.host:
        raise ArgumentError(f"base_url: expected {DEFAULT_URL!r} or the like, got {base_url!r}.")
    return url


def authorities(url: httpx.URL) -> ssl.SSLContext | bool:
    """Return by whom a certificate must be signed, as httpx takes it.

    Without TLS nobody: what is loaded for it would take most of the time in which a client is made.
    """
    return True if url.scheme == "https" else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


def headers(api_key: str | None) -> dict[str, str]:
    """Return the headers of every request.

    Raises:
        ArgumentError: The key cannot stand in a header.
    """
    named = {"User-Agent": "gpusq"}
    if api_key is None:
        return named
    if not api_key or not all("!" <= character <= "~" for character in api_key):
        # Not shown: messages end in logs.
        raise ArgumentError(
            "api_key: expected printable ASCII without spaces or line breaks, as the service's "
            "operator gave it."
        )
    return {**named, "Authorization": f"Bearer {api_key}"}


def policy(timeout_s: float, retries: int) -> Policy:
    """Return how long and how often to try.

    Raises:
        ArgumentError: Out of range.
    """
    if not 0 < timeout_s < float("inf"):
        raise ArgumentError(f"timeout_s: expected seconds above 0, got {timeout_s!r}.")
    if not 0 <= retries <= _MAX_RETRIES:
        raise ArgumentError(f"retries: expected 0 to {_MAX_RETRIES}, got {retries!r}.")
    return Policy(timeout_s, retries)


def options(url: httpx.URL, api_key: str | None) -> dict[str, Any]:
    """Return what httpx's clients, of either kind, are made with.

    Raises:
        ArgumentError: The key cannot be sent.
    """
    return {
        "base_url": url,
        "headers": headers(api_key),
        "limits": LIMITS,
        "verify": authorities(url),
    }


def request(
    client: httpx.Client | httpx.AsyncClient, call: Call[object], step: Send
) -> httpx.Request:
    """Return one attempt as httpx has it.

    Raises:
        ArgumentError: The client is closed.
    """
    if client.is_closed:
        raise ArgumentError("This client is closed. Ask before that, or make a new one.")
    return client.build_request(
        call.method,
        call.path,
        params=dict(call.query) or None,
        headers=dict(step.headers),
        content=call.body,
        timeout=step.timeout_s,
    )


def reply(response: httpx.Response, body: bytes) -> Reply:
    """Return an answer that was read to its end."""
    names = {name.lower(): value for name, value in response.headers.items()}
    return Reply(response.status_code, names, body)


def lost(error: httpx.HTTPError, url: httpx.URL) -> Lost:
    """Say why no reply came."""
    if isinstance(error, httpx.TimeoutException):
        return Lost("", in_time=False)
    reason = str(error) or type(error).__name__
    if isinstance(error, httpx.ConnectError):
        passing = not _is_about_certificates(error)
        return Lost(
            f"No service was reached at {url}: {reason}. Does it run there?", passing=passing
        )
    return Lost(f"The connection to {url} broke before the answer had come: {reason}.")


def _is_about_certificates(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, ssl.SSLError):
            return True
        error = error.__cause__ or error.__context__
    return False
