"""Several processes that run one function together, over gloo."""

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.multiprocessing as mp
from torch import distributed as dist

Together = Callable[..., list[Any]]


def _rank(rank: int, world: int, folder: Path, timeout_s: float, work: Callable[..., Any], arguments: tuple) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder}/meet",
        rank=rank,
        world_size=world,
        timeout=timedelta(seconds=timeout_s),
    )
    torch.save(work(rank, *arguments), folder / f"{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="session")
def together(tmp_path_factory: pytest.TempPathFactory) -> Together:
    """`together(work, world, *arguments)`: what `work(rank, *arguments)` returns on each rank, or on one."""

    def run(
        work: Callable[..., Any], world: int, *arguments: Any, timeout_s: float = 60, only: int | None = None
    ) -> list[Any]:
        folder = tmp_path_factory.mktemp("together")
        mp.start_processes(_rank, (world, folder, timeout_s, work, arguments), nprocs=world, start_method="fork")
        ranks = range(world) if only is None else [only]
        return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in ranks]

    return run
