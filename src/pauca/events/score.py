"""Images of warped events, their score, and the score's derivatives by the motion, in one pass over the events."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, UInt8

from pauca.events.kernels.accumulate import accumulate_moments
from pauca.events.kernels.blend import empty_images
from pauca.events.kernels.gather import gather_bilinear, gather_quadratic
from pauca.events.kernels.image_pass import score_image
from pauca.events.kernels.vote import vote_bilinear, vote_quadratic
from pauca.events.likelihood import NegativeBinomial, PixelScore, tabulate
from pauca.events.types import Packet, VoteKernel
from pauca.events.warp import Frame, Warp

REST_CHI2 = 16.27
"""Above this the score test tells a motion from rest: the 99.9 % quantile of chi-squared with 3 degrees of freedom."""

PAD = 4  # margin of the images around the frame: two blurs of radius two

KERNELS = {"bilinear": (vote_bilinear, gather_bilinear), "quadratic": (vote_quadratic, gather_quadratic)}
_NO_TAP = 1e-3  # an outermost tap below this is left out: three taps are less work, and the spline has spread the vote


@lru_cache(maxsize=8)
def blur_taps(sigma: float) -> tuple[np.float32, np.float32, np.float32]:
    """The middle tap and those one and two pixels away of a Gaussian blur of this sigma (pixels), cut at two pixels.

    The last one is zero, and the blur has three taps, where it would be below a thousandth: up to a sigma of .54.
    """
    bell = np.exp(-0.5 * (np.arange(3) / sigma) ** 2)
    bell[2] *= bell[2] >= _NO_TAP
    w0, w1, w2 = (np.float32(tap) for tap in bell / (bell[0] + 2 * bell[1:].sum()))
    return w0, w1, w2


def empty(images: Float[np.ndarray, "m h w"], box: Sequence[int]) -> None:
    """Set to zero what votes in a box, and their slopes around it, have left: images are to be found empty."""
    x_low, x_high, y_low, y_high = box
    empty_images(images, x_low, x_high + 2 * PAD + 1, y_low, y_high + 2 * PAD + 1)


class Score(NamedTuple):
    """Score of one motion, with derivatives by (velocity, acceleration)."""

    value: float  # summed over all pixels and both polarities
    gradient: Float[np.ndarray, "2k"]
    fisher: Float[np.ndarray, "2k 2k"]  # sum of outer products of the events' own gradients
    inside: int  # events that the frame still holds
    slopes: Float[np.ndarray, "k n"]  # of each event, by its own rotation vector or shift
    parts: Callable[[], Any] | None = None  # where slopes are elsewhere: `consistency.sums_over_parts`


@dataclass(frozen=True, eq=False)
class Scorer:
    """Scores motions of one camera; holds the images, so that nothing is allocated for each packet.

    An event outside the frame counts as one that is spread thinly over an empty image: the score falls smoothly as
    events leave, and nothing is won by pushing them out.
    """

    frame: Frame
    warp: Warp = Warp()  # noqa: RUF009 - immutable
    pixel_score: PixelScore = NegativeBinomial()  # noqa: RUF009 - immutable
    vote: VoteKernel = "quadratic"  # how an event is shared by the pixels around it
    blur_sigma: float = 0.5  # pixels; of the blur that follows
    _images: Float[np.ndarray, "2 h w"] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        width, height = self.frame.size
        shape = (2, height + 2 * PAD, width + 2 * PAD)
        object.__setattr__(self, "_images", np.zeros(shape, np.float32))

    def __call__(
        self,
        packet: Packet,
        velocity: Float[np.ndarray, "k"],
        acceleration: Float[np.ndarray, "k"] | None = None,
    ) -> Score:
        """Score of the packet for this motion."""
        warped = self.warp.apply(packet, self.frame, velocity, acceleration)
        above_empty, lost, at_events = self.at_pixels(warped, packet.p)
        by_motion = self.warp.slopes_by_motion(packet, self.frame, velocity, acceleration, warped, at_events)
        value = above_empty + self.empty(len(packet))
        return Score(value, *self._summed(by_motion, packet.dt_s), len(packet) - lost, by_motion)

    def at_pixels(
        self, warped: Float[np.ndarray, "2 n"], p: UInt8[np.ndarray, "n"]
    ) -> tuple[float, int, Float[np.ndarray, "2 n"]]:
        """Score of events at pixels of the frame, above that of an empty image; how many are outside; and the slopes
        by each event's pixel."""
        vote, gather = KERNELS[self.vote]
        lost, *box = vote(warped[0], warped[1], p, PAD, self._images)
        if lost == len(p):
            return 0.0, lost, np.zeros((2, len(p)), np.float32)
        table, taps, above_empty = tabulate(self.pixel_score), blur_taps(self.blur_sigma), 0.0
        for image in self._images:
            above_empty += float(score_image(image, PAD, tuple(box), taps, *table))
        at_events = np.empty((2, len(p)), np.float32)
        gather(warped[0], warped[1], p, PAD, self._images, at_events[0], at_events[1])
        empty(self._images, box)
        return above_empty, lost, at_events

    def images(
        self,
        packet: Packet,
        velocity: Float[np.ndarray, "k"],
        acceleration: Float[np.ndarray, "k"] | None = None,
    ) -> Float[np.ndarray, "2 height width"]:
        """Images of warped events, OFF and ON, of the size of the frame; a copy."""
        warped = self.warp.apply(packet, self.frame, velocity, acceleration)
        KERNELS["bilinear"][0](warped[0], warped[1], packet.p, PAD, self._images)  # the sharpest to look at
        images = self._images.copy()
        self._images[:] = 0
        return images[:, PAD:-PAD, PAD:-PAD]

    def empty(self, n_events: int) -> float:
        """Score of an empty image, and of events spread thinly over it."""
        width, height = self.frame.size
        value, slope = _of_nothing(self.pixel_score)
        return 2 * width * height * value + n_events * slope

    def _summed(self, by_motion: np.ndarray, dt_s: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        k = len(by_motion)
        gradient, fisher, whole = np.empty((2, k)), np.empty((3, k, k)), np.empty((2 * k, 2 * k))
        accumulate_moments(by_motion, dt_s, gradient, fisher)
        whole[:k, :k], whole[k:, k:] = fisher[0], fisher[2]
        whole[:k, k:] = whole[k:, :k] = fisher[1]
        return gradient.ravel(), whole


@lru_cache(maxsize=8)
def _of_nothing(pixel_score: PixelScore) -> tuple[float, float]:
    """Value and slope of an empty pixel."""
    nothing = np.zeros(1)
    return float(pixel_score.value(nothing)[0]), float(pixel_score.slope(nothing)[0])
