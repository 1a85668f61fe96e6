"""Knots from all windows that hold them."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from pauca.events.types import Status

_EDGE = 0.02  # weight of a window's first and last knot: one side of them is unknown to it
_LEAST_FREEDOM = 0.25  # inner knots have 0.3 to 0.5; at the ends of a recording one window says nearly everything


class Fit(NamedTuple):
    """What one window says about its knots."""

    first: int  # number of its first knot
    velocity: Float[np.ndarray, "knots 3"]
    covariance: Float[np.ndarray, "knots 3 3"]
    score: float
    status: Status
    evaluations: int
    turns_back: bool = False  # whether its motion does, by more than 90 degrees
    unresolved: bool = False  # whether its motion vibrates between the knots
    jerk: float = 0.0  # strength of the jerk that it needed, rad/s^2 per root of a second
    next_jerk: float = 0.0  # what the next window may need


class Blend:
    """Mean of the windows' velocities by how central a knot is in them; Fisher and scatter as its covariance.

    The scatter between windows tells errors that no single window knows of: with it, 95 % intervals cover 92 to
    100 % on six sequences, without it 80 to 90 %, and the largest error is 3 to 8 standard deviations, not 28 to 45.
    """

    def __init__(self, knots: int) -> None:
        self._sum = np.zeros(knots)
        self._sum_of_squares = np.zeros(knots)
        self._velocity = np.zeros((knots, 3))
        self._products = np.zeros((knots, 3, 3))
        self._covariance = np.zeros((knots, 3, 3))
        self._central = np.zeros(knots)
        self.score = np.zeros(knots)
        self.evaluations = np.zeros(knots, np.int64)
        self.turns_back = np.zeros(knots, bool)
        self.unresolved = np.zeros(knots, bool)
        self.status = [Status.DEGENERATE] * knots

    def add(self, fit: Fit) -> None:
        """Take a window in."""
        knots = np.arange(len(fit.velocity))
        middle = knots[-1] / 2
        weight = np.maximum(_EDGE, 1 - np.abs(knots - middle) / middle) ** 2
        at = fit.first + knots
        self._sum[at] += weight
        self._sum_of_squares[at] += weight**2
        self._velocity[at] += weight[:, None] * fit.velocity
        self._products[at] += weight[:, None, None] * fit.velocity[:, :, None] * fit.velocity[:, None, :]
        self._covariance[at] += weight[:, None, None] * fit.covariance
        for k in at[weight > self._central[at]]:  # the rest is the word of the window in whose middle it is
            self.score[k], self.status[k], self.evaluations[k] = fit.score, fit.status, fit.evaluations
            self.turns_back[k], self.unresolved[k] = fit.turns_back, fit.unresolved
        self._central[at] = np.maximum(self._central[at], weight)

    def moments(self) -> tuple[Float[np.ndarray, "knots 3"], Float[np.ndarray, "knots 3 3"]]:
        """Velocities and their covariances."""
        weight = self._sum[:, None, None]
        velocity = self._velocity / weight[:, 0]
        scatter = self._products / weight - velocity[:, :, None] * velocity[:, None, :]
        freedom = np.maximum(1 - self._sum_of_squares / self._sum**2, _LEAST_FREEDOM)
        return velocity, self._covariance / weight + scatter / freedom[:, None, None]
