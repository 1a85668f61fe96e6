import random

import numpy as np
import pytest

from pauca.errors import ConfigError
from pauca.runs import seed_all, seed_of


def test_one_number_repeats_everything():
    def draw() -> tuple[float, float, float]:
        generator = seed_all(7)
        return random.random(), float(np.random.rand()), float(generator.random())  # noqa: NPY002

    assert draw() == draw()


def test_seeds_of_different_purposes_differ_and_repeat():
    seeds = {seed_of(0, purpose, step) for purpose in range(3) for step in range(100)}
    assert len(seeds) == 300
    assert max(seeds) < 2**63
    assert seed_of(0, 1, 2) == 1535930435702422785  # with other numbers, no earlier run would repeat


def test_a_negative_seed_is_refused():
    with pytest.raises(ConfigError, match="seed -1: give a number of at least 0"):
        seed_all(-1)
