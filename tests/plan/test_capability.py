"""Which networks a GPU and a TensorRT take."""

import pytest

from compress.errors import PlanError
from compress.plan import capability
from compress.plan.capability import Gpu, check
from contract.card import Precision

A100, ORIN, H100, T4 = Gpu((8, 0), "A100"), Gpu((8, 7)), Gpu((9, 0), "H100"), Gpu((7, 5), "T4")
INT8 = Precision("int8", "int8", "2:4")
FP8 = Precision("fp8", "fp8", "2:4")
INT4_WEIGHTS = Precision("int4", "float32", "2:4")


@pytest.mark.parametrize(
    ("text", "name"),
    [("8.5.2", "8.5"), ("8.6.0", "8.6"), ("8.6.2.3", "8.6"), ("10.3.0.26", "10"), ("11.4.1", "11")],
)
def test_a_version_belongs_to_its_line(text, name):
    assert capability.version(text).name == name


@pytest.mark.parametrize("text", ["8.4.1", "9.0.1", "12.0.0", "7.2", "", "unknown"])
def test_another_version_is_refused(text):
    with pytest.raises(PlanError, match=r"plans are built with TensorRT 8\.5, 8\.6, 10, 11"):
        capability.version(text)


@pytest.mark.parametrize(
    ("precision", "tensorrt", "gpu"),
    [
        (INT8, "8.6.1", A100),
        (INT8, "8.6.2", ORIN),
        (INT8, "11.4.1", H100),
        (FP8, "10.3.0", H100),
        (INT4_WEIGHTS, "10.3.0", A100),
        (Precision("int8", "int8", "dense"), "10.3.0", T4),
    ],
)
def test_what_fits_is_taken(precision, tensorrt, gpu):
    assert check(precision, tensorrt, gpu) == capability.version(tensorrt)


@pytest.mark.parametrize(
    ("precision", "tensorrt", "gpu", "says"),
    [
        (
            Precision("int4", "int4", "4:8"),
            "11.4.1",
            H100,
            r"no TensorRT multiplies INT4 with INT4",
        ),
        (Precision("int4", "int8", "2:4"), "10.3.0", H100, r"has int8 inputs"),
        (INT4_WEIGHTS, "8.6.1", A100, r"int4, which this TensorRT does not take \(TensorRT 8\.6"),
        (FP8, "8.6.1", H100, r"fp8, which this TensorRT does not take \(TensorRT 8\.6"),
        (FP8, "10.3.0", A100, r"capability 8\.9 \(A100 \(sm80\): .*no FP8\)"),
        (FP8, "10.3.0", ORIN, r"capability 8\.9 \(this GPU \(sm87\)"),
        (INT8, "8.6.1", T4, r"2:4 sparse, .*T4 \(sm75\): INT8, no 2:4 sparse kernels"),
    ],
)
def test_what_does_not_fit_is_refused_with_the_line_of_the_table(precision, tensorrt, gpu, says):
    with pytest.raises(PlanError, match=says):
        check(precision, tensorrt, gpu)


def test_the_table_has_a_line_for_each_version_and_gpu():
    lines = capability.table().splitlines()

    assert lines[0] == "TensorRT 8.5: types chosen by the builder, opset 17, float32, int8"
    assert "A100 (sm80): INT8, 2:4 sparse kernels, no FP8" in lines
