"""The motion of one packet: is there any, which one, and how far can it be trusted. Knows nothing of other packets."""

import math
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from pauca.events.camera import Camera
from pauca.events.consistency import Consistencies, consistencies
from pauca.events.likelihood import Contrast, NegativeBinomial, PixelScore
from pauca.events.newton import Optimum, Trial, last_step, maximize, scaled_cholesky, score_statistic, single_step
from pauca.events.score import REST_CHI2, Score, Scorer
from pauca.events.settings import AlignConfig
from pauca.events.types import Packet, Status
from pauca.events.uncertainty import CALIBRATION, calibrated, hysteresis_of, noise_of, sharpness_of
from pauca.events.warp import Frame, Warp
from pauca.events.windows import Flow

STEP_PIXELS = 8.0  # longest step of the solver, as displacement of events at the ends of the packet
_LOST_PIXELS = 1.0  # DEGENERATE from this standard deviation on: the likelihood knows nothing beyond its blur
_SHORTEST_PIXELS = 2.0  # over less than this, windows of 1 ms were off by 100 deg/s
_ABOVE_REST = REST_CHI2 / 2  # nats; a motion that the test calls one promises so much
_INSIDE = 0.8  # part of the events at rest that a motion must keep in the frame
COARSER = (4, 2)  # pixels of the full image in one of a cold search, per axis
_COARSE_TOLERANCE = 0.5  # nats
_TOLERANCE = 0.01  # nats that a step may promise at the end of a search
# Likewise, of a step that is taken without an evaluation. On texture that saves an eighth of the evaluations, and nine
# in ten packets end within 0.03 deviations of the maximum, as with 0.01 and all steps looked at.
_UNSEEN_STEP = 0.2
# A window of a millisecond after one that was aligned: the step that is taken after one evaluation promises no more
# nats than this, and moves events at the ends of the packet by no more pixels; nine in ten do so. They end within 0.02
# pixels of the maximum then, within 0.05 deviations half of them. Of 200 dots that blink at random, with larger steps,
# one was off by 5 deviations. Else some more evaluations, before a search of its own.
_SLIDING_NATS, _SLIDING_PIXELS, _SLIDING_EVALUATIONS = 8.0, 0.1, 3
_BEYOND_DOUBT = 4.0  # times the threshold, by which a packet is told from rest if the next ones need not ask
_ALIKE = 1.5  # times as many events: scores of an event are compared no further
_ROLL_LEVER = 0.45  # of the sensor's width: how far from the middle the average pixel lies, for a roll


class Still(NamedTuple):
    """What a packet says of rest."""

    score: Score
    rests: bool  # nothing in the events tells a motion


class Proof(NamedTuple):
    """How much better than rest a motion explained a packet: it lets the packets that follow do without asking."""

    n_events: int
    rest: float  # nats an event, above events that are spread thinly
    gain: float  # nats an event, above rest

    def holds(self, value: float, packet: Packet, spread: float) -> bool:
        """Whether a score is nearer to that of the motion than to that of rest, of about as many events: those of a
        camera that has stopped are spread by any motion."""
        n = len(packet)
        alike = self.n_events < _ALIKE * n and n < _ALIKE * self.n_events
        return alike and (value - spread) / n > self.rest + self.gain / 2


class Estimate(NamedTuple):
    """What one packet says about the motion."""

    point: Float[np.ndarray, "n"]  # velocity, and acceleration if it is estimated
    value: float
    covariance: Float[np.ndarray, "k k"]
    status: Status
    shape: Float[np.ndarray, "n n"] | None  # for the next packet's search
    evaluations: int
    flow: Flow | None = None  # of the image, without what noise adds to its size
    noise: Float[np.ndarray, "n n"] | None = None  # of the point, by its events and what its parts dispute
    parts: Consistencies | None = None
    proof: Proof | None = None  # that it moves, where that is beyond doubt


@dataclass(eq=False)
class PacketEstimator:
    """Estimates motions of one camera; holds the images, so that nothing is allocated for each packet."""

    camera: Camera
    config: AlignConfig
    scorers: list[Scorer] = field(init=False, repr=False)  # at full resolution, then coarser ones

    def __post_init__(self) -> None:
        config = self.config
        warp = Warp(config.motion, config.exact)
        pixel_score: PixelScore = NegativeBinomial(config.r, config.beta)
        if config.objective == "contrast":
            pixel_score = Contrast()
        image = warp, pixel_score, config.vote, config.blur_sigma
        self.scorers = [Scorer(Frame(self.camera.reduced(by), config.border // by), *image) for by in (1, *COARSER)]

    @property
    def scorer(self) -> Scorer:
        """What scores packets at full resolution."""
        return self.scorers[0]

    @property
    def velocities(self) -> int:
        """Components of a velocity."""
        return self.scorer.warp.parameters

    @property
    def parameters(self) -> int:
        """Components of what is estimated."""
        return self.velocities * (2 if self.config.acceleration else 1)

    @property
    def pixels(self) -> Float[np.ndarray, "k"]:
        """Pixels a second by which one unit of each velocity moves the average pixel."""
        if self.config.motion == "translation":
            return np.array([self.camera.fx, self.camera.fy])
        return np.array([self.camera.fy, self.camera.fx, _ROLL_LEVER * self.camera.size[0]])

    def score(self, packet: Packet, point: np.ndarray) -> Score:
        """Score, slopes and events inside, at a velocity and, if the point is long enough, an acceleration."""
        return _score(self.scorer, packet, point)

    def still(self, packet: Packet) -> Still:
        """The packet as it is. It rests if neither all events together nor those of parts of it contradict that."""
        score = self.score(packet, np.zeros(self.parameters))
        moves = self._against_rest(score) > REST_CHI2
        return Still(score, not (moves or consistencies(packet, score, 0, 1.0, self.pixels).moves_within))

    def pixels_moved(self, packet: Packet) -> Float[np.ndarray, "m"]:
        """Pixels by which one unit of each parameter moves an event at the end of the packet."""
        longest_s = _longest_s(packet)
        return self.camera.fx * np.repeat([longest_s, longest_s**2 / 2], self.velocities)

    def estimate(
        self, packet: Packet, at_rest: Still, expected: np.ndarray, shape: np.ndarray | None = None
    ) -> Estimate:
        """Estimate the motion of a packet.

        Args:
            packet: the events.
            at_rest: what `still` says of them.
            expected: where to begin, [parameters]; zero where nothing is known.
            shape: of the last packet's estimate.
        """
        still = at_rest.score
        if self.config.rest_test and at_rest.rests:
            return self._rest(packet, still)
        optimum, used = self._search(packet, expected, shape, still)
        if optimum.status is Status.DEGENERATE:
            return self.degenerate(used, optimum.here.value)
        return self._judge(packet, optimum, still, used)

    def slide(self, packet: Packet, expected: np.ndarray, shape: np.ndarray, proof: Proof) -> Estimate | None:
        """Estimate the motion of a packet that shares most of its events with one before it, which moved beyond doubt:
        mostly by one evaluation, and a step from there. None where that is not enough.

        Args:
            packet: the events.
            expected: where the packet before, and its acceleration, lead to.
            shape: of that packet's estimate.
            proof: that the last packet which was compared with rest moved.
        """
        first = self._trial(packet, expected)
        if first.detail.inside < _INSIDE * len(packet) or not proof.holds(first.value, packet, self._spread(packet)):
            return None
        reach = STEP_PIXELS / self.pixels_moved(packet)[: len(expected)]
        step = single_step(first, shape, reach, _SLIDING_NATS)
        if step is not None and np.abs(STEP_PIXELS * step / reach).max() < _SLIDING_PIXELS:
            found = Optimum(expected + step, first, shape, Status.CONVERGED, 0)
        else:
            found = self._climb(packet, expected, first, shape, _SLIDING_EVALUATIONS)
        if found.status is not Status.CONVERGED:
            return None
        return self._judge(packet, found, None, 1 + found.evaluations)

    def _spread(self, packet: Packet) -> float:
        """Score of the events if they were spread thinly."""
        return self.scorer.empty(len(packet))

    def degenerate(self, evaluations: int = 0, value: float = 0.0) -> Estimate:
        """The answer where there is nothing to align: rest, infinitely uncertain."""
        nothing = np.full((self.velocities, self.velocities), np.inf)
        return Estimate(np.zeros(self.parameters), value, nothing, Status.DEGENERATE, None, evaluations)

    def _against_rest(self, still: Score) -> float:
        k = self.velocities
        return score_statistic(still.gradient[:k], still.fisher[:k, :k])

    def _rest(self, packet: Packet, still: Score) -> Estimate:
        k = self.velocities
        if scaled_cholesky(still.fisher[:k, :k]) is None:
            return self.degenerate(1, still.value)
        information = still.fisher[:k, :k]
        step = np.linalg.solve(information, still.gradient[:k])  # the motion that the events may hint at
        covariance = CALIBRATION * (np.linalg.inv(information) + np.outer(step, step))
        short = packet.end_us - packet.start_us < self.config.packet_s * 0.5e6  # anything rests for a millisecond
        status = Status.DEGENERATE if short or self._lost(packet, covariance) else Status.REST
        return Estimate(np.zeros(self.parameters), still.value, covariance, status, None, 1)

    def _search(
        self, packet: Packet, expected: np.ndarray, shape: np.ndarray | None, still: Score
    ) -> tuple[Optimum, int]:
        """From what is expected, if it beats rest and leads somewhere; else cold. The evaluations of all searches."""
        used = 1  # rest
        if expected.any():
            first = self._trial(packet, expected)
            used += 1
            if not self.config.rest_test or first.value > still.value:
                warm = self._climb(packet, expected, first, shape)
                used += warm.evaluations
                if not self.config.rest_test or self._plausible(packet, warm, still):
                    return warm, used
        cold = self._cold(packet, still, shape)
        return cold, used + cold.evaluations

    def _plausible(self, packet: Packet, optimum: Optimum, still: Score) -> bool:
        """Whether a motion explains the events better than rest does, and did not push them out of the frame."""
        if optimum.status is Status.DEGENERATE:
            return False
        above = _ABOVE_REST if self.config.objective == "st-ppp" else 0.0
        return optimum.here.value > still.value + above and optimum.here.detail.inside >= _INSIDE * still.inside

    def _cold(self, packet: Packet, still: Score, shape: np.ndarray | None) -> Optimum:
        """From rest: first on coarse images, where a motion of many pixels is one of few, then on the full one."""
        k, n = self.velocities, self.parameters
        reach = STEP_PIXELS / self.pixels_moved(packet)[:k]
        point, used = np.zeros(k), 0
        for by, scorer in zip(COARSER, self.scorers[1:], strict=True):
            found = maximize(
                lambda at, scorer=scorer: _trial(_score(scorer, packet, at), k),
                point,
                reach=by * reach,
                tolerance=_COARSE_TOLERANCE,
                max_evaluations=self.config.max_evaluations,
            )
            point, used = found.point, used + found.evaluations
        start = np.zeros(n)
        start[:k] = point
        first = self._trial(packet, start)
        if first.value <= still.value:
            start, first = np.zeros(n), _trial(still, n)
        optimum = self._climb(packet, start, first, shape)
        return optimum._replace(evaluations=optimum.evaluations + used + 1)

    def _climb(
        self, packet: Packet, start: np.ndarray, first: Trial, shape: np.ndarray | None, most: int | None = None
    ) -> Optimum:
        # Bilinear votes kink the score, so that a step needs to be looked at; and where no packet before has told the
        # curvature, which the covariance is made of, every step tells of it.
        unseen = shape is not None and self.config.vote == "quadratic"
        reach = STEP_PIXELS / self.pixels_moved(packet)[: len(start)]
        found = maximize(
            lambda point: self._trial(packet, point),
            start,
            first=first,
            reach=reach,
            shape=shape,
            tolerance=_UNSEEN_STEP if unseen else _TOLERANCE,
            max_evaluations=self.config.max_evaluations if most is None else most,
        )
        if not unseen or found.status is not Status.CONVERGED:
            return found
        return found._replace(point=found.point + last_step(found, reach, _UNSEEN_STEP))

    def _judge(self, packet: Packet, optimum: Optimum, still: Score | None, used: int) -> Estimate:
        """Covariance and status of a motion."""
        k, sharpness = self.velocities, sharpness_of(optimum)
        parts = consistencies(packet, optimum.here.detail, len(optimum.point), sharpness, self.pixels)
        by_events = noise_of(optimum, sharpness)
        dispute = parts.dispute
        if not self.config.acceleration:  # a change of the velocity moves all parts in time, and errs in one direction
            dispute = max(dispute, parts.in_time.ratio**2)
        noise = dispute * by_events
        covariance = calibrated(noise[:k, :k]) + hysteresis_of(packet, optimum.point, self.pixels)
        flow = self._flow(optimum, by_events)
        status = self._status(packet, optimum, still, parts, by_events[:k, :k], covariance, flow)
        value, shape = optimum.here.value, optimum.shape
        proof = None if still is None or status is not Status.CONVERGED else self._proof(packet, optimum, still)
        return Estimate(optimum.point, value, covariance, status, shape, used, flow, noise, parts, proof)

    def _proof(self, packet: Packet, optimum: Optimum, still: Score) -> Proof | None:
        gain = optimum.here.value - still.value
        if gain < _BEYOND_DOUBT * _ABOVE_REST or self._against_rest(still) < _BEYOND_DOUBT * REST_CHI2:
            return None
        return Proof(len(packet), (still.value - self._spread(packet)) / len(packet), gain / len(packet))

    def _status(
        self,
        packet: Packet,
        optimum: Optimum,
        still: Score | None,
        parts: Consistencies,
        by_events: np.ndarray,
        covariance: np.ndarray,
        flow: Flow,
    ) -> Status:
        if self.config.rest_test and still is not None and not self._plausible(packet, optimum, still):
            return Status.STALLED
        # Where only parts contradict rest, they move against each other: one at a stop read 141 deg/s.
        moves = still is None or self._against_rest(still) > REST_CHI2
        if self.config.rest_test and (parts.disputed or not moves):
            return Status.DISPUTED
        if self._lost(packet, by_events):
            return Status.DEGENERATE
        if self.config.rest_test and (self._too_short(packet, flow) or self._unknown(packet, optimum, covariance)):
            return Status.DEGENERATE
        return optimum.status

    def _unknown(self, packet: Packet, optimum: Optimum, covariance: np.ndarray) -> bool:
        """Whether the velocity may be anything: where a camera starts or stops within a packet, three in 3,755 were off
        by 33 to 35 deg/s, within deviations of 20 about a velocity of 39 and less."""
        if not self._lost(packet, covariance):
            return False
        velocity = optimum.point[: self.velocities]
        return float(velocity @ np.linalg.solve(covariance, velocity)) < REST_CHI2

    def _too_short(self, packet: Packet, flow: Flow) -> bool:
        """Whether the image has hardly moved in a packet that could have been longer."""
        duration_s = (packet.end_us - packet.start_us) * 1e-6
        moved = max(flow.pixels_per_s * duration_s, flow.pixels_per_s2 * duration_s**2 / 4)
        return duration_s < self.config.packet_s and moved < _SHORTEST_PIXELS

    def _flow(self, optimum: Optimum, by_events: np.ndarray) -> Flow:
        k, spread = self.velocities, by_events.diagonal()
        squares = ((optimum.point**2 - spread).reshape(-1, k) @ self.pixels**2).tolist()
        return Flow(*(math.sqrt(max(0.0, square)) for square in squares))

    def _lost(self, packet: Packet, covariance: np.ndarray) -> bool:
        deviation = math.sqrt(max(0.0, covariance.diagonal().max()))
        return deviation * self.camera.fx * _longest_s(packet) > _LOST_PIXELS

    def _trial(self, packet: Packet, point: np.ndarray) -> Trial:
        return _trial(self.score(packet, point), len(point))


def _longest_s(packet: Packet) -> float:
    """From the packet's reference time to the further one of its ends."""
    return max(packet.end_us - packet.t_ref_us, packet.t_ref_us - packet.start_us) * 1e-6


def _score(scorer: Scorer, packet: Packet, point: np.ndarray) -> Score:
    k = scorer.warp.parameters
    return scorer(packet, point[:k], point[k:] if len(point) > k else None)


def _trial(score: Score, n: int) -> Trial:
    return Trial(score.value, score.gradient[:n], score.fisher[:n, :n], score)
