"""What ``gpusq predict`` does: asks a running service about pictures, one after the other."""

from __future__ import annotations

import io
import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TextIO

from gpusq import pictures, reading, table
from gpusq.answers import Alias, Limits, Model, Models, PictureAnswer
from gpusq.client import Client
from gpusq.connection import DEFAULT_URL
from gpusq.drawn_files import SUFFIX, DrawnFiles
from gpusq.errors import (
    ArgumentError,
    ConnectionFailedError,
    GpusqError,
    PictureError,
    RequestRefusedError,
)

TASKS: Final = ("classify", "detect", "segment")
AUTO: Final = "auto"
_NO_MODELS: Final = Models((), Limits(0, 0))
_KINDS: Final = frozenset({".jpg", ".jpeg", ".png", ".webp"})


@dataclass(frozen=True)
class Order:
    """What to ask, and in which form to say the answers.

    Args:
        pictures: Files, or folders of them.
        url: Of the service; ``GPUSQ_URL`` or this machine if not given.
        model: A name; the default model of the task if not given.
        task: One of :data:`TASKS`, or that of the model.
        top_k: How many classes to name.
        min_score: The least score of what is detected.
        timeout_s: What each picture may take in all.
        json: Whether answers come as JSON, a line each.
        draw: Where to put drawn pictures.
    """

    pictures: Sequence[Path]
    url: str | None = None
    model: str | None = None
    task: str = AUTO
    top_k: int | None = None
    min_score: float | None = None
    timeout_s: float = 30.0
    json: bool = False
    draw: Path | None = None


def run(order: Order) -> int:
    """Answer an order on standard output, and say on standard error what failed.

    Returns:
        0, 1 where something failed, or 2 where the order makes no sense.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        # Labels are in any script, terminals perhaps not.
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        url = order.url or os.environ.get("GPUSQ_URL") or DEFAULT_URL
        key = os.environ.get("GPUSQ_API_KEY") or None
        with Client(url, key, timeout_s=order.timeout_s) as client:
            return _Asking(order, client, sys.stdout).all()
    except ArgumentError as error:
        _complain(_said(error))
        return 2
    except ConnectionFailedError as error:
        _complain(f"{_said(error)} --url or GPUSQ_URL says where it is.")
        return 1
    except GpusqError as error:
        _complain(_said(error))
        return 1
    except BrokenPipeError:
        # Whoever read it has enough. Python would write what is left at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        if error.filename is None:
            raise
        _complain(f"{error.filename}: {error.strerror}. Name another file or folder.")
        return 2


class _Asking:
    """Asks about each picture of an order in turn."""

    def __init__(self, order: Order, client: Client, out: TextIO) -> None:
        self._order, self._client, self._out = order, client, out
        # A key may be for pictures alone: what is named in full needs nothing else.
        named = order.task != AUTO and not (order.draw and order.task == "detect")
        models = _NO_MODELS if named else _models(client)
        self._task = _task(order, models)
        self._options = _options(order, self._task, models)
        self._drawn: DrawnFiles | None = None

    def all(self) -> int:
        started = time.monotonic()
        listed = list(_files(self._order.pictures))
        if self._order.draw is not None:
            self._drawn = DrawnFiles(self._order.draw, [path for path in listed if path.is_file()])
        failed = sum(not self._one(path) for path in listed)
        if len(listed) > 1 and not self._order.json:
            seconds = time.monotonic() - started
            said = f"{len(listed)} pictures in {seconds:.2f} s"
            self._say(f"{said}, {failed} of them failed" if failed else said)
        return 1 if failed else 0

    def _one(self, path: Path) -> bool:
        name = str(path)
        try:
            data = _read(path)
            answer: PictureAnswer = getattr(self._client, self._task)(data, **self._options)
        except GpusqError as error:
            if self._order.json:
                self._say(json.dumps({"name": _whole(name), "problem": _problem(error)}))
            # That a file cannot be read names it.
            said = str(error) if isinstance(error, PictureError) else f"{name}: {_said(error)}"
            _complain(said)
            return False
        if self._order.json:
            self._say(json.dumps({"name": _whole(name), "answer": reading.plain(answer)}))
        else:
            self._say(table.text(name, answer))
        return self._drawn is None or self._draw(data, answer, path, self._drawn)

    def _draw(self, data: bytes, answer: PictureAnswer, path: Path, drawn: DrawnFiles) -> bool:
        from gpusq import drawing  # noqa: PLC0415

        try:
            target = drawn.save(drawing.draw(data, answer), path)
        except (GpusqError, OSError) as error:
            why = (isinstance(error, OSError) and error.strerror) or error
            _complain(f"{path}: it is not drawn: {why}")
            return False
        if not self._order.json:
            self._say(f"  drawn: {table.printable(str(target))}")
        return True

    def _say(self, line: str) -> None:
        # Whoever reads it may wait for each line.
        self._out.write(f"{line}\n")
        self._out.flush()


def _task(order: Order, models: Models) -> str:
    """Return the task that was named, or that of the model, or the first that has one.

    Raises:
        ArgumentError: There is no such model.
        GpusqError: The model cannot be asked, or there is none.
    """
    if order.task != AUTO:
        return order.task
    if order.model is None:
        offered = {model.task for model in models if model.state == "ready" and model.default}
        return _first([task for task in TASKS if task in offered])
    named: dict[str, Model | Alias] = {model.name: model for model in models}
    named |= {alias.name: alias for alias in models.aliases}
    if order.model not in named:
        raise ArgumentError(
            f"There is no model {order.model!r}; there are {', '.join(named)}. Name one of these, "
            "or say by --task what it does."
        )
    model = named[order.model]
    if model.task is None:
        raise GpusqError(f"The model {model.name!r} is {model.state}: {model.reason}")
    return model.task


def _models(client: Client) -> Models:
    try:
        return client.models()
    except RequestRefusedError as error:
        if error.code == "forbidden":
            raise GpusqError(f"{error} With --task nothing is asked but about pictures.") from error
        raise


def _first(tasks: list[str]) -> str:
    if not tasks:
        raise GpusqError("The service has no model that can be asked. Look at its log, or wait.")
    return tasks[0]


def _options(order: Order, task: str, models: Models) -> dict[str, Any]:
    """Return the options of the client's method.

    Raises:
        ArgumentError: One was given that another task has.
    """
    options: dict[str, Any] = {"model": order.model}
    for name, value, has in (
        ("top_k", order.top_k, "classify"),
        ("min_score", order.min_score, "detect"),
    ):
        if value is None:
            continue
        if task != has:
            said = f"--{name.replace('_', '-')}"
            raise ArgumentError(f"{said} is for --task {has}, this is {task}. Leave it out.")
        options[name] = value
    if order.draw and task == "detect" and _has_masks(order.model, models):
        options["masks"] = "rle"
    return options


def _has_masks(name: str | None, models: Models) -> bool:
    return any(
        model.masks and (model.default if name is None else model.name == name) for model in models
    )


def _files(named: Sequence[Path]) -> Iterator[Path]:
    """Yield the files, and of a folder its pictures in the order of their names."""
    for path in named:
        if not path.is_dir():
            yield path
            continue
        inside = [inner for inner in sorted(path.iterdir()) if inner.suffix.lower() in _KINDS]
        found = [inner for inner in inside if not inner.name.endswith(SUFFIX)]
        # A folder without one is complained of as a picture that is none.
        yield from found or [path]


def _read(path: Path) -> bytes:
    if path.is_dir():
        raise PictureError(
            f"{path}: expected a folder with JPEG, PNG or WebP files, there is none."
        )
    return pictures.encoded(path)


def _problem(error: GpusqError) -> dict[str, Any]:
    if isinstance(error, RequestRefusedError):
        said: dict[str, Any] = reading.plain(error.problem)
        return said
    return {"code": error.code, "detail": str(error)}


def _whole(name: str) -> str:
    """Return a name without what is no text, as a file's may have it; JSON readers refuse that."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _said(error: GpusqError) -> str:
    """Say an error of the client in the words of the command."""
    return str(error).replace("base_url", "--url").replace("timeout_s", "--timeout")


def _complain(line: str) -> None:
    sys.stderr.write(f"gpusq: {table.printable(line)}\n")
