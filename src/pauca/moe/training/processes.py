"""The processes that torchrun has started for one training, seen from any of them; or the only one."""

import os
from typing import TypeVar

import torch.distributed as dist

from pauca.errors import PaucaError

Value = TypeVar("Value")


class OtherStopped(PaucaError):
    """Another process has stopped; its own message says why."""


def join_processes() -> tuple[int, int]:
    """This process's rank and the number of processes; joins those that torchrun has started, if it has."""
    if not dist.is_initialized() and int(os.environ.get("WORLD_SIZE", "1")) > 1:
        dist.init_process_group()  # gloo and, where there are GPUs, NCCL: what is not a tensor of a GPU goes by gloo
    return own_rank(), count_processes()


def own_rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def count_processes() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def gather(value: Value) -> list[Value]:
    """What each process gives, in all of them, which all must call this.

    Raises:
        OtherStopped: another process has, or does not come within the process group's timeout.
    """
    if not dist.is_initialized():
        return [value]
    values: list[Value] = [value] * dist.get_world_size()
    try:
        dist.all_gather_object(values, value)
    except RuntimeError as error:  # names a socket
        raise OtherStopped(
            f"process {dist.get_rank()} stops, because another one has; that one's own message says why"
        ) from error
    return values


def wait_for_all() -> None:
    """Go on when all processes have come here; errors as of `gather`."""
    gather(None)
