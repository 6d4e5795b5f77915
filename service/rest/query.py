"""The query of a request: what HTTP adds to its parameters."""

from __future__ import annotations

from fastapi import Request
from fastapi.exceptions import RequestValidationError

from service import parameters
from service.rest import inference


async def given_once(request: Request) -> None:
    """Refuse a query that names a parameter more than once, of which the last would count.

    Raises:
        RequestValidationError: Names each such parameter, as pydantic names its faults.
    """
    task = inference.PATHS.get(request.scope["path"])
    known = parameters.OF_TASK[task].model_fields if task else {}
    values = {name: request.query_params.getlist(name) for name in known}
    faults = [
        {"type": parameters.REPEATED, "loc": ("query", name), "input": came}
        for name, came in values.items()
        if len(came) > 1
    ]
    if faults:
        raise RequestValidationError(faults)
