"""What a gateway is measured against: FastAPI as one writes it in an afternoon, without a network.

    python -m benchmarks.plain --port 8100

It takes a picture as the body itself or in a form, decodes and scales it by the same function, in
as many threads, and answers the same labels for every picture. No limits, no deadline, no metrics.
"""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any

import uvicorn
from fastapi import FastAPI, Request, UploadFile

from contract.cpu import cpus
from contract.preprocess import Preprocessing, preprocess

FORM = Preprocessing(224, 224, 248)
# As many as the gateway names by default.
_SCORES = (0.5, 0.2, 0.1, 0.1, 0.1)


def create_app(threads: int) -> FastAPI:
    """Make the application.

    Args:
        threads: That decode.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        with ThreadPoolExecutor(threads) as app.state.threads:
            yield

    app = FastAPI(lifespan=lifespan)

    async def answer(data: bytes) -> dict[str, Any]:
        loop = asyncio.get_running_loop()
        pixels = await loop.run_in_executor(app.state.threads, preprocess, data, FORM)
        named = [
            {"label_id": f"n{number:08}", "label": f"class {number}", "score": score}
            for number, score in enumerate(_SCORES)
        ]
        return {"predictions": named, "shape": pixels.shape}

    @app.post("/raw")
    async def raw(request: Request) -> dict[str, Any]:
        return await answer(await request.body())

    @app.post("/form")
    async def form(image: UploadFile) -> dict[str, Any]:
        return await answer(await image.read())

    @app.get("/ready")
    async def ready() -> str:
        return "ok"

    return app


def main() -> None:
    """Serve on the loopback until a signal comes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--port", type=int, required=True)
    app = create_app(cpus())
    # The fast loop and parser that the gateway has; else uvicorn's defaults, with a line in the log
    # for each request, which the gateway writes too.
    uvicorn.run(
        app,
        host="127.0.0.1",
        port=parser.parse_args().port,
        loop="uvloop",
        http="httptools",
    )


if __name__ == "__main__":
    main()
