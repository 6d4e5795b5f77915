import pytest

from contract.cpu import int8_saturates, lacks_bfloat16


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


@pytest.mark.parametrize(
    ("told", "lacks"),
    [
        ("flags\t\t: fpu avx2", True),
        ("flags\t\t: avx512_bf16 avx2", False),
        ("flags : amx_bf16", False),
        ("Features\t: fp asimd", True),
        ("Features\t: fp asimd bf16", False),
    ],
)
def test_a_processor_without_bfloat16_products_is_known(tmp_path, told, lacks):
    (tmp_path / "cpuinfo").write_text(f"processor\t: 0\n{told}\n")

    assert lacks_bfloat16(tmp_path / "cpuinfo") is lacks


def test_a_processor_that_cannot_be_asked_is_not_said_to_lack_anything(tmp_path):
    assert not lacks_bfloat16(tmp_path / "absent")
