"""Fetch a picture from a URL, if an operator allows its host.

Whoever can make a service ask for any address can ask what only the service reaches: its
neighbours, or the metadata of its cloud. So hosts are named one by one, an address must be public,
it is resolved once and then used, and nothing is followed: no redirect, no proxy.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import re
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Final
from urllib.parse import quote, urlsplit

import httpx

from service.errors import Code, GatewayError, StartError
from service.waiting import within

TIMEOUT_S: Final = 5.0
_PORT: Final = 443
_HOST: Final = re.compile(r"[^\s/*@?#]+")
# IPv6 addresses that stand for IPv4 ones, RFC 6052; Python knows the older forms.
_NAT64: Final = ipaddress.ip_network("64:ff9b::/96")
# All that is public of IPv6, RFC 4291. Python calls most of the rest global too, retired forms of
# IPv4 addresses and of private ones among it.
_UNICAST: Final = ipaddress.ip_network("2000::/3")
# What is not to be encoded: it means something in a URL, or is encoded already.
_AS_IT_IS: Final = "/?%!$&'()*+,;=:@~"

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
# Of a host and a port, the address to connect to.
Resolve = Callable[[str, int], Awaitable[str]]


@dataclass(frozen=True)
class _Place:
    host: str
    port: int
    path: str


class Fetcher:
    """Gets pictures from the hosts that are allowed.

    Args:
        hosts: Their names, exactly; with ``:port`` where it is not 443. None means that URLs are
            refused.
        resolve: Finds the address of a host.
        verify: Which certificates are trusted; None for those of the system.

    Raises:
        StartError: What is given as a host cannot be one.
    """

    def __init__(
        self,
        hosts: tuple[str, ...],
        resolve: Resolve | None = None,
        verify: ssl.SSLContext | None = None,
    ) -> None:
        self._hosts = frozenset(map(_listed, hosts))
        self._resolve = resolve or public_address
        # Reading those of the system holds the event loop for tens of milliseconds.
        self._verify = verify or (ssl.create_default_context() if hosts else True)

    async def get(self, url: str, max_bytes: int) -> bytes:
        """Return the bytes that a URL names.

        Args:
            url: The URL.
            max_bytes: How many there may be.

        Raises:
            GatewayError: It is not allowed, or they did not come.
        """
        place = self._place(url)
        try:
            return await within(TIMEOUT_S, self._get(place, max_bytes))
        except asyncio.TimeoutError as error:
            raise _failed(place, f"it did not come within {TIMEOUT_S:g} s") from error
        except (httpx.HTTPError, OSError, UnicodeError) as error:
            raise _failed(place, _why(error)) from error

    def _place(self, url: str) -> _Place:
        if not self._hosts:
            raise _refused("pictures are not fetched from URLs here. Send the picture itself")
        try:
            parts = urlsplit(url)
            host, port = _ascii(parts.hostname or ""), parts.port or _PORT
        except (ValueError, httpx.InvalidURL) as error:
            raise _refused(f"it is malformed: {error}") from error
        if parts.scheme != "https" or parts.username is not None or not host:
            raise _refused("expected https://HOST/PATH without a user name")
        known = host if port == _PORT else f"{host}:{port}"
        if known not in self._hosts:
            raise _refused(f"the host {known[:100]!r} is not among those that are allowed")
        path = quote(parts.path or "/", safe=_AS_IT_IS)
        query = quote(parts.query, safe=_AS_IT_IS)
        return _Place(host, port, f"{path}?{query}" if query else path)

    async def _get(self, place: _Place, max_bytes: int) -> bytes:
        address = await self._resolve(place.host, place.port)
        literal = f"[{address}]" if ":" in address else address
        url = httpx.URL(f"https://{literal}:{place.port}").copy_with(
            raw_path=place.path.encode("ascii")
        )
        name = place.host if place.port == _PORT else f"{place.host}:{place.port}"
        async with (
            self._client() as client,
            client.stream(
                "GET",
                url,
                # As it is: a small body that unpacks to a large one is none of the formats here.
                headers={"Host": name, "Accept-Encoding": "identity"},
                # The certificate is that of the name, whatever the address.
                extensions={"sni_hostname": place.host},
            ) as answer,
        ):
            if answer.status_code != httpx.codes.OK:
                raise _failed(place, f"it answered {answer.status_code}")
            return await _bounded(answer, place, max_bytes)

    @contextlib.asynccontextmanager
    async def _client(self) -> AsyncIterator[httpx.AsyncClient]:
        async with httpx.AsyncClient(
            verify=self._verify, follow_redirects=False, trust_env=False, timeout=TIMEOUT_S
        ) as client:
            yield client


def _listed(name: str) -> str:
    host, colon, port = name.partition(":")
    if not _HOST.fullmatch(name):
        raise StartError(
            f"GPUSQ_URL_HOSTS: expected HOST or HOST:PORT, got {name!r}. Name each host by itself."
        )
    try:
        # In an address of IPv6 colons mean something else.
        return name.lower() if name.isascii() else f"{_ascii(host)}{colon}{port}"
    except httpx.InvalidURL as error:
        raise StartError(
            f"GPUSQ_URL_HOSTS: expected names of hosts, got {name!r}: {error}. Correct it."
        ) from error


def _ascii(host: str) -> str:
    """Return the name of a host as resolvers and certificates have it.

    >>> _ascii("B\u00fccher.test")
    'xn--bcher-kva.test'
    """
    if host.isascii():
        return host.lower()
    return httpx.URL(scheme="https", host=host).raw_host.decode()


async def _bounded(answer: httpx.Response, place: _Place, max_bytes: int) -> bytes:
    data = bytearray()
    async for chunk in answer.aiter_raw():
        data += chunk
        if len(data) > max_bytes:
            raise GatewayError(
                Code.TOO_MANY_BYTES,
                f"The picture at {place.host} has more than {max_bytes:,} bytes, which are left "
                "for it. Name a smaller one.",
            )
    return bytes(data)


async def public_address(host: str, port: int) -> str:
    """Return an address of a host that is reached from everywhere.

    Raises:
        GatewayError: It has one that is not.
        OSError: It has none.
    """
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    addresses = [str(entry[4][0]) for entry in found]
    # One that is not public is enough: which of several would be taken is up to who answers.
    if not all(is_public(address) for address in addresses):
        raise _refused(f"the host {host!r} has an address that is not public")
    return addresses[0]


def is_public(address: str) -> bool:
    """Say whether an address is reached from everywhere, and means what it seems to.

    >>> [is_public(a) for a in ("93.184.215.14", "10.0.0.1", "::ffff:127.0.0.1", "fe80::1%eth0")]
    [True, False, False, False]
    """
    meant = _meant(ipaddress.ip_address(address))
    if meant.version == 6 and meant not in _UNICAST:
        return False
    return meant.is_global and not meant.is_multicast


def _meant(address: Address) -> Address:
    if isinstance(address, ipaddress.IPv4Address):
        return address
    if address in _NAT64:
        return ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF)
    teredo = address.teredo[1] if address.teredo else None
    return address.ipv4_mapped or address.sixtofour or teredo or address


def _why(error: Exception) -> str:
    if isinstance(error, socket.gaierror):
        return "no address is known for it"
    # What httpx says of a certificate is OpenSSL's own sentence.
    said = str(error)
    return "its certificate is not trusted" if "CERTIFICATE" in said else type(error).__name__


def _refused(why: str) -> GatewayError:
    return GatewayError(Code.INVALID_ARGUMENT, f"The URL cannot be used: {why}.")


def _failed(place: _Place, why: str) -> GatewayError:
    return GatewayError(
        Code.FETCH_FAILED,
        f"The picture could not be fetched from {place.host}: {why}. Look whether the URL works "
        "without redirects, or send the picture itself.",
    )
