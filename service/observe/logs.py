"""Log lines for people or for machines, each with the id of the request it was written for."""

from __future__ import annotations

import json
import logging
from datetime import datetime, timezone
from typing import Any, Final, Literal

import orjson

from service.observe import exchange

_TEXT: Final = "%(asctime)s %(levelname)s %(name)s: %(message)s"


class TextFormatter(logging.Formatter):
    """One line for people; the id of the request stands at its end."""

    def __init__(self) -> None:
        super().__init__(_TEXT)

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - the library has it
        """Return the line without its traceback."""
        line = super().formatMessage(record)
        asking = exchange.current()
        # Not wherever it is found: a client may choose a single letter.
        if asking is None or (isinstance(record.args, tuple) and asking.request_id in record.args):
            return line
        return f"{line} {asking.request_id}"


class JsonFormatter(logging.Formatter):
    """One object a line, whatever is in it."""

    def format(self, record: logging.LogRecord) -> str:
        """Return one line."""
        said: dict[str, Any] = {
            "time": _rfc3339(record.created),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if (asking := exchange.current()) is not None:
            said["request_id"] = asking.request_id
            if asking.trace is not None:
                said["trace_id"] = asking.trace.trace_id_hex
        said |= getattr(record, "fields", {})
        if record.exc_info:
            said["exception"] = self.formatException(record.exc_info)
        if record.stack_info:
            said["stack"] = record.stack_info
        return _line(said)


def configure(level: str, form: Literal["text", "json"]) -> None:
    """Write the log of this process to standard error, unless its log goes somewhere already.

    Args:
        level: The least that is written.
        form: For people or for machines.
    """
    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter() if form == "json" else TextFormatter())
    logging.basicConfig(level=level.upper(), handlers=[handler])
    logging.captureWarnings(True)


def _line(said: dict[str, Any]) -> str:
    try:
        return orjson.dumps(said, default=str).decode()
    except TypeError:
        # Half of a pair of surrogates, as file names may hold, is no UTF-8.
        return json.dumps(said, default=str)


def _rfc3339(seconds: float) -> str:
    moment = datetime.fromtimestamp(seconds, timezone.utc)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
