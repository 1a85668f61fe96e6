import random

import numpy as np

from pauca.runs import seed_all


def test_one_number_repeats_everything():
    def draw() -> tuple[float, float, float]:
        generator = seed_all(7)
        return random.random(), float(np.random.rand()), float(generator.random())  # noqa: NPY002

    assert draw() == draw()
