"""What FastAPI calls for each request runs on the event loop, not in a thread of its pool."""

from __future__ import annotations

import inspect
from collections.abc import Iterator

from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute

from service.rest.routes import router


def _all_of(dependant: Dependant) -> Iterator[Dependant]:
    yield dependant
    for inner in dependant.dependencies:
        yield from _all_of(inner)


def test_no_request_is_handed_to_another_thread_for_its_parameters():
    routes = [route for route in router.routes if isinstance(route, APIRoute)]
    found = [
        one.call
        for route in routes
        for inner in route.dependant.dependencies
        for one in _all_of(inner)
    ]

    assert found
    assert [call for call in found if not inspect.iscoroutinefunction(call)] == []
