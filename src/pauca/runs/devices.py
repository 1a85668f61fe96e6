"""Which device a name means."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from pauca.errors import ConfigError, DeviceError

if TYPE_CHECKING:
    import torch


def resolve_device(name: str) -> torch.device:
    """The device of a config's name; under torchrun, `auto` and `cuda` are the GPU of this process.

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
            f"device {name}: torch {torch.__version__} sees no CUDA GPU here; use --device cpu (see `pauca doctor`)"
        )
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise DeviceError(f"device {name}: this machine has {torch.cuda.device_count()} GPUs, counted from 0")
    if device.type == "cuda" and device.index is None:
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(device)
    return device
