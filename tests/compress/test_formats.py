import pytest
import torch

from compress.formats import FLOAT32, FORMATS, FP8, INT4, INT8, UINT4


def test_recipes_know_four_formats_by_name():
    assert {name: form.bits for name, form in FORMATS.items()} == {
        "float32": 32,
        "int8": 8,
        "int4": 4,
        "fp8": 8,
    }


@pytest.mark.parametrize("form", [INT8, INT4, UINT4], ids=lambda form: form.name)
def test_an_integer_grid_is_every_whole_number_of_its_range(form):
    steps = torch.arange(-300, 300, dtype=torch.float64) / 2

    rounded = form.round(steps)

    low, high = int(form.low), int(form.high)
    assert high - low + 1 == 2**form.bits
    expected = [max(low, min(high, round(step))) for step in steps.tolist()]
    assert rounded.tolist() == expected


def test_the_fp8_grid_is_that_of_its_definition():
    # Sign, four bits of exponent with bias 7, three of mantissa; the topmost code is NaN.
    grid = {
        sign * (mantissa / 8 * 2**-6 if exponent == 0 else (1 + mantissa / 8) * 2 ** (exponent - 7))
        for sign in (-1, 1)
        for exponent in range(16)
        for mantissa in range(8)
        if (exponent, mantissa) != (15, 7)
    }
    values = torch.tensor(sorted(grid))
    between = torch.empty(2000).uniform_(-500, 500)

    rounded = FP8.round(between)

    assert max(grid) == FP8.high
    assert torch.equal(FP8.round(values), values)
    assert set(rounded.tolist()) <= grid
    nearest = (values[None] - between.clamp(-448, 448)[:, None]).abs().amin(dim=1)
    assert torch.equal((rounded - between.clamp(-448, 448)).abs(), nearest)


@pytest.mark.parametrize("form", [INT8, INT4, UINT4, FP8], ids=lambda form: form.name)
def test_zero_is_on_the_grid_and_far_values_saturate(form):
    rounded = form.round(torch.tensor([0.0, 1e9, -1e9]))

    assert rounded.tolist() == [0, form.high, form.low]


def test_float32_rounds_nothing():
    values = torch.tensor([0.1, 1e30, -1e-30])

    assert torch.equal(FLOAT32.round(values), values)
