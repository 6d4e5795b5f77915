"""A glance says what the whole header says, or nothing."""

import struct
import time

import pytest
from PIL import Image

from contract.glance import glance
from contract.opening import read_header
from tests.contract.pictures import encoded, flat, photo

PICTURES = {
    "JPEG": encoded(photo(83, 41), "JPEG"),
    "progressive": encoded(photo(83, 41), "JPEG", progressive=True),
    "grey": encoded(flat("L", 7, (9, 5)), "JPEG"),
    "CMYK": encoded(flat("CMYK", (1, 2, 3, 4), (9, 5)), "JPEG"),
    "EXIF": encoded(photo(30, 20), "JPEG", exif=Image.Exif().tobytes() + bytes(20_000)),
    "PNG": encoded(photo(31, 17)),
    "palette": encoded(flat("P", 0, (6, 4))),
}


@pytest.mark.parametrize("kind", PICTURES)
def test_a_glance_sees_what_the_header_says(kind):
    assert glance(PICTURES[kind]) == read_header(PICTURES[kind])


@pytest.mark.parametrize("kind", PICTURES)
def test_a_file_cut_anywhere_or_with_any_byte_changed_breaks_nothing(kind):
    data = PICTURES[kind]
    for at in range(min(len(data), 700)):
        glance(data[:at])
        glance(data[:at] + bytes([data[at] ^ 0xFF]) + data[at + 1 :])


@pytest.mark.parametrize("size_px", [(0, 9), (9, 0), (0, 0)])
def test_a_picture_without_pixels_is_left_to_others(size_px):
    width, height = size_px
    png = PICTURES["PNG"]
    jpeg = b"\xff\xd8\xff\xc0\x00\x0b\x08" + struct.pack(">HHB", height, width, 1) + bytes(9)

    assert glance(png[:16] + struct.pack(">II", width, height) + png[24:]) is None
    assert glance(jpeg) is None


@pytest.mark.parametrize(
    "data", [b"", b"\xff\xd8\xff", encoded(photo(9, 9), "WEBP"), encoded(flat("L", 0), "GIF")]
)
def test_what_takes_more_than_a_look_is_left_to_others(data):
    assert glance(data) is None


def test_a_file_made_of_markers_keeps_nobody_busy():
    data = b"\xff\xd8" + b"\xff\xe0\x00\x02" * 2_000_000
    # Of this thread alone: a busy machine may take the processor away.
    began_s = time.thread_time()

    assert glance(data) is None
    assert time.thread_time() - began_s < 0.1
