"""HTTP/1.1 as uvicorn speaks it, and what it lacks.

A bound on heads, an end to refused bodies, and the bodies of clients that offer another protocol.
"""

from __future__ import annotations

import logging
from typing import Final

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

# Of a request line with its headers, and of the trailers behind a body. Proxies allow 8 to 32 KB.
logger = logging.getLogger(__name__)

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
    _is_told_again = False

    def data_received(self, data: bytes) -> None:
        """Take what came, unless it is too much that is neither a whole head nor a body."""
        self._unset_keepalive_if_required()
        self._unheard_bytes += len(data)
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as offer:
            self._decline(data[offer.args[0] :])
        except httptools.HttpParserError:
            logger.info("a request was no HTTP")
            self.send_400_response("Invalid HTTP request received.")
        if self._unheard_bytes > MAX_HEAD_BYTES and not self.transport.is_closing():
            if self.cycle is None or self.cycle.response_complete:
                self.transport.write(_REFUSAL % (len(_SAID), _SAID))
            self.transport.close()

    def _decline(self, rest: bytes) -> None:
        """Read on in HTTP/1.1 what follows a head that offers another protocol.

        Java's own client offers HTTP/2 with every request. The parser takes no body after that, so
        another one is told of this request as if nothing had been offered.
        """
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
        body = [(n, v) for n, v in self.headers if n in (b"content-length", b"transfer-encoding")]
        head = b"".join(b"%s: %s\r\n" % header for header in body)
        self.cycle.more_body = True
        self._is_told_again = True
        self.data_received(b"POST / HTTP/1.1\r\n%s\r\n%s" % (head, rest))

    def on_message_begin(self) -> None:
        """Begin a head."""
        if not self._is_told_again:
            super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        """Take a piece of what is asked for."""
        if not self._is_told_again:
            super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header."""
        if not self._is_told_again:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Begin a request."""
        self._unheard_bytes = 0
        if self._is_told_again:
            self._is_told_again = False
        else:
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
