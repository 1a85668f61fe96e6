"""Which device a name means, and what recording on one asks for."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from pauca.errors import ConfigError, DeviceError

if TYPE_CHECKING:
    import torch


def resolve_device(name: str) -> torch.device:
    """The device of a config's name; under torchrun, `auto` and `cuda` are the GPU of this rank.

    Raises:
        ConfigError: torch knows no such device.
        DeviceError: a GPU is asked for and there is none, or none of that number.
    """
    import torch  # here, because systems without torch share this package

    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"device {name!r} is not known; use auto, cpu, cuda or cuda:N") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise DeviceError(
            f"device {name}: torch {torch.__version__} sees no CUDA GPU here; use --device cpu (in Python "
            'device="cpu"); `pauca doctor` says more'
        )
    if device.type == "cuda":
        device = _gpu(name, device.index, torch.cuda.device_count())
        torch.cuda.set_device(device)
    return device


def _gpu(name: str, index: int | None, count: int) -> torch.device:
    import torch

    if index is None:
        index = int(os.environ.get("LOCAL_RANK", "0"))
        if index >= count:
            raise DeviceError(
                f"device {name}: this is rank {index} of this machine, counted from 0, which has {count} GPUs; "
                f"start at most {count} (torchrun --nproc-per-node {count})"
            )
    if index >= count:
        raise DeviceError(f"device {name}: this machine has {count} GPUs, counted from 0")
    return torch.device("cuda", index)


@contextmanager
def garbage_waits() -> Iterator[None]:
    """Collect garbage before, and none within: a CUDA graph that dies while another is recorded ends the recording."""
    is_usual = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if is_usual:
            gc.enable()
