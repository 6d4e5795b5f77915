"""The metrics as Prometheus reads them, in both formats, and as the documentation lists them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client import Metric
from prometheus_client.openmetrics import parser as open_parser
from prometheus_client.parser import text_string_to_metric_families

from service.app import create_app
from service.metrics import OPEN_METRICS, QUEUES, STAGES, TEXT, Metrics
from service.observe.gpu import Gpus, rails
from service.observe.nvml import Nvml
from service.settings import Settings
from tests.conftest import Serve
from tests.service import otlp, test_gpu_metrics
from tests.service.asking import JPEG
from tests.service.fakes import FakeExecutor

PAGE = Path(__file__).parents[2] / "docs" / "observability.md"
# As Prometheus 3 asks.
PROMETHEUS = (
    "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.5,"
    "application/openmetrics-text;version=0.0.1;q=0.4,"
    "text/plain;version=1.0.0;escaping=allow-utf-8;q=0.3,text/plain;version=0.0.4;q=0.2,*/*;q=0.1"
)
MODEL = {"model": "colours", "task": "classify"}


@pytest.fixture
def client(serve: Serve) -> Iterator[httpx.Client]:
    with serve(create_app(Settings(deadline_s=30), FakeExecutor())) as client:
        yield client


def ask(client: httpx.Client, data: bytes, **headers: str) -> httpx.Response:
    return client.post("/v1/classify", content=data, headers={**JPEG, **headers})


def text(client: httpx.Client) -> dict[str, Metric]:
    answer = client.get("/metrics")
    assert answer.headers["content-type"] == TEXT
    return {family.name: family for family in text_string_to_metric_families(answer.text)}


def opened(client: httpx.Client) -> dict[str, Metric]:
    answer = client.get("/metrics", headers={"Accept": PROMETHEUS})
    assert answer.headers["content-type"] == OPEN_METRICS
    families = open_parser.text_string_to_metric_families(answer.text)
    return {family.name: family for family in families}


def value(families: dict[str, Metric], family: str, name: str, **labels: str) -> float:
    [found] = [s.value for s in families[family].samples if (s.name, s.labels) == (name, labels)]
    return float(found)


def exemplars(families: dict[str, Metric], family: str, **labels: str) -> list[dict[str, str]]:
    """Return those of the buckets with these labels."""
    return [
        sample.exemplar.labels
        for sample in families[family].samples
        if sample.exemplar and labels.items() <= sample.labels.items()
    ]


def test_both_formats_say_the_same(client: httpx.Client, red_jpeg: bytes):
    ask(client, red_jpeg)

    for families in (text(client), opened(client)):
        for stage in STAGES:
            count = value(
                families, "gpusq_stage_seconds", "gpusq_stage_seconds_count", stage=stage, **MODEL
            )
            assert count == 1
        total = "gpusq_request_seconds_count"
        assert value(families, "gpusq_request_seconds", total, **MODEL) == 1
        requests = {**MODEL, "outcome": "ok"}
        assert value(families, "gpusq_requests", "gpusq_requests_total", **requests) == 1
        batch = "gpusq_batch_images_bucket"
        assert value(families, "gpusq_batch_images", batch, model="colours", le="1.0") == 1
        for queue in QUEUES:
            assert value(families, "gpusq_waiting", "gpusq_waiting", queue=queue) == 0
        assert value(families, "gpusq_executor_up", "gpusq_executor_up", executor="fake") == 1


@pytest.mark.parametrize("accept", ["", "*/*", "text/plain", "text/html, x;q=zz", PROMETHEUS])
def test_only_who_asks_for_open_metrics_gets_it(client: httpx.Client, accept: str):
    answer = client.get("/metrics", headers={"Accept": accept})

    assert answer.headers["content-type"] == (OPEN_METRICS if accept == PROMETHEUS else TEXT)


def test_every_bucket_that_was_hit_names_the_request_where_nothing_is_traced(
    client: httpx.Client, red_jpeg: bytes
):
    ask(client, red_jpeg, **{"X-Request-ID": "mine"})

    families = opened(client)
    for stage in STAGES:
        hit = exemplars(families, "gpusq_stage_seconds", stage=stage)
        assert hit == [{"request_id": "mine"}]
    assert exemplars(families, "gpusq_request_seconds") == [{"request_id": "mine"}]
    assert "mine" not in client.get("/metrics").text


def test_where_requests_are_traced_those_that_are_sampled_are_named(serve: Serve, red_jpeg: bytes):
    trace_id = "0af7651916cd43dd8448eb211c80319c"
    sampled = {"traceparent": f"00-{trace_id}-b7ad6b7169203331-01", "X-Request-ID": "a" * 64}
    with otlp.receiving() as receiver:
        settings = Settings(otlp_endpoint=receiver.url, trace_ratio=0, deadline_s=30)
        with serve(create_app(settings, FakeExecutor())) as client:
            ask(client, red_jpeg)
            assert exemplars(opened(client), "gpusq_request_seconds") == []
            ask(client, red_jpeg, **sampled)
            ask(client, red_jpeg)
            named = exemplars(opened(client), "gpusq_request_seconds")

    assert named == [{"trace_id": trace_id, "request_id": "a" * 64}]


def test_an_executor_that_is_down_is_told_at_the_next_look(serve: Serve):
    executor = FakeExecutor()
    with serve(create_app(Settings(), executor)) as client:
        executor.down = "away"
        up = value(text(client), "gpusq_executor_up", "gpusq_executor_up", executor="fake")

    assert up == 0


def test_what_waits_is_counted_until_it_no_longer_does():
    metrics = Metrics("fake")
    begun, gave_up = metrics.waits("decode"), metrics.waits("decode")

    def waiting() -> str:
        return re.findall(r'gpusq_waiting\{queue="decode"\} (\S+)', metrics.render().decode())[0]

    assert waiting() == "2.0"
    begun()
    begun()
    assert waiting() == "1.0"
    gave_up()
    assert waiting() == "0.0"


def documented() -> dict[str, tuple[str, frozenset[str]]]:
    """Return the kind and the labels of every metric on the page."""
    rows = re.findall(
        r"^\| `(gpusq_\w+)` \| (\w+) \|(.*?)\| .+ \|$", PAGE.read_text("utf-8"), re.MULTILINE
    )
    return {name: (kind, frozenset(re.findall(r"`(\w+)`", labels))) for name, kind, labels in rows}


def test_every_metric_is_documented_with_its_labels_and_nothing_else_is(tmp_path: Path):
    metrics = Metrics("fake")
    metrics.take_up(FakeExecutor().models, ["broken"])
    metrics.watch(lambda: True)
    metrics.shed("bytes")
    metrics.count_key("", "unauthenticated")
    test_gpu_metrics.sensor(
        tmp_path / "hwmon0", "ina3221", in1_label="VDD_IN", in1_input="5000", curr1_input="1000"
    )
    library: Any = test_gpu_metrics.Library()
    metrics.add(Gpus(Nvml(library), rails(tmp_path)))

    found = {}
    for family in text_string_to_metric_families(metrics.render().decode()):
        if family.name.startswith("gpusq_") and not family.name.endswith("_created"):
            name = f"{family.name}_total" if family.type == "counter" else family.name
            labels = frozenset(label for s in family.samples for label in s.labels) - {"le"}
            found[name] = (family.type, labels)

    assert documented() == found
