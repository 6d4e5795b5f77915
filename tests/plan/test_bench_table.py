"""Ratios and tables of a comparison, and its picture, by numbers that can be worked out by hand."""

import json
import xml.etree.ElementTree as ET

import pytest

from compress.plan.bench_plot import svg
from compress.plan.bench_table import Row, Table
from compress.plan.paper import TABLE_2, reported

SVG = "{http://www.w3.org/2000/svg}"
ROWS = (
    Row("deit-tiny", "FP32", 4.0, 5.0, {1: 250.0, 8: 1000.0}),
    Row("deit-tiny", "FP16", 2.0, 2.5, {1: 500.0, 8: 1500.0, 64: 1200.0}),
    Row("deit-tiny", "INT8 dense", 2.0, 2.5, {1: 500.0, 8: 2000.0}),
    Row(
        "deit-tiny",
        "INT8 2:4",
        1.6,
        2.0,
        {1: 625.0, 8: 1350.0, 64: 3000.0},
        dense_twin="INT8 dense",
        joules=12.5,
        sparse={"batch 1": (48, 20), "large batches": (48, 40)},
        differs=0.0004,
        agrees=True,
    ),
    Row("deit-tiny", "FP8", reason="needs another GPU"),
    Row("my-own", "FP32", 1.0, 1.0, {1: 10.0}),
)
TABLE = Table("A GPU", ("FP32", "FP16"), ROWS, ("A note.",))


def test_ratios_are_of_latency_and_of_each_best_throughput():
    ratio = TABLE.ratio(ROWS[3], "FP32")

    assert (ratio.latency, ratio.throughput) == (2.5, 3.0)
    # At batch 1 625 / 250, at batch 8 1350 / 1000, and none at 64.
    assert ratio.least == pytest.approx(1.35)


def test_slower_at_one_batch_size_is_not_hidden_by_a_faster_best():
    ratio = TABLE.ratio(ROWS[3], "FP16")

    assert ratio.throughput == 2.0
    assert ratio.least == pytest.approx(0.9)


def test_what_was_not_measured_has_no_ratio():
    assert TABLE.ratio(ROWS[4], "FP32").latency is None
    assert TABLE.ratio(ROWS[5], "FP16").throughput is None


def test_the_text_has_a_line_a_contender_and_says_what_is_missing():
    lines = TABLE.text().splitlines()

    assert lines[0] == "A GPU"
    assert lines[-1] == "A note."
    (line,) = [line for line in lines if line.startswith("INT8 2:4  ")]
    assert " ".join(line.split()) == (
        "INT8 2:4 1.600 2.000 2.50x 1.25x 3000 64 3.00x 2.00x 0.90x 12.5 20/48 and 40/48 4e-04"
    )
    assert "FP8: needs another GPU" in lines
    assert "INT8 2:4 over INT8 dense: latency 1.25x, throughput 1.50x" in lines
    (said,) = [line for line in lines if line.startswith("The paper")]
    assert said == (
        "The paper, over FP32: INT4 on A100: latency 1.39x, throughput 3.43x; "
        "INT4 on Orin: latency 1.57x, throughput 2.13x"
    )


def test_titles_stand_above_what_they_name():
    lines = TABLE.text().splitlines()

    groups, titles, first = lines[3:6]
    assert groups.split() == ["latency", "throughput"]
    assert titles.index("img/s") + len("img/s") == first.index("1000") + len("1000")


def test_markdown_names_the_group_in_every_title():
    lines = TABLE.markdown().splitlines()

    titles = lines[4]
    assert "latency / FP16" in titles
    assert "throughput / FP16" in titles
    widths = {line.count("|") for line in lines if line.startswith("|")}
    assert len(widths) == 1


def test_columns_of_which_nothing_is_known_are_left_out():
    table = Table("CPU", ("float32",), (Row("a", "float32", 1.0, 2.0, {1: 1000.0}),))

    titles = table.text().splitlines()[4].split()
    assert titles == ["p50", "ms", "p99", "ms", "ratio", "img/s", "at", "batch", "ratio"]


def test_the_json_holds_rows_ratios_and_the_paper():
    plain = json.loads(TABLE.json())

    row = plain["rows"][3]
    assert row["best_batch"] == 64
    assert row["throughput"] == 3000
    assert row["ratios"]["INT8 dense"] == {"latency": 1.25, "throughput": 1.5, "least": 0.675}
    assert plain["rows"][4]["reason"] == "needs another GPU"
    assert [one["precision"] for one in plain["paper"]["deit-tiny"]] == ["INT4"]
    assert plain["paper"]["my-own"] == []


def test_the_paper_reaches_the_ends_of_the_ranges_in_its_abstract():
    latency = [row.a100[0] for row in TABLE_2 if row.precision == "INT4"]
    throughput = [row.a100[1] for row in TABLE_2 if row.precision == "INT4"]

    assert (min(latency), max(latency), max(throughput)) == (1.39, 1.79, 3.43)


@pytest.mark.parametrize(
    ("name", "shown"),
    [("swin-base", ["Swin-Base 224"]), ("swin-base-384", ["Swin-Base 384"] * 2), ("vit", [])],
)
def test_a_bundle_is_put_beside_the_network_of_its_name(name, shown):
    assert [row.shown for row in reported(name)] == shown


def test_the_picture_has_a_bar_a_ratio_and_a_mark_of_the_paper():
    drawn = ET.fromstring(svg(TABLE))

    said = [title.text for title in drawn.iter(f"{SVG}title")]
    assert "deit-tiny, INT8 2:4: 2.50x" in said
    assert "deit-tiny, INT8 2:4: 3.00x" in said
    assert "the paper, DeiT-Tiny INT4 on A100: 3.43x" in said
    assert not any("FP8" in text for text in said)
    bars = {
        title.text: float(bar.get("height"))
        for bar in drawn.iter(f"{SVG}rect")
        for title in bar.iter(f"{SVG}title")
    }
    # As high as the ratio says: 1.25 times the dense twin's.
    latency = bars["deit-tiny, INT8 2:4: 2.50x"] / bars["deit-tiny, FP16: 2.00x"]
    assert latency == pytest.approx(1.25, abs=0.01)


def test_names_that_are_no_xml_are_drawn_as_they_are():
    table = Table("<&>", ("a",), (Row("x<y", "a", 1.0, 1.0, {1: 1.0}),))

    assert "x<y" in [text.text for text in ET.fromstring(svg(table)).iter(f"{SVG}text")]
