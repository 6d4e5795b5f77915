"""A small real HTTP server on the loopback that answers as a test says, connection faults too."""

from __future__ import annotations

import contextlib
import json
import ssl
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar, Final

ANSWER: Final = {
    "model": "deit-tiny",
    "version": 3,
    "image": {"width": 4, "height": 3},
    "timings_ms": {"read": 0.1, "total": 2},
    "predictions": [{"label_id": "n1", "label": "tabby", "index": 281, "score": 0.75}],
}


@dataclass(frozen=True)
class Says:
    """One answer.

    Args:
        status: HTTP's number; 0 closes the connection without a word.
        said: What becomes the body: JSON, or bytes as they are.
        headers: Beside the length.
        before_s: How long it takes to begin.
        cut: Whether the connection closes in the middle of the body.
        between_s: How long it takes from byte to byte of the body.
    """

    status: int = 200
    said: Any = field(default_factory=lambda: ANSWER)
    headers: dict[str, str] = field(default_factory=dict)
    before_s: float = 0.0
    cut: bool = False
    between_s: float = 0.0


def problem(status: int, code: str, retry_after: str | None = None, **headers: str) -> Says:
    """Return a refusal as the service has it."""
    said = {"status": status, "code": code, "detail": f"It is {code}.", "timings_ms": {"total": 1}}
    if retry_after is not None:
        headers["Retry-After"] = retry_after
    return Says(status, said, {"X-Request-ID": "id-1", **headers})


@dataclass(frozen=True)
class Came:
    """One request.

    Args:
        at_s: When it had come.
        target: Path and query.
        headers: By name in lower case.
        body: All of it.
        peer: Port of the connection it came by.
    """

    at_s: float
    target: str
    headers: dict[str, str]
    body: bytes
    peer: int


class Scripted:
    """What the server says, one answer a request, the last again and again; and what came."""

    def __init__(self) -> None:
        self.url = ""
        self.says: list[Says] = [Says()]
        self.came: list[Came] = []


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    script: ClassVar[Scripted]

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        pass

    def do_GET(self) -> None:
        self.do_POST()

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        headers = {name.lower(): value for name, value in self.headers.items()}
        peer = self.client_address[1]
        self.script.came.append(Came(time.monotonic(), self.path, headers, body, peer))
        says = self.script.says
        # Whoever asked may have gone.
        with contextlib.suppress(OSError):
            self._say(says.pop(0) if len(says) > 1 else says[0])

    def _say(self, says: Says) -> None:
        time.sleep(says.before_s)
        self.close_connection = says.cut or not says.status
        if not says.status:
            return
        data = says.said if isinstance(says.said, bytes) else json.dumps(says.said).encode()
        self.send_response_only(says.status)
        for name, value in says.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        pieces = [data[i : i + 1] for i in range(len(data))] if says.between_s else [data]
        for piece in pieces:
            self.wfile.write(piece[: len(piece) // 2] if says.cut else piece)
            time.sleep(says.between_s)


class _Server(ThreadingHTTPServer):
    daemon_threads = True


@contextlib.contextmanager
def running(tls: ssl.SSLContext | None = None) -> Iterator[Scripted]:
    """Serve a script until the block ends, in the clear or not."""
    script = Scripted()
    handler = type("Handler", (_Handler,), {"script": script})
    with _Server(("127.0.0.1", 0), handler) as server:
        if tls is not None:
            server.socket = tls.wrap_socket(server.socket, server_side=True)
        script.url = f"http{'s' if tls else ''}://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield script
        finally:
            server.shutdown()
            thread.join()
