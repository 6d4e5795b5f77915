"""The command ``gpusq predict``: its options. The client package answers, and only when asked."""

from __future__ import annotations

import argparse
import importlib.util
import math
import sys
from pathlib import Path

from compress.arguments import Commands, add_command, whole_number

_EXAMPLE = """\
gpusq predict photo.jpg
  gpusq predict photos --task detect --draw drawn --url http://127.0.0.1:8000

GPUSQ_URL says where the service is where --url does not; GPUSQ_API_KEY has the key, if it wants
one. The exit code is 0 when every picture was answered, 1 when one was not, 2 for a wrong
command."""


def add(commands: Commands) -> None:
    """Add the command."""
    parser = add_command(
        commands, "predict", _predict, "ask a running service about pictures", _EXAMPLE
    )
    parser.add_argument(
        "pictures", nargs="+", type=Path, metavar="IMAGE", help="JPEG, PNG, WebP, or a folder"
    )
    parser.add_argument("--url", help="where the service is (http://127.0.0.1:8000)")
    parser.add_argument("--model", metavar="M", help="a name; the default of the task if not given")
    parser.add_argument(
        "--task",
        choices=("auto", "classify", "detect", "segment"),
        default="auto",
        help="auto: what the model does; without one, the first that the service has a model for",
    )
    parser.add_argument(
        "--top-k", type=whole_number, metavar="N", help="how many classes to name (5)"
    )
    parser.add_argument(
        "--min-score", type=_score, metavar="S", help="the least score of what is detected (0.3)"
    )
    parser.add_argument(
        "--timeout",
        type=_seconds,
        default=30.0,
        metavar="S",
        help="what a picture may take, in seconds, tries and waits included (30)",
    )
    parser.add_argument("--json", action="store_true", help="print JSON, a line each picture")
    parser.add_argument(
        "--draw", type=Path, metavar="DIR", help="write each picture there with its answer drawn"
    )


def _predict(arguments: argparse.Namespace) -> None:
    if importlib.util.find_spec("httpx") is None:
        print(
            "gpusq: asking a service needs httpx. Install it: pip install 'gpusq-vit[client]', or "
            "'.[client]' in the checkout",
            file=sys.stderr,
        )
        sys.exit(2)
    from gpusq import predict  # noqa: PLC0415

    order = predict.Order(
        pictures=arguments.pictures,
        url=arguments.url,
        model=arguments.model,
        task=arguments.task,
        top_k=arguments.top_k,
        min_score=arguments.min_score,
        timeout_s=arguments.timeout,
        json=arguments.json,
        draw=arguments.draw,
    )
    if code := predict.run(order):
        sys.exit(code)


def _score(text: str) -> float:
    if not 0 <= (score := _number(text)) <= 1:
        raise argparse.ArgumentTypeError(f"expected a number from 0 to 1, got {text!r}")
    return score


def _seconds(text: str) -> float:
    if not 0 < (seconds := _number(text)) < math.inf:
        raise argparse.ArgumentTypeError(f"expected seconds above 0, got {text!r}")
    return seconds


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan
