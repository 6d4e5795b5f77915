"""Every file becomes an upright 8-bit RGB picture or an ImageError, whatever is in it."""

import concurrent.futures
import io
import struct
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image

from contract.errors import ImageError, ImageFault
from contract.preprocess import decode
from tests.contract.pictures import (
    chunk,
    encoded,
    flat,
    noise,
    photo,
    png,
    with_jpeg_size,
    ycck,
)

RED, WHITE = (255, 0, 0), (255, 255, 255)
# A directory of one entry, of which two bytes are there: Pillow warns about it.
CUT_EXIF = b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01"


def colour_of(data: bytes) -> tuple[int, int, int]:
    picture = decode(data)
    assert picture.mode == "RGB"
    return picture.getpixel((picture.width // 2, picture.height // 2))


def fault_of(data: bytes, **options) -> ImageFault:
    with pytest.raises(ImageError) as caught:
        decode(data, **options)
    return caught.value.fault


def outcome_of(data: bytes, **options) -> tuple[int, int] | ImageFault:
    try:
        return decode(data, **options).size
    except ImageError as error:
        return error.fault


def orientation(value: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = value
    return exif.tobytes()


def stored_for(upright: np.ndarray, value: int) -> np.ndarray:
    """Return the pixels that a camera stores when it writes this orientation."""
    return {
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright),
        7: upright[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(upright, -1),
    }.get(value, upright)


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
@pytest.mark.parametrize("value", range(10))
def test_every_orientation_comes_out_upright(value, kind):
    upright = np.array(noise(5, 3))
    stored = Image.fromarray(np.ascontiguousarray(stored_for(upright, value)))

    picture = decode(encoded(stored, kind, exif=orientation(value)))

    np.testing.assert_array_equal(np.array(picture), upright)


def test_a_rotated_jpeg_is_upright_after_a_reduced_decode_too():
    data = encoded(photo(800, 400), "JPEG", exif=orientation(6))

    assert decode(data, shorter_side_px=100).size == (200, 400)


@pytest.mark.parametrize(
    "exif",
    [
        CUT_EXIF,
        b"Exif\0\0",
        b"Exif\0\0nonsense",
        b"Exif\0\0II*\0\xff\xff\xff\xff",
        b"Exif\0\0II*\0\x08\0\0\0\xff\xff",
        # Orientation as text, and as a fraction with a zero below.
        b"Exif\0\0II*\0\x08\0\0\0\x01\0" + struct.pack("<HHI4s", 0x112, 2, 4, b"six\0"),
        b"Exif\0\0II*\0\x08\0\0\0\x01\0" + struct.pack("<HHII", 0x112, 5, 1, 26) + bytes(12),
    ],
)
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_a_damaged_exif_block_does_not_spoil_a_good_picture(kind, exif):
    picture = decode(encoded(flat("RGB", RED, (16, 8)), kind, exif=exif))

    assert picture.size == (16, 8)
    np.testing.assert_allclose(picture.getpixel((8, 4)), RED, atol=4)


def test_what_pillow_warns_of_does_not_leak():
    data = encoded(flat("RGB", RED), "JPEG", exif=CUT_EXIF)
    with pytest.warns(UserWarning, match="Corrupt EXIF"):
        Image.open(io.BytesIO(data)).getexif()

    with warnings.catch_warnings(record=True) as leaked:
        warnings.simplefilter("always")
        decode(data)

    assert leaked == []


def test_many_threads_decode_odd_files_without_a_warning():
    data = encoded(flat("RGB", RED, (64, 64)), "JPEG", exif=CUT_EXIF)
    before = len(warnings.filters)

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        pictures = list(pool.map(decode, [data] * 200))

    assert {picture.size for picture in pictures} == {(64, 64)}
    assert len(warnings.filters) <= before + 1


@pytest.mark.parametrize(
    ("picture", "expected"),
    [
        (flat("RGBA", (255, 0, 0, 0)), WHITE),
        (flat("RGBA", (255, 0, 0, 255)), RED),
        (flat("RGBA", (0, 0, 0, 128)), (127, 127, 127)),
        (flat("LA", (0, 0)), WHITE),
        (flat("LA", (0, 255)), (0, 0, 0)),
    ],
)
def test_transparency_lies_on_white(picture, expected):
    # Rounding of the blend may differ by one.
    np.testing.assert_allclose(colour_of(encoded(picture)), expected, atol=1)


@pytest.mark.parametrize("mode", ["1", "L", "RGB"])
def test_a_colour_declared_transparent_is_white(mode):
    colour = {"1": 0, "L": 7, "RGB": RED}[mode]

    assert colour_of(encoded(flat(mode, colour))) != WHITE
    assert colour_of(encoded(flat(mode, colour), transparency=colour)) == WHITE


@pytest.mark.parametrize("transparency", [None, 1, b"\xff\x00"])
def test_a_palette_picture_has_its_colours_with_and_without_transparency(transparency):
    picture = flat("P", 0, (2, 1))
    picture.putpalette([0, 128, 0, *RED])
    picture.putpixel((1, 0), 1)
    options = {} if transparency is None else {"transparency": transparency}

    decoded = decode(encoded(picture, **options))

    assert decoded.getpixel((0, 0)) == (0, 128, 0)
    assert decoded.getpixel((1, 0)) == (RED if transparency is None else WHITE)


def test_sixteen_bit_grey_is_scaled_not_clipped():
    samples = np.array([[0, 128, 129, 257, 32768, 65278, 65535]], dtype=np.uint16)

    decoded = np.array(decode(encoded(Image.fromarray(samples))))

    # Sample / 257, rounded.
    expected = [0, 0, 1, 1, 128, 254, 255]
    np.testing.assert_array_equal(decoded[0], np.repeat(expected, 3).reshape(-1, 3))


def test_every_sixteen_bit_sample_is_rounded_to_the_nearest_of_eight_bits():
    samples = np.arange(65536, dtype=np.uint16).reshape(256, 256)

    decoded = np.array(decode(encoded(Image.fromarray(samples))))[..., 0]

    np.testing.assert_array_equal(decoded, np.rint(samples / 257.0))


def test_a_transparent_sixteen_bit_sample_is_white():
    rows = struct.pack(">2H", 1000, 2000)
    key = chunk(b"tRNS", struct.pack(">H", 2000))

    decoded = decode(png(2, 1, depth=16, colour=0, rows=rows, more=key))

    assert [decoded.getpixel((x, 0)) for x in (0, 1)] == [(4, 4, 4), WHITE]


def test_sixteen_bit_colour_is_scaled():
    rows = struct.pack(">6H", 65535, 32896, 0, 0, 0, 65535)

    decoded = decode(png(2, 1, depth=16, colour=2, rows=rows))

    assert [decoded.getpixel((x, 0)) for x in (0, 1)] == [(255, 128, 0), (0, 0, 255)]


@pytest.mark.parametrize("depth", [1, 2, 4])
def test_grey_of_few_bits_spans_black_to_white(depth):
    decoded = decode(png(8 // depth, 1, depth=depth, colour=0, rows=bytes([1 << 8 - depth])))

    assert decoded.getpixel((0, 0))[0] == 255 // (2**depth - 1)
    assert decoded.getpixel((1, 0)) == (0, 0, 0)


@pytest.mark.parametrize(
    ("ink", "expected"),
    [
        ((0, 255, 255, 0), RED),
        ((255, 255, 0, 0), (0, 0, 255)),
        ((0, 0, 0, 0), WHITE),
        ((0, 0, 0, 255), (0, 0, 0)),
    ],
)
def test_cmyk_and_ycck_jpegs_have_the_colour_of_their_ink(ink, expected):
    # JPEG at quality 95, and YCC with whole numbers.
    np.testing.assert_allclose(colour_of(encoded(flat("CMYK", ink), "JPEG")), expected, atol=6)
    np.testing.assert_allclose(colour_of(ycck(ink)), expected, atol=6)


def test_a_grey_jpeg_becomes_colour():
    np.testing.assert_allclose(colour_of(encoded(flat("L", 99), "JPEG")), (99,) * 3, atol=2)


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_of_an_animation_the_first_frame_counts(kind):
    frames = [flat("RGB", RED), flat("RGB", (0, 255, 0)), flat("RGB", (0, 0, 255))]

    data = encoded(frames[0], kind, save_all=True, append_images=frames[1:], duration=100)

    assert colour_of(data) == RED


def test_a_phone_jpeg_with_more_pictures_behind_the_first_is_decoded_reduced():
    first, second = photo(800, 400, seed=1), photo(800, 400, seed=2)
    data = encoded(first, "MPO", save_all=True, append_images=[second])
    assert Image.open(io.BytesIO(data)).format == "MPO"

    picture = decode(data, shorter_side_px=100)

    assert picture.size == (400, 200)
    expected = np.array(first.resize((400, 200), Image.Resampling.BOX), dtype=float)
    # Reduced decoding differs from a full one by a little.
    assert abs(np.array(picture) - expected).mean() < 2


@pytest.mark.parametrize(
    ("size_px", "reduced_px"),
    [((1600, 1200), (400, 300)), ((800, 799), (400, 400)), ((399, 500), (399, 500))],
)
def test_a_large_jpeg_is_decoded_reduced_but_never_below_twice_the_target(size_px, reduced_px):
    data = encoded(photo(*size_px), "JPEG")

    assert decode(data, shorter_side_px=150).size == reduced_px
    assert decode(data).size == size_px


def test_a_picture_over_the_limit_is_refused_and_the_message_has_both_sizes():
    data = encoded(flat("RGB", RED, (10, 10)))

    assert decode(data, max_pixels=100).size == (10, 10)
    with pytest.raises(ImageError, match="99 pixels, this one has 10 x 10 = 100"):
        decode(data, max_pixels=99)


def test_a_progressive_jpeg_may_have_half_as_many_pixels():
    picture = photo(20, 10)

    assert decode(encoded(picture, "JPEG"), max_pixels=399).size == (20, 10)
    assert decode(encoded(picture, "JPEG", progressive=True), max_pixels=400).size == (20, 10)
    with pytest.raises(ImageError, match="A progressive JPEG may have 199 pixels"):
        decode(encoded(picture, "JPEG", progressive=True), max_pixels=399)


@pytest.mark.parametrize("size_px", [(10_000, 5_001), (20_000, 20_000), (65_000, 65_000)])
def test_a_header_that_claims_too_many_pixels_is_refused_before_decoding(size_px):
    jpeg = with_jpeg_size(encoded(flat("RGB", RED), "JPEG"), *size_px)
    header = png(*size_px, depth=8, colour=2, rows=b"\0" * size_px[1])

    assert fault_of(jpeg) is ImageFault.TOO_MANY_PIXELS
    assert fault_of(header) is ImageFault.TOO_MANY_PIXELS


def test_a_progressive_jpeg_never_has_more_than_half_the_usual_limit():
    data = encoded(flat("RGB", RED), "JPEG", progressive=True)
    at = data.index(b"\xff\xc2") + 5
    data = data[:at] + struct.pack(">HH", 5001, 5000) + data[at + 4 :]

    with pytest.raises(ImageError, match="may have 25,000,000 pixels"):
        decode(data, max_pixels=89_000_000)


def test_a_header_that_promises_more_rows_than_there_are_is_damage():
    data = png(3000, 2000, depth=8, colour=2, rows=b"\0" * 2000)

    assert fault_of(data) is ImageFault.DAMAGED


@pytest.mark.parametrize("size_px", [(20_000, 20_000), (65_000, 65_000)])
def test_a_picture_that_pillow_refuses_to_open_is_held_against_our_limit(size_px):
    data = png(*size_px, depth=8, colour=2, rows=b"\0" * size_px[1])

    came = f"{size_px[0] * size_px[1]:,}"
    with pytest.raises(ImageError, match=f"A PNG picture may have 49,000 pixels.* has {came}"):
        decode(data, max_pixels=49_000)


def test_an_empty_file_is_named_so():
    assert fault_of(b"") is ImageFault.EMPTY


OTHERS = {
    "1 byte": b"\0",
    "1,000 bytes": bytes(1000),
    "10 bytes": b"BM, a text",
    "HTML": b"<!DOCTYPE html><title>Not found",
    "PostScript": b"%!PS-Adobe-3.0 EPSF-3.0",
    "a ZIP archive": b"PK\x03\x04\x14\0",
    "PNM": b"P5\n20 20 255\n",
    "a video": b"\0\0\0\x18ftypisom",
    "PDF": b"%PDF-1.7",
}


@pytest.mark.parametrize("name", OTHERS)
def test_every_file_of_another_format_has_one_fault_and_is_named_where_known(name):
    assert fault_of(OTHERS[name]) is ImageFault.UNSUPPORTED_FORMAT
    with pytest.raises(ImageError, match=rf"got (a file of )?{name}( in none of these formats)?\."):
        decode(OTHERS[name])


def in_our_words(data: bytes) -> str:
    with pytest.raises(ImageError) as caught:
        decode(data)
    assert caught.value.__cause__ is not None
    # Nothing that only whoever knows Pillow understands.
    assert str(caught.value.__cause__) not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(("kind", "name"), [("JPEG", "JPEG"), ("PNG", "PNG"), ("WEBP", "WebP")])
def test_a_cut_file_is_told_in_our_words(kind, name):
    data = encoded(photo(200, 100), kind)

    for length in (3, 20, len(data) // 2):
        assert in_our_words(data[:length]).startswith(f"Expected a whole {name} file")


def test_a_text_beyond_what_is_read_is_told_in_our_words():
    text = chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(2_000_000)))
    data = png(2, 2, depth=8, colour=2, rows=bytes(12), more=text)

    assert "PNG with at most 1 MB in each text" in in_our_words(data)


@pytest.mark.parametrize("kind", ["GIF", "BMP", "TIFF", "ICO", "JPEG2000", "AVIF", "PDF"])
def test_another_picture_format_is_named_in_the_refusal(kind):
    data = encoded(flat("RGB", RED), kind)
    name = {"JPEG2000": "JPEG 2000"}.get(kind, kind)

    assert fault_of(data) is ImageFault.UNSUPPORTED_FORMAT
    with pytest.raises(ImageError, match=f"Expected a JPEG, PNG or WebP picture, got {name}"):
        decode(data)


def test_a_picture_in_heic_is_named_in_the_refusal():
    data = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(100)

    with pytest.raises(ImageError, match="got HEIC"):
        decode(data)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_a_file_cut_off_anywhere_is_refused_or_still_a_picture(kind):
    data = encoded(photo(40, 30), kind)

    step = max(1, len(data) // 150)
    outcomes = {outcome_of(data[:length]) for length in range(1, len(data), step)}

    assert ImageFault.DAMAGED in outcomes
    assert outcomes <= {(40, 30), ImageFault.DAMAGED}
    assert outcome_of(data[: len(data) // 2]) is ImageFault.DAMAGED


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "MPO"])
def test_a_file_with_any_bytes_changed_is_refused_or_still_a_picture(kind):
    more = {"save_all": True, "append_images": [photo(40, 30)]} if kind == "MPO" else {}
    data = encoded(photo(40, 30), kind, exif=orientation(6), **more)
    random = np.random.default_rng(0)

    outcomes = set()
    for _ in range(400):
        damaged = bytearray(data)
        for at in random.integers(0, min(len(data), 600), random.integers(1, 6)):
            damaged[at] = random.integers(0, 256)
        # Small, because a changed header may claim any size.
        outcomes.add(outcome_of(bytes(damaged), max_pixels=100_000))

    # A changed byte of a PNG seldom passes its checksums; the others still show something.
    assert ImageFault.DAMAGED in outcomes
    assert kind == "PNG" or (30, 40) in outcomes
