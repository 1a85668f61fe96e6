"""The velocity as a function of time, linear between knots: for whole recordings, from the packets' velocities."""

from pauca.events.continuous.config import TrajectoryConfig
from pauca.events.continuous.estimator import refine
from pauca.events.continuous.reconcile import reconciled
from pauca.events.continuous.window import WindowScorer

__all__ = ["TrajectoryConfig", "WindowScorer", "reconciled", "refine"]
