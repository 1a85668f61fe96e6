"""The random state of torch that a caller has seeded, left as it was."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def own_random_state() -> Iterator[None]:
    """Torch's random state is the caller's again afterwards: layers draw the weights that they begin with from the
    global one, also where those of a file take their place, and dropout reads it, which each step of training seeds."""
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices):
        yield
