"""Seeds: one number repeats a run."""

import random
import sys

import numpy as np

from pauca.errors import ConfigError


def seed_all(seed: int) -> np.random.Generator:
    """Seed Python, numpy and, where it is already loaded, torch; return a numpy generator for the caller's own draws.

    Our own code draws from generators that it is given. The global ones are seeded because libraries use them.

    Raises:
        ConfigError: the seed is negative, which not every generator takes.
    """
    if seed < 0:
        raise ConfigError(f"seed {seed}: give a number of at least 0")
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002 - libraries still read the legacy state
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.manual_seed(seed)
    return np.random.default_rng(seed)


def seed_of(*parts: int) -> int:
    """An independent seed for each tuple of numbers: (seed, purpose, step, ...). At most 63 bits, as torch takes."""
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0] >> 1)
