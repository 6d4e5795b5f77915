"""HTTP/1.1 as uvicorn speaks it, with two bounds that it lacks: on heads, and on refused bodies."""

from __future__ import annotations

from typing import Final

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

# Of a request line with its headers, and of the trailers behind a body. Proxies allow 8 to 32 KB.
MAX_HEAD_BYTES: Final = 65_536
_REFUSAL: Final = (
    b"HTTP/1.1 431 Request Header Fields Too Large\r\n"
    b"content-type: text/plain; charset=utf-8\r\n"
    b"content-length: %d\r\n"
    b"connection: close\r\n"
    b"\r\n"
    b"%s"
)
_SAID: Final = b"A request may have 65,536 bytes of headers, this one has more. Send fewer."


class Wire(HttpToolsProtocol):
    """One connection.

    Whoever sends a head without an end would fill the memory, with no key and no valid request;
    and the parser copies what it has of a line whenever more comes, so a long one stops the loop.
    """

    _unheard_bytes = 0

    def data_received(self, data: bytes) -> None:
        """Take what came, unless it is too much that is neither a whole head nor a body."""
        self._unheard_bytes += len(data)
        super().data_received(data)
        if self._unheard_bytes > MAX_HEAD_BYTES and not self.transport.is_closing():
            if self.cycle is None or self.cycle.response_complete:
                self.transport.write(_REFUSAL % (len(_SAID), _SAID))
            self.transport.close()

    def on_headers_complete(self) -> None:
        """Begin a request."""
        self._unheard_bytes = 0
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Take a piece of a body."""
        self._unheard_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """End a request."""
        self._unheard_bytes = 0
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """End the connection where the rest of a body would still come, which nobody would read."""
        if not self.pipeline and self.cycle.more_body:
            self.transport.close()
        super().on_response_complete()
