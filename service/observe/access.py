"""How a request ended, in the words of its transport, for the log and for traces.

The two transports describe an end by :func:`of_http` and :func:`of_rpc`; nothing else differs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote, unquote

_METHODS: Final = frozenset(
    {"CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "TRACE"}
)
# What may stand in a line as it is, beside letters and digits: no quote, no control character.
_SAFE: Final = " !#$%&'()*+,/:;<=>?@[\\]^`{|}~"
# The statuses that a server answers for faults of its own.
_RPC_FAULTS: Final = frozenset(
    {"UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS"}
)


@dataclass(frozen=True)
class Ended:
    """The end of one request.

    Args:
        name: What was asked, of few values, as the name of its span.
        line: The same for people, with the status; its time and id are put behind it.
        fields: The same for machines.
        attributes: By OpenTelemetry's semantic conventions.
        failed: Whether the service is at fault.
        quiet: Whether it says so little that only `debug` shows it.
    """

    name: str
    line: str
    fields: Mapping[str, Any]
    attributes: Mapping[str, Any]
    failed: bool
    quiet: bool = False


@dataclass(frozen=True)
class Http:
    """One HTTP request, as it came.

    Args:
        method: Its method, which a client chooses freely.
        path: The path, percent-encoded, so that it cannot break a line.
        query: What is behind the question mark, the same way.
        route: The path of the route that took it; None where none did.
        scheme: http or https.
        client: The address of who asked; None where it is not known.
        received_bytes: How much of its body was read.
        user_agent: What the client calls itself.
    """

    method: str
    path: str
    query: str
    route: str | None
    scheme: str
    client: str | None
    received_bytes: int = 0
    user_agent: str | None = None


def of_http(request: Http, status: int, sent_bytes: int, *, quiet: bool = False) -> Ended:
    """Describe the end of an HTTP request.

    Args:
        request: What came.
        status: What was answered; 0 where the client went away before.
        sent_bytes: Of the answer's body.
        quiet: Whether it is a probe.
    """
    known = request.method if request.method in _METHODS else "_OTHER"
    target = f"{request.path}?{request.query}" if request.query else request.path
    attributes: dict[str, Any] = {
        "http.request.method": known,
        "http.request.body.size": request.received_bytes,
        "http.response.body.size": sent_bytes,
        "url.path": request.path,
        "url.scheme": request.scheme,
        "network.protocol.name": "http",
    }
    optional = {
        "http.response.status_code": status or None,
        "http.route": request.route,
        "client.address": request.client,
        "user_agent.original": request.user_agent,
        "http.request.method_original": request.method if known == "_OTHER" else None,
    }
    fields = {
        "method": request.method,
        "path": request.path,
        "query": request.query or None,
        "route": request.route,
        "status": status or None,
        "bytes_received": request.received_bytes,
        "bytes_sent": sent_bytes,
        "client": request.client,
    }
    return Ended(
        name=" ".join(filter(None, ("HTTP" if known == "_OTHER" else known, request.route))),
        line=f'{_shown(request.client or "-")} "{request.method} {_shown(target)}" {status}',
        fields=fields,
        attributes=attributes | {k: v for k, v in optional.items() if v is not None},
        failed=status >= 500,
        quiet=quiet,
    )


def of_rpc(method: str, status: str, peer: str | None, *, quiet: bool = False) -> Ended:
    """Describe the end of a gRPC call.

    Args:
        method: Its full name, `/gpusq.v1.Vision/Classify`.
        status: The name of the status it ended with, `OK`.
        peer: The address of who asked, as gRPC has it, `ipv4:127.0.0.1:5000`.
        quiet: Whether it is a probe.

    >>> of_rpc("/gpusq.v1.Vision/Classify", "OK", "ipv4:127.0.0.1:5000").line
    '127.0.0.1 "gRPC /gpusq.v1.Vision/Classify" OK'
    """
    method = method.removeprefix("/")
    client = address(peer)
    attributes = {
        "rpc.system.name": "grpc",
        "rpc.method": method,
        "rpc.response.status_code": status,
    }
    return Ended(
        name=method,
        line=f'{client or "-"} "gRPC /{method}" {status}',
        fields={"method": method, "status": status, "client": client},
        attributes=attributes | ({"client.address": client} if client else {}),
        failed=status in _RPC_FAULTS,
        quiet=quiet,
    )


def _shown(text: str) -> str:
    """Return a client's text so that it ends neither the line nor the quoted part of it.

    Of an address too: it may be what a header X-Forwarded-For says.
    """
    return text if text.isprintable() and '"' not in text else quote(text, safe=_SAFE)


def address(peer: str | None) -> str | None:
    """Return the address in what gRPC says of the other side; None where there is none.

    >>> address("ipv6:%5B::1%5D:5000"), address("unix:/a")
    ('::1', None)
    """
    kind, _, rest = unquote(peer or "").partition(":")
    return rest.rpartition(":")[0].strip("[]") if kind in ("ipv4", "ipv6") else None
