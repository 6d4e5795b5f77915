"""Pictures made on the spot, and a few that no encoder at hand writes."""

import io
import struct
import zlib

import numpy as np
from PIL import Image

# Lossless, so that pixels can be compared exactly.
EXACT = {"PNG": {}, "WEBP": {"lossless": True, "exact": True}}


def encoded(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **(EXACT.get(kind, {"quality": 95}) | options))
    return buffer.getvalue()


def flat(mode: str, colour, size_px=(16, 16)) -> Image.Image:
    return Image.new(mode, size_px, colour)


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    random = np.random.default_rng(seed)
    return Image.fromarray(random.integers(0, 256, (height, width, 3), dtype=np.uint8))


def photo(width: int, height: int, seed: int = 0) -> Image.Image:
    """Return something as smooth as a photo, with edges in it."""
    coarse = noise(12, 9, seed).resize((width, height), Image.Resampling.BICUBIC)
    pixels = np.array(coarse)
    pixels[height // 4 : height // 2, width // 4 : width // 2] //= 2
    return Image.fromarray(pixels)


def png(
    width: int, height: int, *, depth: int, colour: int, rows: bytes, more: bytes = b""
) -> bytes:
    """Return a PNG of any bit depth and colour type from its unfiltered rows."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    stride = len(rows) // height
    filtered = b"".join(b"\0" + rows[i * stride : (i + 1) * stride] for i in range(height))
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + more
        + chunk(b"IDAT", zlib.compress(filtered))
        + chunk(b"IEND", b"")
    )


def chunk(kind: bytes, content: bytes) -> bytes:
    checksum = zlib.crc32(kind + content)
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum)


def ycck(ink: tuple[int, int, int, int]) -> bytes:
    """Return a JPEG as Adobe programs store CMYK: as YCC plus K, inverted, and marked so."""
    *cmy, black = ink
    y, cb, cr = flat("RGB", tuple(cmy)).convert("YCbCr").getpixel((0, 0))
    stored = flat("CMYK", (255 - y, 255 - cb, 255 - cr, black))
    data = bytearray(encoded(stored, "JPEG"))
    data[data.index(b"Adobe") + 11] = 2
    return bytes(data)


def with_jpeg_size(data: bytes, width: int, height: int) -> bytes:
    """Return a baseline JPEG whose header claims another size."""
    at = data.index(b"\xff\xc0") + 5
    return data[:at] + struct.pack(">HH", height, width) + data[at + 4 :]
