"""A receiver of spans on the loopback: what OpenTelemetry's collector is to the service."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest


class Receiver(ThreadingHTTPServer):
    """Keeps every span that is sent to it."""

    def __init__(self, status: int = 200, delay_s: float = 0.0) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.status = status
        self.delay_s = delay_s
        self.requests: list[ExportTraceServiceRequest] = []
        # As Triton 2.51 sends them.
        self.in_json: list[Any] = []
        self.paths: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def spans(self) -> list[Any]:
        return [
            span
            for request in self.requests
            for resource in request.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]

    def wait(self, name: str) -> list[Any]:
        """Return every span once one of that name, which is sent last, has come."""
        end_s = time.monotonic() + 10
        while not any(span.name == name for span in self.spans()):
            assert time.monotonic() < end_s, f"{name} did not come, {self.spans()} did"
            time.sleep(0.01)
        return self.spans()


class _Handler(BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.paths.append(self.path)
        if self.headers["Content-Type"] == "application/json":
            self.server.in_json.append(json.loads(body))
        else:
            self.server.requests.append(ExportTraceServiceRequest.FromString(body))
        time.sleep(self.server.delay_s)
        self.send_response(self.server.status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        pass


@contextlib.contextmanager
def receiving(status: int = 200, delay_s: float = 0.0) -> Iterator[Receiver]:
    with Receiver(status, delay_s) as receiver:
        thread = threading.Thread(target=receiver.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield receiver
        finally:
            receiver.shutdown()
            thread.join()


def attributes(span: Any) -> dict[str, Any]:
    """Return a span's attributes as Python has them."""
    return {
        entry.key: getattr(entry.value, entry.value.WhichOneof("value"))
        for entry in span.attributes
    }
