"""Ranks as torchrun starts them: each a process with its environment, around a store that outlives them all."""

import multiprocessing
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing import connection
from pathlib import Path
from typing import Any

import torch
from torch import distributed as dist


@dataclass(frozen=True)
class Ended:
    """How a rank ended."""

    code: int | None  # its exit code, or minus the signal that killed it
    said: str  # on standard error


def run_ranks(
    work: Callable[..., Any], count: int, folder: Path, *arguments: Any, give_up_s: float = 60, linger_s: float = 10
) -> list[Ended]:
    """Run `work(rank, *arguments)` on so many ranks; those that are left long after another ended are killed."""
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    context = multiprocessing.get_context("fork")
    ranks = [
        context.Process(target=_run, args=(rank, count, store.port, folder, work, arguments)) for rank in range(count)
    ]
    for process in ranks:
        process.start()
    running = {process.sentinel: process for process in ranks}
    while running:
        ended = connection.wait(list(running), give_up_s if len(running) == count else linger_s)
        for sentinel in ended or list(running):
            process = running.pop(sentinel)  # type: ignore[call-overload]
            if not ended:
                process.kill()
            process.join()
    codes = [process.exitcode for process in ranks]
    return [Ended(code, (folder / f"{rank}.err").read_text()) for rank, code in enumerate(codes)]


def _run(rank: int, count: int, port: int, folder: Path, work: Callable[..., Any], arguments: tuple) -> None:
    torch.set_num_threads(1)
    os.environ.update(
        RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(count), MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port),
        TORCHELASTIC_USE_AGENT_STORE="True",
    )  # fmt: skip
    error = os.open(folder / f"{rank}.err", os.O_WRONLY | os.O_CREAT)
    os.dup2(error, 2)
    sys.stderr = os.fdopen(2, "w", buffering=1, closefd=False)
    sys.exit(work(rank, *arguments))
