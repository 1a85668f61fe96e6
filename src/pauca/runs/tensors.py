"""Tensors to one safetensors file, whole or not at all."""

from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from pauca.errors import PaucaError
from pauca.runs.files import atomic_write


def save_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str], force: bool = True) -> None:
    """Write tensors, from whatever device, with words about them.

    Raises:
        InputError: `path` exists and `force` is not set.
        PaucaError: the disk refuses; what was there before is untouched.
    """
    here = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    with atomic_write(path, force) as temporary:
        try:
            save_file(here, temporary, metadata=metadata)
        except SafetensorError as error:  # for what the disk refuses, too
            raise PaucaError(f"{path}: could not be written ({error}); free space, nothing was replaced") from error
