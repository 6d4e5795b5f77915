import pytest

from contract.cpu import int8_saturates


@pytest.mark.parametrize(
    ("flags", "saturates"),
    [
        ("fpu sse2 avx2 fma", True),
        ("fpu avx2 avx512f avx512vl", True),
        ("fpu avx2 avx512f avx512_vnni", False),
        ("fpu avx2 avx_vnni", False),
    ],
)
def test_x86_saturates_unless_it_has_dot_products(tmp_path, flags, saturates):
    told = tmp_path / "cpuinfo"
    told.write_text(f"processor\t: 0\nmodel name\t: some\nflags\t\t: {flags}\n\n" * 2)

    assert int8_saturates(told, "x86_64") is saturates


def test_a_processor_that_cannot_be_asked_counts_as_saturating(tmp_path):
    assert int8_saturates(tmp_path / "absent", "AMD64")


def test_arm_does_not_saturate(tmp_path):
    assert not int8_saturates(tmp_path / "absent", "aarch64")
