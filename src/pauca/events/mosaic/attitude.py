"""How the camera stands at any time: the integral of its velocity, with corrections."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int64, Num
from scipy.spatial.transform import Rotation

from pauca.errors import InputError
from pauca.events.given import expect
from pauca.events.trajectory import Trajectory, decimal_seconds, microseconds
from pauca.runs import write_text

_STEP_US = 1000  # between entries of the table; within, the rotation is expanded to second order


@dataclass(frozen=True, eq=False)
class Attitude:
    """Rotations from camera coordinates at a time to those at the first time, in steps of a millisecond."""

    begin_us: int
    turned: Float[np.ndarray, "m 3 3"]  # at begin_us + i * 1000
    velocity: Float[np.ndarray, "m 3"]  # rad/s of the camera, in its own axes, there

    @classmethod
    def from_trajectory(cls, trajectory: Trajectory) -> "Attitude":
        """Integrate a trajectory's velocity, which is taken to be linear between its trusted rows.

        Raises:
            InputError: it is a translation, or none of its rows can be trusted.
        """
        trajectory = expect(trajectory, Trajectory)
        if trajectory.motion != "rotation":
            raise InputError("the trajectory is a translation: only rotations turn a camera")
        if not trajectory.trusted.any():
            raise InputError("no velocity of the trajectory can be trusted, so there is no orientation")
        begin_us, end_us = int(trajectory.start_us.min()), int(trajectory.end_us.max())
        times_us = np.arange(begin_us, end_us + _STEP_US, _STEP_US)
        velocity = trajectory.at(times_us)
        steps = Rotation.from_rotvec((velocity[1:] + velocity[:-1]) / 2 * (_STEP_US * 1e-6)).as_matrix()
        turned = np.empty((len(times_us), 3, 3))
        turned[0] = np.eye(3)
        for i, step in enumerate(steps):
            turned[i + 1] = turned[i] @ step
        return cls(begin_us, turned, velocity)

    @property
    def times_us(self) -> Int64[np.ndarray, "m"]:
        """Times of the table."""
        return self.begin_us + _STEP_US * np.arange(len(self.turned))

    def at(self, t_us: Num[np.ndarray, "*n"] | Sequence[int | float] | int | float) -> Rotation:
        """Rotations from camera coordinates at these times to those at the first time.

        Args:
            t_us: one time or several, in microseconds; beyond the ends the camera goes on as it did there.

        Raises:
            InputError: times that are no numbers, or that are seconds.
        """
        index, dt_s = self._place(microseconds(t_us, self.begin_us, int(self.times_us[-1])))
        return Rotation.from_matrix(self.turned[index]) * Rotation.from_rotvec(self.velocity[index] * dt_s[..., None])

    def rays(
        self, t_us: Int64[np.ndarray, "n"], x: Float[np.ndarray, "n"], y: Float[np.ndarray, "n"]
    ) -> Float[np.ndarray, "n 3"]:
        """Directions (not of unit length) in camera coordinates of the first time in which bearings (x, y, 1) lay."""
        index, dt_s = self._place(t_us)
        ray = np.stack([x, y, np.ones_like(x)], axis=1).astype(float)
        turn = self.velocity[index] * dt_s[:, None]
        once = np.cross(turn, ray)
        ray += once + np.cross(turn, once) / 2
        return np.einsum("nij,nj->ni", self.turned[index], ray)

    def corrected(self, t_us: Int64[np.ndarray, "k"], by: Float[np.ndarray, "k 3"]) -> "Attitude":
        """With rotation vectors, in coordinates of the first time, that apply at given times; linear between them."""
        vectors = np.stack([np.interp(self.times_us, t_us, axis) for axis in by.T], axis=1)
        return replace(self, turned=Rotation.from_rotvec(vectors).as_matrix() @ self.turned)

    def _place(self, t_us: Num[np.ndarray, "*n"]) -> tuple[np.ndarray, np.ndarray]:
        index = np.clip((t_us - self.begin_us) // _STEP_US, 0, len(self.turned) - 1).astype(np.int64, copy=False)
        return index, (t_us - self.begin_us - index * _STEP_US) * 1e-6

    def to_tum(self, path: str | Path, t_us: Int64[np.ndarray, "n"] | None = None, force: bool = False) -> None:
        """Write orientations as `t x y z qx qy qz qw`, seconds and a place that stays zero: the format of TUM's tools.

        Args:
            path: the file.
            t_us: times, in microseconds; None for every millisecond.
            force: replace a file that is there already.

        Raises:
            InputError: `path` exists and `force` is not set.
        """
        times_us = self.times_us if t_us is None else t_us
        lines = [
            f"{decimal_seconds(int(time_us))} 0 0 0 {x:.9f} {y:.9f} {z:.9f} {w:.9f}"
            for time_us, (x, y, z, w) in zip(times_us, self.at(times_us).as_quat(), strict=True)
        ]
        write_text(Path(path), "\n".join(lines) + "\n", force)
