"""What one pixel of the image of warped events is worth: the negative binomial of the space-time Poisson process,
or contrast.

Gu, Learned-Miller, Sheldon, Gallego, Bideau: The Spatio-Temporal Poisson Point Process, ICCV 2021.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float
from scipy.special import digamma, gammaln

from pauca.errors import ConfigError
from pauca.events.given import check_kinds


@runtime_checkable
class PixelScore(Protocol):
    """A function of a pixel's blurred count; alignment maximizes its sum over the pixels of both polarities."""

    @property
    def scale(self) -> float:
        """Counts around which the function bends most; sets the resolution of its table near zero."""
        ...

    def value(self, count: Float[np.ndarray, "*n"]) -> Float[np.ndarray, "*n"]:
        """Score of a pixel with this count."""
        ...

    def slope(self, count: Float[np.ndarray, "*n"]) -> Float[np.ndarray, "*n"]:
        """Derivative of `value`."""
        ...


@dataclass(frozen=True)
class NegativeBinomial:
    """Log-likelihood of a Poisson count whose rate is drawn from Gamma(shape r, rate beta), in nats.

    The defaults are the paper's, for every sequence. Alignment works because the log-likelihood is convex in the
    count, so that counts rather gather in few pixels than spread: this needs r < 1. `beta` shifts the value alone,
    since the number of events does not change.

    Raises:
        ConfigError: for r outside (0, 1) or beta <= 0.
    """

    r: float = 0.1
    beta: float = 1.59

    def __post_init__(self) -> None:
        check_kinds(self)
        if not 0 < self.r < 1:
            raise ConfigError(
                f"r = {self.r}: must lie between 0 and 1 (0.1 in the paper, 0.3 at most is advisable), because from "
                "r = 1 on the likelihood no longer rewards events that fall together, and alignment runs away"
            )
        if not self.beta > 0:
            raise ConfigError(f"beta = {self.beta}: the rate of a Gamma distribution must be positive")

    @property
    def scale(self) -> float:
        return self.r

    def value(self, count: Float[np.ndarray, "*n"]) -> Float[np.ndarray, "*n"]:
        """Log-probability of a count, continued to fractions by the gamma function."""
        r, beta = self.r, self.beta
        counts = gammaln(count + r) - gammaln(count + 1) - gammaln(r)
        return counts + r * np.log(beta / (1 + beta)) - count * np.log1p(beta)

    def slope(self, count: Float[np.ndarray, "*n"]) -> Float[np.ndarray, "*n"]:
        """Its derivative by the count."""
        return digamma(count + self.r) - digamma(count + 1) - np.log1p(self.beta)


@dataclass(frozen=True)
class Contrast:
    """Square of a pixel's count: contrast maximization, as users of other tools know it.

    The mean of the image is fixed by the number of events, so that maximizing the sum of squares maximizes the
    variance of the image of warped events.
    """

    scale: float = 0.1

    def value(self, count: Float[np.ndarray, "*n"]) -> Float[np.ndarray, "*n"]:
        """Score of a pixel with this count."""
        return np.square(count)

    def slope(self, count: Float[np.ndarray, "*n"]) -> Float[np.ndarray, "*n"]:
        """Derivative of `value`."""
        return 2 * count


class ScoreTable(NamedTuple):
    """A pixel score relative to an empty pixel, h(k) = f(k) - f(0) - f'(0) k, for look-up by the bits of a float32.

    The upper 16 bits of k + offset as a float32 name a segment, the lower 16 the fraction inside it: 128 segments
    for each doubling of k + offset, so that linear interpolation is right to 1e-5 from empty pixels to 2^24 counts.
    """

    segments: Float[np.ndarray, "segments 4"]  # h, its step to the next segment; h', its step
    offset: np.float32  # the power of two at or below `scale`
    first: int  # upper bits of `offset`


@lru_cache(maxsize=8)
def tabulate(score: PixelScore) -> ScoreTable:
    """The table of a pixel score that the kernels read; computed once."""
    offset = np.float32(2.0 ** np.floor(np.log2(score.scale)))
    first = int(offset.view(np.int32)) >> 16
    last = int(np.float32(2**24).view(np.int32)) >> 16
    edges = (np.arange(first, last + 2, dtype=np.int32) << 16).view(np.float32).astype(float) - float(offset)
    empty_value, empty_slope = score.value(np.zeros(1)), score.slope(np.zeros(1))
    value = score.value(edges) - empty_value - empty_slope * edges
    slope = score.slope(edges) - empty_slope
    segments = np.stack([value[:-1], np.diff(value), slope[:-1], np.diff(slope)], axis=1).astype(np.float32)
    segments.flags.writeable = False
    return ScoreTable(segments, offset, first)
