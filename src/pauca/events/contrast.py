"""Contrast maximisation: the variance of the image of warped events, as users of other tools know it."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float


@dataclass(frozen=True)
class Contrast:
    """Square of a pixel's count. The mean of the image is fixed by the number of events, so that maximising the sum
    of squares maximises the variance."""

    scale: float = 0.1

    def value(self, count: Float[np.ndarray, "*n"]) -> Float[np.ndarray, "*n"]:
        return np.square(count)

    def slope(self, count: Float[np.ndarray, "*n"]) -> Float[np.ndarray, "*n"]:
        return 2 * count
