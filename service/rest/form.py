"""Find the pictures in a multipart/form-data body that is already in memory.

Starlette's own form parser spools files to disk, which is right for bodies of any size; here they
are bounded before they come.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from service.rest.brought import MOST_PICTURES, Brought, Picture

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

NAMES: Final = ("image", "file")
SEVERAL: Final = "images"
_MAX_PARTS: Final = MOST_PICTURES


class FormError(ValueError):
    """The body is not a form with pictures."""


def pictures(data: bytes, content_type: str) -> Brought:
    """Return the pictures of a form.

    Those of the fields `images`, each for itself; without them the one file, or of several the one
    in the field `image` or `file`.

    Raises:
        FormError: Malformed, cut off, too many parts, or not exactly one such file.
    """
    _, options = parse_options_header(content_type)
    boundary = options.get(b"boundary")
    if not boundary:
        raise FormError("its Content-Type has no boundary")
    parts = _Parts(data)
    try:
        parser = MultipartParser(boundary, parts.callbacks())
        parser.write(data)
        parser.finalize()
    except FormParserError as error:
        raise FormError("its parts are not as the boundary in its Content-Type says") from error
    if not parts.complete:
        raise FormError("it is cut off")
    return parts.chosen()


class _Parts:
    """Collect the files of a form from the parser's callbacks."""

    def __init__(self, data: bytes) -> None:
        self.complete = False
        self._data = data
        self._files: list[tuple[str, Picture]] = []
        self._count = 0
        self._header = (bytearray(), bytearray())
        self._disposition = b""
        self._content = bytearray()

    def callbacks(self) -> MultipartCallbacks:
        """Return what the parser calls."""
        return {
            "on_part_begin": self._begin,
            "on_header_field": lambda data, start, end: self._header[0].extend(data[start:end]),
            "on_header_value": lambda data, start, end: self._header[1].extend(data[start:end]),
            "on_header_end": self._end_header,
            "on_part_data": lambda data, start, end: self._content.extend(data[start:end]),
            "on_part_end": self._end_part,
            "on_end": self._end,
        }

    def chosen(self) -> Brought:
        """Return the pictures among the files."""
        if several := [picture for field, picture in self._files if field == SEVERAL]:
            return Brought(several, several=True)
        named = [picture for field, picture in self._files if field in NAMES]
        candidates = named or [picture for _, picture in self._files]
        if len(candidates) != 1:
            raise FormError(
                f"expected one file, or several in fields named {SEVERAL!r}, got {len(candidates)}"
            )
        return Brought(candidates, several=False)

    def _begin(self) -> None:
        self._count += 1
        if self._count > _MAX_PARTS:
            raise FormError(f"expected at most {_MAX_PARTS} parts")
        self._disposition = b""
        self._content = bytearray()

    def _end_header(self) -> None:
        name, value = self._header
        if name.lower() == b"content-disposition":
            self._disposition = bytes(value)
        self._header = (bytearray(), bytearray())

    def _end_part(self) -> None:
        _, options = parse_options_header(self._disposition)
        if b"filename" in options:
            field, name = (
                options.get(key, b"").decode("utf-8", "replace") for key in (b"name", b"filename")
            )
            self._files.append((field, Picture(name, bytes(self._content))))
        elif name := options.get(b"name", b"").decode("utf-8", "replace"):
            raise FormError(
                f"the field {name[:40]!r} is no file. Options such as model go into the query"
            )

    def _end(self) -> None:
        self.complete = True
