"""Pictures by URL: which are refused, and what comes from a real server over TLS."""

from __future__ import annotations

import asyncio
import ssl
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
import trustme

from service.errors import Code, GatewayError, StartError
from service.rest import fetch
from service.rest.fetch import Fetcher, is_public, public_address

NAME = "pictures.test"
PICTURE = b"\xff\xd8 as good as a picture"


class Pictures(BaseHTTPRequestHandler):
    """Answers by path."""

    def do_GET(self) -> None:
        self.server.asked.append((self.headers["Host"], self.path))  # type: ignore[attr-defined]
        if self.path == "/moved":
            self.send_response(302)
            self.send_header("Location", "/picture.jpg")
            self.end_headers()
        elif self.path == "/slow":
            threading.Event().wait(2)
        elif self.path == "/large":
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"x" * 100_000)
        else:
            self.send_response(200 if self.path.startswith("/picture") else 404)
            self.end_headers()
            self.wfile.write(PICTURE)

    def log_message(self, *args: Any) -> None:
        pass


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def server(authority: trustme.CA) -> Iterator[ThreadingHTTPServer]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Pictures)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(NAME).configure_cert(context)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    server.asked = []  # type: ignore[attr-defined]
    server.handle_error = lambda *_: None  # type: ignore[method-assign]
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def fetcher(server: ThreadingHTTPServer, authority: trustme.CA) -> Fetcher:
    async def here(host: str, port: int) -> str:
        assert (host, port) == (NAME, server.server_port)
        return "127.0.0.1"

    trust = ssl.create_default_context()
    authority.configure_trust(trust)
    return Fetcher((f"{NAME}:{server.server_port}",), here, trust)


def get(fetcher: Fetcher, server: ThreadingHTTPServer, path: str, most: int = 1000) -> bytes:
    url = f"https://{NAME}:{server.server_port}{path}"
    return asyncio.run(fetcher.get(url, most))


def refusal(fetcher: Fetcher, url: str) -> GatewayError:
    with pytest.raises(GatewayError) as caught:
        asyncio.run(fetcher.get(url, 1000))
    return caught.value


def test_a_picture_comes_from_the_address_and_under_the_name(fetcher, server, monkeypatch):
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:1")

    assert get(fetcher, server, "/picture.jpg?size=large") == PICTURE
    assert server.asked == [(f"{NAME}:{server.server_port}", "/picture.jpg?size=large")]


def test_a_path_of_any_letters_is_asked_for_as_browsers_do(fetcher, server):
    assert get(fetcher, server, "/picture b\u00e4r%20.jpg?q=\u00e9 \u20ac&r=%2F") == PICTURE
    assert server.asked[0][1] == "/picture%20b%C3%A4r%20.jpg?q=%C3%A9%20%E2%82%AC&r=%2F"


def test_no_redirect_is_followed(fetcher, server):
    with pytest.raises(GatewayError, match="answered 302") as caught:
        get(fetcher, server, "/moved")
    assert caught.value.code is Code.FETCH_FAILED
    assert len(server.asked) == 1


def test_a_picture_that_is_not_there_cannot_be_fetched(fetcher, server):
    with pytest.raises(GatewayError, match="answered 404"):
        get(fetcher, server, "/nothing")


def test_more_bytes_than_are_accepted_are_not_read(fetcher, server):
    with pytest.raises(GatewayError) as caught:
        get(fetcher, server, "/large", most=50_000)
    assert caught.value.code is Code.TOO_MANY_BYTES


def test_a_server_that_does_not_answer_is_given_up(fetcher, server, monkeypatch):
    monkeypatch.setattr(fetch, "TIMEOUT_S", 0.2)
    with pytest.raises(GatewayError, match="did not come within"):
        get(fetcher, server, "/slow")


def test_a_certificate_of_another_name_is_not_accepted(server, authority):
    async def here(host: str, port: int) -> str:
        return "127.0.0.1"

    trust = ssl.create_default_context()
    authority.configure_trust(trust)
    other = Fetcher((f"other.test:{server.server_port}",), here, trust)

    error = refusal(other, f"https://other.test:{server.server_port}/picture.jpg")
    assert error.code is Code.FETCH_FAILED
    assert "its certificate is not trusted" in error.detail
    assert server.asked == []


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("http://pictures.test/a.jpg", "expected https"),
        ("file:///etc/passwd", "expected https"),
        ("https://user@pictures.test/a.jpg", "without a user name"),
        ("https:///a.jpg", "expected https"),
        ("https://pictures.test:99999/a.jpg", "malformed"),
        ("https://[::1/a.jpg", "malformed"),
        ("https://pictures.test:444/a.jpg", "'pictures.test:444' is not among"),
        ("https://pictures.test.evil.test/a.jpg", "is not among"),
        ("https://pictures.test@evil.test/a.jpg", "without a user name"),
        ("https://evil.test#@pictures.test/a.jpg", "'evil.test' is not among"),
        ("https://evil.test\\@pictures.test/a.jpg", ""),
        ("https://127.0.0.1/a.jpg", "'127.0.0.1' is not among"),
        ("https://2130706433/a.jpg", "is not among"),
    ],
)
def test_a_url_that_is_not_allowed_is_refused_before_anything_is_resolved(url: str, said: str):
    async def never(host: str, port: int) -> str:
        raise AssertionError

    error = refusal(Fetcher(("pictures.test",), never), url)
    assert error.code is Code.INVALID_ARGUMENT
    assert said in error.detail


def test_a_host_of_any_letters_is_asked_by_its_name_in_ascii():
    asked = []

    async def nowhere(host: str, port: int) -> str:
        asked.append(host)
        raise OSError

    for listed in ("b\u00fccher.test", "xn--bcher-kva.test"):
        error = refusal(Fetcher((listed,), nowhere), "https://B\u00dcCHER.test/a.jpg")
        assert error.code is Code.FETCH_FAILED
    assert asked == ["xn--bcher-kva.test"] * 2


def test_a_name_that_no_host_can_have_is_refused_or_cannot_be_fetched():
    never = "\u2488.test"
    with pytest.raises(StartError, match="expected names of hosts"):
        Fetcher((never,))
    assert "malformed" in refusal(Fetcher(("a..test",)), f"https://{never}/a.jpg").detail
    assert refusal(Fetcher(("a..test",)), "https://a..test/a.jpg").code is Code.FETCH_FAILED


def test_the_certificates_of_the_system_are_read_once_and_not_by_a_request(server, monkeypatch):
    async def here(host: str, port: int) -> str:
        return "127.0.0.1"

    distrustful = Fetcher((f"{NAME}:{server.server_port}",), here)

    def read_again() -> ssl.SSLContext:
        raise AssertionError

    monkeypatch.setattr(ssl, "create_default_context", read_again)
    error = refusal(distrustful, f"https://{NAME}:{server.server_port}/picture.jpg")
    assert error.code is Code.FETCH_FAILED
    assert "its certificate is not trusted" in error.detail
    assert server.asked == []


def test_a_host_whose_address_is_not_public_is_refused():
    with pytest.raises(GatewayError, match="not public"):
        asyncio.run(public_address("localhost", 443))


@pytest.mark.parametrize(
    "address",
    [
        "0.0.0.0",
        "10.1.2.3",
        "100.64.0.1",
        "127.0.0.1",
        "169.254.169.254",
        "172.16.0.1",
        "192.168.1.1",
        "224.0.0.1",
        "255.255.255.255",
        "::",
        "::1",
        "fc00::1",
        "fd00:ec2::254",
        "fe80::1%eth0",
        "ff02::1",
        "::ffff:10.0.0.1",
        "64:ff9b::a9fe:a9fe",
        "64:ff9b::7f00:1",
        "2002:7f00:1::",
        "::127.0.0.1",
        "::ffff:0:7f00:1",
        "64:ff9b:1::a00:1",
        "fec0::1",
    ],
)
def test_an_address_that_only_some_reach_is_not_public(address: str):
    assert not is_public(address)


@pytest.mark.parametrize("address", ["93.184.215.14", "2606:2800:21f:cb07:6820:80da:af6b:8b2c"])
def test_an_address_that_all_reach_is_public(address: str):
    assert is_public(address)
