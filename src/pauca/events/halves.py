"""Whether half of the sensor alone tells another motion than the whole packet: things that move by themselves.

Parts that a motion does not explain at all have no slope towards their own, as it is many pixels away: what
`consistency` asks of them looks as if they agreed. So their own motion is searched for.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import numpy as np
from jaxtyping import Bool, Float

from pauca.events.newton import Trial, maximize
from pauca.events.packets import COARSER, STEP_PIXELS, PacketEstimator
from pauca.events.score import Scorer
from pauca.events.types import Packet

# A half's own motion explains its events better by so many nats, at half of the resolution, and is so far away over the
# packet. Of 14 real packets of rotations at most 13 nats; of 75 packets that followed something else than the camera
# nine in ten have more, of 931 ordinary ones that could be trusted one has (2,000 deg/s).
_GAIN_NATS, _APART_PIXELS = 30.0, 1.0
_FEWEST = 200  # events of a half; fewer tell nothing
_MOST = 10_000  # events of a packet; of more every second, third, ... is taken, which halves that differ still show
_TOLERANCE, _EVALUATIONS = 0.5, 30  # nats, and of each resolution


@dataclass(eq=False)
class Halves:
    """Searches halves of packets for motions of their own, with coarse images."""

    estimator: PacketEstimator
    _scorers: list[Scorer] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        # Scorers of its own: a device has those of the estimator, and whole packets alone.
        self._scorers = [
            Scorer(each.frame, each.warp, each.pixel_score, each.vote, each.blur_sigma)
            for each in self.estimator.scorers[1:]  # at a quarter and half of the resolution
        ]

    def disagree(self, packet: Packet, point: Float[np.ndarray, "n"]) -> bool:
        """Whether some half has another motion.

        Args:
            packet: the events.
            point: velocity, and acceleration, that were found for all of them.
        """
        every = -(-len(packet.x) // _MOST)
        return any(self._disagrees(half, point) for half in halves(_some(packet, slice(None, None, every))))

    def _disagrees(self, half: Packet, point: Float[np.ndarray, "n"]) -> bool:
        k = self.estimator.velocities
        reach = STEP_PIXELS / self.estimator.pixels_moved(half)[:k]
        own, value, bend = np.zeros(k), -np.inf, point[k:] if len(point) > k else None
        for by, scorer in zip(COARSER, self._scorers, strict=True):

            def trial(at: Float[np.ndarray, "k"], scorer: Scorer = scorer) -> Trial:
                score = scorer(half, at, bend)
                return Trial(score.value, score.gradient[:k], score.fisher[:k, :k])

            found = maximize(trial, own, reach=by * reach, tolerance=_TOLERANCE, max_evaluations=_EVALUATIONS)
            own, value = found.point, found.here.value
            apart = np.linalg.norm((own - point[:k]) * self.estimator.pixels) * (half.end_us - half.start_us) * 1e-6
            if not apart > by / COARSER[-1] * _APART_PIXELS:  # some end on the coarsest images
                return False
        whole = self._scorers[-1](half, point[:k], bend).value
        return bool(value - whole > _GAIN_NATS)


def halves(packet: Packet) -> Iterator[Packet]:
    """The events of the left, right, upper and lower half, of the middle and of what is around it."""
    x, y = _from_middle(packet.x), _from_middle(packet.y)
    middle = (np.abs(x) < 0.25) & (np.abs(y) < 0.25)
    for chosen in (x < 0, x >= 0, y < 0, y >= 0, middle, ~middle):
        if np.count_nonzero(chosen) >= _FEWEST:
            yield _some(packet, chosen)


def _from_middle(values: Float[np.ndarray, "n"]) -> Float[np.ndarray, "n"]:
    """From -1/2 to 1/2 over their range."""
    low, high = float(values.min()), float(values.max())
    return (values - low) / max(high - low, 1e-9) - 0.5


def _some(packet: Packet, chosen: Bool[np.ndarray, "n"] | slice) -> Packet:
    return replace(packet, **{name: getattr(packet, name)[chosen] for name in ("x", "y", "dt_s", "p")})
