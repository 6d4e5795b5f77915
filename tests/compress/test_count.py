"""The networks of the paper's Table 1, counted at real size without a weight."""

import contextlib
import io
import json
from pathlib import Path

import pytest

from compress import count
from compress.__main__ import main
from compress.count import Row, Table


@pytest.fixture(scope="module")
def printed(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    path = tmp_path_factory.mktemp("count") / "count.json"
    with contextlib.redirect_stdout(io.StringIO()) as shown:
        assert main(["count", "--json", str(path)]) == 0
    return shown.getvalue(), path


@pytest.fixture(scope="module")
def rows(printed: tuple[str, Path]) -> dict[tuple[str, str], Row]:
    written = [Row(**entry) for entry in json.loads(printed[1].read_text())]
    return {(row.network, row.form): row for row in written}


def of_form(rows, form):
    return {network: row for (network, other), row in rows.items() if other == form}


def test_seven_networks_are_counted_in_two_forms(rows):
    assert len(rows) == 14
    assert of_form(rows, "2:4 INT8").keys() == of_form(rows, "4:8 INT4").keys()


def test_parameters_are_those_that_their_authors_state(rows):
    millions = {n: round(row.parameters / 1e6, 1) for n, row in of_form(rows, "2:4 INT8").items()}

    # DeiT, table 1; Swin, table 1.
    assert millions == {
        "DeiT-T 224": 5.7,
        "DeiT-S 224": 22.1,
        "DeiT-B 224": 86.6,
        "Swin-T 224": 28.3,
        "Swin-S 224": 49.6,
        "Swin-B 224": 87.8,
        "Swin-B 384": 87.9,
    }


@pytest.mark.parametrize(("name", "hidden"), [("T", 192), ("S", 384), ("B", 768)])
def test_a_deit_by_hand(rows, name, hidden):
    row = rows[f"DeiT-{name} 224", "2:4 INT8"]

    # 12 blocks: four products [h, h] and two [h, 4h] a token, and a token meets every token twice.
    pruned = 196 * 768 * hidden + 12 * 197 * 12 * hidden * hidden
    attention, head = 12 * 2 * 197 * 197 * hidden, 1000 * hidden
    assert row.macs == pruned + attention + head
    in_integers = row.macs / (pruned / 32 + attention / 16 + head / 16)
    assert row.operations_tensor_core == pytest.approx(in_integers)
    assert row.operations_bits == pytest.approx(in_integers)
    in_float = row.macs / (pruned / 32 + attention + head / 16)
    assert row.operations_bits_float == pytest.approx(in_float)
    int4 = rows[f"DeiT-{name} 224", "4:8 INT4"]
    patches = 196 * 768 * hidden
    cores = (pruned - patches) / 64 + patches / 32 + attention / 32 + head / 16
    assert int4.operations_tensor_core == pytest.approx(row.macs / cores)


def test_int8_operations_of_tensor_cores_at_real_size(rows):
    found = {
        network: round(row.operations_tensor_core, 1)
        for network, row in of_form(rows, "2:4 INT8").items()
    }

    # From the published shapes, by hand, before this was written.
    assert found == {
        "DeiT-T 224": 28.0,
        "DeiT-S 224": 29.7,
        "DeiT-B 224": 30.7,
        "Swin-T 224": 31.0,
        "Swin-S 224": 31.2,
        "Swin-B 224": 31.4,
        "Swin-B 384": 30.3,
    }


def test_int4_ratios_at_real_size(rows):
    found = {
        network: (round(row.size, 2), round(row.operations_tensor_core, 1))
        for network, row in of_form(rows, "4:8 INT4").items()
    }

    # Size of the whole network and operations of tensor cores, as docs/results.md has them.
    assert found == {
        "DeiT-T 224": (9.94, 54.9),
        "DeiT-S 224": (11.15, 58.7),
        "DeiT-B 224": (11.91, 61.1),
        "Swin-T 224": (11.47, 61.8),
        "Swin-S 224": (11.67, 62.3),
        "Swin-B 224": (11.93, 62.7),
        "Swin-B 384": (11.73, 60.5),
    }


def test_int4_halves_int8_but_for_the_first_and_the_last_layer(rows):
    int8, int4 = of_form(rows, "2:4 INT8"), of_form(rows, "4:8 INT4")

    for network, row in int4.items():
        ratio = row.operations_tensor_core / int8[network].operations_tensor_core
        assert 1.95 < ratio < 2


def test_pruned_layers_take_what_the_storage_table_says(rows):
    assert all(
        row.size_pruned == pytest.approx(128 / 20) for row in of_form(rows, "2:4 INT8").values()
    )
    # Eight INT4 weights in 20 bits; the patch embedding's eight INT8 ones in 36.
    for network, hidden in (("DeiT-T 224", 192), ("DeiT-B 224", 768)):
        patches, blocks = 768 * hidden, 12 * 12 * hidden * hidden
        bits = blocks / 8 * 20 + patches / 8 * 36
        found = rows[network, "4:8 INT4"].size_pruned
        assert found == pytest.approx(32 * (patches + blocks) / bits)


def test_each_ratio_of_a_whole_network_is_below_that_of_its_pruned_layers(rows):
    for row in rows.values():
        assert 1 < row.size < row.size_pruned <= 12.8
        assert row.size == pytest.approx(row.dense_mb / row.compressed_mb)
        assert row.operations_bits_float < row.operations_bits < row.operations_pruned <= 128
        assert row.operations_tensor_core < 64


def test_the_command_prints_what_it_writes_and_what_each_column_counts(printed, rows):
    shown, _ = printed

    assert Table(list(rows.values())).text() in shown
    assert all(line in shown for line in count.CONVENTIONS)
