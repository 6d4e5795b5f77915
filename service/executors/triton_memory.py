"""Hand pictures to a Triton on the same machine through shared memory instead of gRPC.

Off by default: it pays for large inputs only, and a Triton that allows it trusts every client.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.shared_memory import SharedMemory
from typing import Any

import grpc
import numpy as np
from tritonclient.grpc import service_pb2

from service.executors import triton_wire
from service.executors.executor import Images

logger = logging.getLogger(__name__)


class Regions:
    """One region of system shared memory for each call that runs at once.

    Args:
        count: How many calls that are.
        size_bytes: Of each. Larger batches go through gRPC.
    """

    def __init__(self, count: int, size_bytes: int) -> None:
        self._regions = [SharedMemory(create=True, size=size_bytes) for _ in range(count)]
        self._free = list(self._regions)
        self._known = False
        self._refused = False

    async def announce(self, stub: Any, timeout_s: float) -> None:
        """Tell Triton of the regions, unless it knows them or does not want them."""
        if self._known or self._refused:
            return
        try:
            for region in self._regions:
                await _register(stub, region, timeout_s)
        except grpc.aio.AioRpcError as error:
            if not (triton_wire.is_away(error) or error.code() is grpc.StatusCode.CANCELLED):
                self._refused = True
                logger.warning(
                    "Triton takes no shared memory, so gRPC is used: %s", error.details()
                )
            return
        self._known = True

    def forget(self) -> None:
        """Announce them again: Triton was restarted, or lost them."""
        self._known = False

    @contextmanager
    def lend(self, images: Images) -> Iterator[str | None]:
        """Put a batch into a region for the time of one call.

        Gives the name of the region; None where there is none, or none large enough.
        """
        if not self._known or not self._free or images.nbytes > self._free[-1].size:
            yield None
            return
        region = self._free.pop()
        try:
            np.copyto(np.ndarray(images.shape, np.uint8, region.buf), images)
            yield region.name
        finally:
            # A call that was cancelled may still be read there; nobody waits for its answer.
            self._free.append(region)

    def close(self) -> None:
        """Give the memory back."""
        for region in self._regions:
            region.close()
            region.unlink()
        self._regions.clear()
        self._free.clear()


async def _register(stub: Any, region: SharedMemory, timeout_s: float) -> None:
    request = service_pb2.SystemSharedMemoryRegisterRequest(
        name=region.name, key=f"/{region.name}", byte_size=region.size
    )
    try:
        await stub.SystemSharedMemoryRegister(request, timeout=timeout_s)
    except grpc.aio.AioRpcError as error:
        # It heard of this one before it stopped answering, or nobody heard that it did.
        if error.code() is not grpc.StatusCode.ALREADY_EXISTS:
            raise
