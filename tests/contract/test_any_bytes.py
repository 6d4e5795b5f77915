"""Whatever bytes come: a picture that fits, or an ImageError, and nothing else."""

import os

import numpy as np
import pytest

from contract.errors import ImageError
from contract.glance import glance
from contract.opening import read_header
from contract.preprocess import decode_to_fit, fit_decoded, pixels_to_decode
from contract.preprocessing import Preprocessing
from tests.contract.pictures import encoded, photo

hypothesis = pytest.importorskip("hypothesis")
st = pytest.importorskip("hypothesis.strategies")

FORM = Preprocessing(height=16, width=16, shorter_side_px=18)
MAX_PIXELS = 100_000
EXAMPLES = int(os.environ.get("GPUSQ_TEST_EXAMPLES", "60"))
WHOLE = [
    encoded(photo(40, 30), kind, **options)
    for kind, options in (
        ("JPEG", {}),
        ("JPEG", {"progressive": True}),
        ("PNG", {}),
        ("WEBP", {}),
    )
]


def check(data: bytes) -> None:
    try:
        header = read_header(data, max_pixels=MAX_PIXELS)
        assert 0 < pixels_to_decode(header, FORM) <= MAX_PIXELS
    except ImageError:
        header = None
    glance(data)
    try:
        decoded = decode_to_fit(data, FORM, max_pixels=MAX_PIXELS)
    except ImageError:
        return
    assert header is not None
    fitted = fit_decoded(decoded, FORM)
    assert (fitted.shape, fitted.dtype) == ((16, 16, 3), np.uint8)


@hypothesis.given(st.binary(max_size=400))
@hypothesis.settings(max_examples=EXAMPLES, deadline=None, derandomize=True)
def test_any_bytes(data: bytes):
    check(data)


@hypothesis.given(
    st.sampled_from(WHOLE),
    st.lists(st.tuples(st.integers(0, 4000), st.integers(0, 255)), max_size=6),
    st.integers(1, 4000),
    st.binary(max_size=20),
)
@hypothesis.settings(max_examples=EXAMPLES, deadline=None, derandomize=True)
def test_a_file_with_other_bytes_in_it_cut_off_or_with_more_behind(
    whole: bytes, changes: list[tuple[int, int]], length: int, more: bytes
):
    data = bytearray(whole)
    for place, value in changes:
        data[place % len(data)] = value
    check(bytes(data[:length]) + more)
