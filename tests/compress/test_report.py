"""The report of a network that is not INT8, and the charts of any."""

import html
import json
import re
from dataclasses import dataclass
from typing import Any

import pytest

from compress import charts, pipeline
from compress.errors import ExportError
from compress.parallel import Processes
from tests.compress import tiny

DAMAGED = 25


@dataclass(frozen=True)
class Written:
    facts: dict[str, Any]
    page: str


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """INT4 weights in blocks, channels reordered, no evaluation in between, damaged pictures."""
    folder = tmp_path_factory.mktemp("int4")
    tiny.write_pictures(folder / "train", each=4)
    test = tiny.write_pictures(folder / "test", each=4)
    for index in range(DAMAGED):
        (test / "red" / f"damaged-{index:02}.png").write_bytes(b"no picture")
    recipe = tiny.recipe(
        folder,
        network__architecture={**tiny.ARCHITECTURE, "intermediate_size": 64},
        prune__permute=True,
        quantize__weights="int4",
        quantize__activations="float32",
        quantize__block_size=64,
    )
    pipeline.compress(recipe)
    page = html.unescape((recipe.run / "report.html").read_text())
    return Written(json.loads((recipe.run / "report.json").read_text()), page)


def test_a_report_of_a_network_that_is_served_speaks_of_no_refusal(written):
    assert written.facts["refusal"] == ""
    assert "Refused" not in written.page


def test_the_formats_of_the_network_are_named_and_no_other(written):
    names = {entry["name"] for entry in written.facts["latency"]}

    assert names == {
        f"{runtime}, {form}"
        for runtime in ("ONNX Runtime", "OpenVINO")
        for form in ("float32", "INT4 weights")
    }
    assert ">2:4 + INT4 weights</th>" in written.page
    assert "INT8" not in written.page


def test_every_metric_of_all_three_networks_is_shown_beside_each_other(written):
    (row,) = written.facts["accuracy"]

    for metric, text in (("top1", "top-1"), ("top5", "top-5")):
        shown = [f"{row[name][metric]:.1%}" for name in ("dense", "sparse", "quantized")]
        cells = "".join(f'<td class="n">{value.replace("%", " %")}</td>' for value in shown)
        assert f"<td>{text}</td>{cells}" in written.page


def test_every_layer_is_shown_with_its_formats_and_why_they_differ(written):
    rows = {layer["name"]: layer for layer in written.facts["layers"]}
    last, first = rows["vit.layers.1.mlp.fc2"], rows["vit.layers.0.attention.q_proj"]

    assert (last["weights"], last["activations"], last["block_size"]) == ("int4", "float32", 64)
    assert first["block_size"] is None
    reasons = {layer["format_reason"] for layer in rows.values()} - {""}
    assert any("24 inputs are not a multiple of 64" in reason for reason in reasons)
    assert "first and last layers keep 8 bits" in reasons
    assert all(reason in written.page for reason in reasons)
    assert written.page.count("blocks of 64") == 2
    assert "inputs stay in float32" in written.page


def test_what_reordering_channels_gained_is_on_record(written):
    gains = written.facts["permuted"]

    assert gains
    assert min(gains.values()) >= 1
    assert f"% more in {len(gains)} layers" in written.page


def test_each_stage_shows_accuracy_at_its_start_and_its_end(written):
    training, (row,) = written.facts["training"], written.facts["accuracy"]

    for stage in ("dense", "sparse", "quantized"):
        first, last = training[stage]["scores"]
        assert (first["step"], last["step"]) == (0, 6)
        assert last["held out"] == row[stage]["top1"]


def test_skipped_pictures_are_counted_and_the_list_is_capped(written):
    assert len(written.facts["skipped"]) == DAMAGED
    assert f"{DAMAGED} of {24 + DAMAGED} pictures were skipped" in written.page
    assert len(re.findall(r"<li>.*damaged-", written.page)) == 20


def test_a_network_too_small_to_gain_says_so_instead_of_a_factor(written):
    assert "operations are too few to gain" in written.page
    assert "there is little for fewer bits to save" in written.page


def test_a_refused_export_leaves_its_report_and_says_what_to_do(tmp_path):
    for part in ("train", "test"):
        tiny.write_pictures(tmp_path / part)
    recipe = tiny.recipe(tmp_path, quantize__activations="int4", quantize__weights="int4")
    work = pipeline.prepare(recipe, Processes())
    outcome = pipeline.networks(work)
    outcome.quantized.network.__class__ = tiny.OtherwiseWhenExported

    with pytest.raises(ExportError) as caught:
        pipeline.deliver(outcome, work.run)

    message, page = str(caught.value), recipe.run / "report.html"
    assert "% of the pictures get the same class" in message
    assert "(teacher.epochs above 2 and quantize.schedule.epochs above 2), or round" in message
    assert "(quantize.activations: int8, or quantize.weights: int4 with" in message
    assert message.endswith(f"with --restart. Report: {page}")
    facts = json.loads((recipe.run / "report.json").read_text())
    assert facts["refusal"] in message
    assert "Refused, no model was made of it." in page.read_text()
    assert facts["refusal"] in html.unescape(page.read_text())
    assert facts["file_bytes"]["quantized"] == (recipe.run / "refused.onnx").stat().st_size
    assert not (recipe.run / "bundle").exists()
    assert not recipe.publish.repository.exists()


def test_charts_have_marks_and_stay_inside_their_picture():
    scores = [{"step": 0, "test": 0.1}, {"step": 50, "test": 0.98}, {"step": 100, "test": 0.97}]

    chart = charts.accuracy_chart(scores, "test", 0.99)

    assert [tick.text for tick in chart.ticks] == ["0 %", "50 %", "100 %"]
    heights = [dot.y for dot in chart.dots]
    assert heights[1] < heights[2] < heights[0]
    assert chart.level < heights[1]
    assert all(0 < dot.x <= charts.WIDTH and 0 < dot.y < charts.HEIGHT for dot in chart.dots)
    assert chart.dots[-1].text == "step 100: 97 %"


@pytest.mark.parametrize("value", [0.0, 1e-9, 0.5, 1.0])
def test_a_chart_of_one_value_has_an_axis(value):
    loss = charts.loss_chart([{"step": 10, "loss": value}])
    top = charts.accuracy_chart([{"step": 10, "test": value}], "test", value)

    for chart in (loss, top):
        assert len({tick.text for tick in chart.ticks}) == len(chart.ticks) >= 2
        assert charts.HEIGHT > chart.ticks[0].y > chart.ticks[-1].y > 0
