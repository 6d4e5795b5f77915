"""Two processes that run one function of a test, without a launcher."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from compress.parallel import Processes

COUNT = 2


def in_two(folder: Path, do: Callable[..., dict[str, Any]], *arguments: Any) -> list[Any]:
    """Run ``do(processes, *arguments)`` in two processes; return what each of them found.

    Raises:
        torch.multiprocessing.ProcessExitedException: One was killed.
    """
    meeting = folder / "meeting"
    meeting.unlink(missing_ok=True)
    mp.spawn(_begin, (folder, meeting, do, arguments), nprocs=COUNT)
    return [torch.load(folder / f"found{rank}.pt") for rank in range(COUNT)]


def _begin(
    rank: int, folder: Path, meeting: Path, do: Callable[..., dict[str, Any]], arguments: Any
) -> None:
    warnings.simplefilter("error")
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{meeting}", rank=rank, world_size=COUNT)
    found = do(Processes(rank, COUNT), *arguments)
    torch.save(found, folder / f"found{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()
