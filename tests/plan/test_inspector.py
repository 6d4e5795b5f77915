"""What a builder's log and an engine's layers say about sparsity.

The log lines have the form that users of TensorRT 8.4 and 8.6 posted in issues 1403, 2169 and 4056
of NVIDIA/TensorRT; the layers have the fields of its documentation.
"""

import json

import pytest

from compress.errors import PlanError
from compress.plan import builder_log, inspector
from compress.plan.inspector import EngineLayer, prove, read_layers

PICKED = (
    "[08/05/2024-12:06:54] [I] [TRT] (Sparsity) Layers eligible for sparse math: "
    "MatMul_401, Conv_619 + Relu_620, Gemm_725\n"
    "[08/05/2024-12:06:54] [I] [TRT] (Sparsity) TRT inference plan picked sparse implementation "
    "for layers: Conv_619 + Relu_620\n"
)
NONE_PICKED = (
    "(Sparsity) Layers eligible for sparse math: Conv_0\n"
    "(Sparsity) TRT inference plan picked sparse implementation for layers:\n"
    "Total Activation Memory: 7864832\n"
)
WRAPPED = (
    "[07/19/2022-11:58:20] [I] [TRT] (Sparsity) Layers eligible for sparse math: MatMul_51, Mat\n"
    "Mul_139, Mat\n"
    "Mul_485\n"
    "[07/19/2022-11:58:20] [I] [TRT] (Sparsity) TRT inference plan picked sparse implementation "
    "for layers:\n"
    "[07/19/2022-11:58:21] [I] [TRT] Total Host Persistent Memory: 160\n"
)


def layer(name, tactic, *, kind="Int8", sparse=1, key="Format/Datatype"):
    return {
        "Name": name,
        "LayerType": "CaskConvolution",
        "Inputs": [{"Name": "x", "Dimensions": [1, 64], key: kind}],
        "Outputs": [{"Name": "y", "Dimensions": [1, 64], key: "Half"}],
        "HasSparseWeights": sparse,
        "TacticName": tactic,
        "Metadata": "",
    }


def test_both_lists_are_read():
    log = builder_log.read(PICKED)

    assert log.eligible == ("MatMul_401", "Conv_619 + Relu_620", "Gemm_725")
    assert log.picked == ("Conv_619 + Relu_620",)
    assert log.reported


def test_an_empty_list_does_not_take_the_next_line():
    log = builder_log.read(NONE_PICKED)

    assert (log.eligible, log.picked, log.reported) == (("Conv_0",), (), True)


def test_a_list_that_a_console_wrapped_is_joined():
    log = builder_log.read(WRAPPED)

    assert log.eligible == ("MatMul_51", "MatMul_139", "MatMul_485")
    assert log.picked == ()


def test_a_log_without_the_lists_reports_nothing():
    assert builder_log.read("[I] [TRT] Detected 1 inputs\n") == builder_log.SparsityLog(
        (), (), False
    )


@pytest.mark.parametrize(
    ("kind", "key", "int8"),
    [
        ("Int8", "Format/Datatype", True),
        ("Thirty-two wide channel vectorized row major Int8 format", "Format/Datatype", True),
        ("Int8", "DataType", True),
        ("Row major linear FP16 format", "Format/Datatype", False),
        ("UInt8", "DataType", False),
    ],
)
def test_a_layer_in_int8_is_known_by_its_first_input(kind, key, int8):
    text = json.dumps({"Layers": [layer("a", "sm80_xmma_gemm", kind=kind, key=key)]})

    assert read_layers(text) == (
        EngineLayer("a", "CaskConvolution", "sm80_xmma_gemm", int8, sparse_weights=True),
    )


@pytest.mark.parametrize(
    "text",
    ["", "no JSON", "[]", '{"Layers": ["conv_1", "fc_2"]}', '{"Bindings": []}', '{"Layers": null}'],
)
def test_layers_without_details_are_refused(text):
    with pytest.raises(PlanError, match="profiling verbosity DETAILED"):
        read_layers(text)


def test_only_picked_layers_count_as_sparse_and_the_others_say_why():
    layers = read_layers(
        json.dumps(
            {
                "Layers": [
                    layer("MatMul_401", "sm80_xmma_gemm_i8i8"),
                    layer("Conv_619 + Relu_620", "sm80_xmma_fprop_sparse_conv_i8i8"),
                    layer("Gemm_725", "sm80_xmma_gemm_f16f16", kind="Half"),
                    layer("Conv_1", "sm80_xmma_fprop_i8i8"),
                ]
            }
        )
    )

    proof = prove(builder_log.read(PICKED), layers)

    assert proof.picked == ("Conv_619 + Relu_620",)
    assert proof.int8 == ("MatMul_401", "Conv_619 + Relu_620", "Conv_1")
    assert proof.fell_back == {
        "MatMul_401": "a dense kernel was faster",
        "Gemm_725": "a dense kernel was faster",
        "Conv_1": "2:4 weights, but the builder had no sparse kernel for this layer",
    }
    assert str(proof) == (
        "1 of 3 eligible layers run a sparse kernel, 3 layers read INT8, "
        "3 with 2:4 weights run dense"
    )
    assert json.loads(json.dumps(proof.plain()))["picked"] == ["Conv_619 + Relu_620"]


def test_without_a_report_sparse_weights_alone_prove_nothing():
    layers = read_layers(json.dumps({"Layers": [layer("a", "sm80_xmma_gemm_i8i8")]}))

    proof = prove(builder_log.read(""), layers)

    assert (proof.eligible, proof.picked) == (("a",), ())
    assert "the builder's log has no list" in proof.fell_back["a"]


def test_without_a_report_the_name_of_a_kernel_is_the_evidence():
    sparse = inspector.EngineLayer("a", "gemm", "sm80_xmma_sparse_gemm_i8", True, True)

    assert prove(builder_log.read(""), (sparse,)).picked == ("a",)
