"""The most probable velocities at the knots of one window."""

from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float

from pauca.events.continuous.blend import Fit
from pauca.events.continuous.config import TrajectoryConfig
from pauca.events.continuous.dispute import Warped, dispute
from pauca.events.continuous.groups import directions_of_motion
from pauca.events.continuous.prior import precision
from pauca.events.continuous.window import Window, WindowScorer
from pauca.events.newton import Trial, last_step, maximize
from pauca.events.types import Status

FEWEST_EVENTS = 50  # below, a window is not fitted
_REACH_PIXELS = 8.0  # longest step of the solver, as displacement of events at the ends of the window
_SHORTEST_S = 0.004  # for the reach of very short windows
_TURNING_TOLERANCE = 0.2  # of windows that turn: flat ones, in which a search that stopped sooner was off by 20 deg/s
_SHARPNESSES = 0.3, 8.0  # range of the curvature over the Fisher matrix: 1 to 3 on texture, 2 to 6 on shapes
# Least curvature over the Fisher matrix with which a search begins in a window that turns. What is learned there, .3 to
# .5, is that of the way to the maximum, along which the score is flat; along a first step it is 1 to 1.5. With less the
# step is too long: on texture 17 and 22 % fewer images are scored than without this, for the same errors.
_STEEP = 1.0
_TELLING_NATS = 4.0  # twice what a step must be worth to tell of the curvature
_TOLERANCE = 2.0  # nats that a step may promise at the end; it is taken without looking: a fifth changes no figure
_SHARE_OF_JERK = 0.5  # half of the true strength is as good or better, and what packets show has their errors in it
_SURPRISE = 2.0  # a window that bends so much more than expected is fitted again with a weaker prior
_BEYOND = 1.5  # times what it shows: the prior that was too strong has straightened it
_CONTENT = 1.2  # once more where it then bends so much more again
_NOISE = 1.25  # covariance of the gradient over the Fisher matrix: from the matrix of trials with seed 1
_RELABEL = 0.02  # share of events that belong to another direction after a search, from which on it is repeated
_BACK_DEG = 90.0  # turn of the direction from which on a motion turns back
_VAGUE = 1e-2  # information that keeps the prior from being singular where nothing is known; (s/rad)^2


@dataclass(eq=False)
class KnotEstimator:
    """Fits windows: the likelihood of their events and a prior on how fast the acceleration changes."""

    scorer: WindowScorer
    config: TrajectoryConfig
    _seen: dict[bool, float] = field(default_factory=lambda: {False: 2.0, True: 1.0}, init=False, repr=False)

    def fit(
        self,
        first: int,
        knots_us: Float[np.ndarray, "knots"],
        start: Float[np.ndarray, "knots 3"],
        window: Window,
        pinned: Float[np.ndarray, "knots 3 3"],
        jerk: float,
    ) -> Fit:
        """Fit one window; where it bends far more than expected, once more with a weaker prior.

        Args:
            first: number of its first knot, for whoever puts windows together.
            knots_us: times of its knots.
            start: where the search begins; it also says which events share an image.
            window: its events.
            pinned: what else says that a knot is at rest, as information.
            jerk: strength of the jerk that is expected, rad/s^2 per root of a second.
        """
        found = self._fit(first, knots_us, start, window, pinned, jerk)
        shown, limit = _jerk(found.velocity, knots_us), _SURPRISE
        while self.config.jerk is None and shown > limit * jerk:
            jerk, limit = _BEYOND * shown, _CONTENT
            found = self._fit(first, knots_us, found.velocity, window, pinned, jerk)
            shown = _jerk(found.velocity, knots_us)
        return found._replace(jerk=jerk, next_jerk=min(jerk, _BEYOND * shown))

    def _fit(
        self,
        first: int,
        knots_us: Float[np.ndarray, "knots"],
        start: Float[np.ndarray, "knots 3"],
        window: Window,
        pinned: Float[np.ndarray, "knots 3 3"],
        jerk: float,
    ) -> Fit:
        prior = precision(knots_us * 1e-6, _SHARE_OF_JERK * jerk)
        for k, information in enumerate(pinned):
            prior[3 * k : 3 * k + 3, 3 * k : 3 * k + 3] += information
        if len(window.x) < FEWEST_EVENTS:
            information = prior + _VAGUE * np.eye(len(prior))
            covariance = _covariance(information, information)
            status = Status.CONVERGED if pinned.any(axis=(1, 2)).all() else Status.DEGENERATE
            return Fit(first, np.zeros_like(start), covariance, 0.0, status, 0)
        window = window.grouped(start, self.config.turn_deg)
        found = self._search(first, knots_us, start, window, prior)
        again = window.grouped(found.velocity, self.config.turn_deg)
        if not again.alike(window, _RELABEL):
            found = self._search(first, knots_us, found.velocity, again, prior)
        return found

    def _search(self, first: int, knots_us: np.ndarray, start: np.ndarray, window: Window, prior: np.ndarray) -> Fit:
        turns = window.images > 2
        weight, sharpness = window.weight * (self.config.turning if turns else 1.0), self._seen[turns]
        steepness = max(sharpness, _STEEP) if turns else sharpness
        begin: list[Trial] = []

        def posterior(point: np.ndarray) -> Trial:
            trial = self.scorer(window, point.reshape(start.shape))
            begin.append(trial)
            pull = prior @ point
            value = weight * trial.value - float(point @ pull) / 2
            information = steepness * weight * trial.fisher + prior
            return Trial(value, weight * trial.gradient - pull, information, trial)

        reach = self._reach(knots_us)
        found = maximize(posterior, start.ravel(), reach=reach, tolerance=_TURNING_TOLERANCE if turns else _TOLERANCE)
        end: Trial = found.here.detail
        self._learn(turns, found.point - start.ravel(), begin[0], end)
        parts = dispute(window, Warped(*end.detail), self.scorer.frame, len(prior), sharpness)
        point = found.point + last_step(found, reach)
        velocity = point.reshape(start.shape)
        noise = _NOISE * weight * window.weight * end.fisher + prior
        covariance = parts.factor * _covariance(self._seen[turns] * weight * end.fisher + prior, noise)
        status = Status.DISPUTED if parts.over_sensor and found.status is Status.CONVERGED else found.status
        back = bool(directions_of_motion(window.basis @ velocity, _BACK_DEG)[-1])
        return Fit(first, velocity, covariance, end.value, status, found.evaluations, back, parts.in_time)

    def _learn(self, turns: bool, moved: Float[np.ndarray, "size"], begin: Trial, end: Trial) -> None:
        """Take in the ratio of curvature and Fisher matrix that a search has seen along its way."""
        information = float(moved @ (begin.fisher + end.fisher) @ moved) / 2
        if information > _TELLING_NATS:
            seen = float(moved @ (begin.gradient - end.gradient)) / information
            self._seen[turns] = float(np.sqrt(self._seen[turns] * np.clip(seen, *_SHARPNESSES)))

    def _reach(self, knots_us: Float[np.ndarray, "knots"]) -> Float[np.ndarray, "3*knots"]:
        """Longest step of each velocity, rad/s."""
        half_s = max((knots_us[-1] - knots_us[0]) * 0.5e-6, _SHORTEST_S)
        knots = len(knots_us)
        return np.full(3 * knots, np.sqrt(knots) * _REACH_PIXELS / (self.scorer.frame.camera.fx * half_s))


def _jerk(velocity: Float[np.ndarray, "knots 3"], knots_us: Float[np.ndarray, "knots"]) -> float:
    """Strength of the jerk that the bends of a velocity show, of the axis that bends most."""
    bends = precision(knots_us * 1e-6, 1.0)[::3, ::3]
    squares = np.einsum("ka,kj,ja->a", velocity, bends, velocity)
    return float(np.sqrt(max(0.0, squares.max()) / max(1, len(velocity) - 2)))


def _covariance(
    curvature: Float[np.ndarray, "size size"], noise: Float[np.ndarray, "size size"]
) -> Float[np.ndarray, "knots 3 3"]:
    """Covariance of the velocity at each knot, the sandwich of the posterior's curvature and of its gradient's
    covariance; infinite where the curvature says nothing."""
    knots = len(curvature) // 3
    try:
        inverse = np.linalg.inv(curvature)
    except np.linalg.LinAlgError:
        return np.full((knots, 3, 3), np.inf)
    covariance = inverse @ noise @ inverse
    if not np.diag(covariance).min() >= 0:  # nothing but rounding errors
        return np.full((knots, 3, 3), np.inf)
    return np.stack([covariance[3 * k : 3 * k + 3, 3 * k : 3 * k + 3] for k in range(knots)])
