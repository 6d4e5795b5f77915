"""What the body of a request brings: one picture or several, as they are, in a form or in JSON."""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass
from typing import Any, Final

import orjson

from service.errors import Code, GatewayError

MOST_PICTURES: Final = 16
# Sixteen pictures need 31; the rest is for the addresses of pictures, which may hold some.
_MOST_COMMAS: Final = 10_000
_OF_URLS: Final = str.maketrans("-_", "+/")
_KEYS: Final = ("image", "images", "url", "urls")
_EXPECTED: Final = (
    'Expected a JSON object with one of "image" (a picture in base64), "images" (a list of them), '
    '"url" or "urls"'
)


@dataclass(frozen=True)
class Picture:
    """One picture of a body.

    Args:
        name: As the sender calls it: the name of a file, or its URL.
        data: Its bytes, or why there are none; None where they have yet to be fetched from
            ``name``.
    """

    name: str | None
    data: bytes | GatewayError | None


@dataclass(frozen=True)
class Brought:
    """The pictures of a body.

    Args:
        pictures: At least one.
        several: Whether the answer is a list, even of one.
    """

    pictures: list[Picture]
    several: bool


def of_json(data: bytes) -> Brought:
    """Read a body of type application/json.

    Raises:
        GatewayError: It is not such an object.
    """
    # 13 MB of empty lists would take 360 MB, and hold every other request up for a second. Values
    # side by side need commas, and the parser limits how deep one lies in another.
    if data.count(b",") > _MOST_COMMAS:
        raise _malformed("what came has thousands of values")
    try:
        body = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise _malformed(f"what came is no JSON: {error}") from error
    if not isinstance(body, dict):
        raise _malformed(f"got {data[:40].decode('utf-8', 'replace')}")
    if len(body) != 1 or (key := next(iter(body))) not in _KEYS:
        names = ", ".join(repr(name[:40]) for name in list(body)[:8]) or "nothing"
        raise _malformed(f"got {names}. Options such as top_k go into the query")
    several = key.endswith("s")
    values = body[key] if several else [body[key]]
    if not isinstance(values, list) or not 1 <= len(values) <= MOST_PICTURES:
        raise _malformed(f"{key} must be a list of 1 to {MOST_PICTURES}")
    read = _encoded if key.startswith("image") else _named
    places = [f"{key}[{i}]" if several else key for i in range(len(values))]
    return Brought(list(map(read, places, values)), several)


def _encoded(key: str, value: Any) -> Picture:
    text = _text(key, value)
    # As browsers write it: data:image/png;base64,iVBORw0...
    text = text.partition(",")[2] if text.startswith("data:") else text
    try:
        return Picture(None, base64.b64decode(text, validate=True))
    except (binascii.Error, ValueError):
        # Wrapped into lines, or in the alphabet of URLs.
        plain = "".join(text.split()).translate(_OF_URLS)
    try:
        return Picture(None, base64.b64decode(plain, validate=True))
    except (binascii.Error, ValueError) as error:
        return Picture(None, _malformed(f"{key} is no base64: {error}"))


def _named(key: str, value: Any) -> Picture:
    return Picture(_text(key, value), None)


def _text(key: str, value: Any) -> str:
    if not isinstance(value, str):
        raise _malformed(f"{key} must be text, got {orjson.dumps(value)[:40].decode()}")
    return value


def _malformed(came: str) -> GatewayError:
    return GatewayError(Code.BAD_REQUEST, f"{_EXPECTED}; {came}.")
