"""A gyroscope's rates as a Gaussian prior of the velocity of each packet.

The search of a packet begins at what the gyroscope shows, unless what the packets before tell agrees with it; and the
answer of the events is combined with it by their covariances. Events that cannot tell leave the answer to the
gyroscope; events that contradict it are said to.
"""

import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from pauca.errors import ConfigError, InputError
from pauca.events.given import check_kinds, expect, number_of
from pauca.events.gyroscope import GyroFit
from pauca.events.packets import Estimate
from pauca.events.recording import GroundTruth, Inertial, gyro_of, velocities_of
from pauca.events.score import REST_CHI2
from pauca.events.types import Events, Packet, Status

_log = logging.getLogger(__name__)

_FEWEST = 4  # readings from which on a line is fitted to them
_NEAR_US = 2_500  # from a time, of the readings that tell the velocity then
_SHORTEST_STEP_US = 10  # between readings, in the median: gyroscopes are read up to 32,000 times a second
_MOST_TURNED_RAD = 2.0  # however a gyroscope is mounted, what it shows is off by twice its size at most
_LONGEST_GAP_US = 50_000  # between readings: beyond, nothing is known of a packet that lies there


class Expected(NamedTuple):
    """What the gyroscope says of a packet."""

    velocity: Float[np.ndarray, "3"]  # rad/s at the packet's reference time
    acceleration: Float[np.ndarray, "3"]
    covariance: Float[np.ndarray, "3 3"]  # of the velocity

    def allows(self, velocity: Float[np.ndarray, "3"]) -> bool:
        """Whether it may have shown this at a velocity: one in a thousand times it would not."""
        apart = velocity - self.velocity
        return bool(apart @ np.linalg.solve(self.covariance, apart) <= REST_CHI2)


@dataclass(frozen=True, eq=False)
class GyroPrior:
    """Readings of a gyroscope, as the camera would have had them.

    >>> prior = GyroPrior.of_camera(recording.ground_truth)
    >>> aligner = Aligner(camera, prior=prior)

    A gyroscope has a clock and axes of its own: `GyroPrior.from_fit(fit_gyro(trajectory, gyro), gyro)`.

    Raises:
        InputError: fewer than two readings, or none that follow each other as those of a gyroscope do.
        ConfigError: a standard deviation that is not positive, or of the others one that is negative or not finite.
    """

    t_us: Float[np.ndarray, "n"]  # on the camera's clock
    omega_rad_s: Float[np.ndarray, "n 3"]  # about the camera's axes, without bias
    sd_rad_s: float  # of a reading, with what shakes between gyroscope and camera
    offset_sd_s: float = 0.0
    axes_sd_rad: float = 0.0
    bias_sd_rad_s: float = 0.0

    def __post_init__(self) -> None:
        try:
            seconds = np.asarray(self.t_us, float) * 1e-6
        except (TypeError, ValueError) as error:
            raise InputError(f"times of readings must be numbers ({error})") from None
        known = velocities_of(GroundTruth(seconds, self.omega_rad_s))
        object.__setattr__(self, "t_us", np.asarray(self.t_us, float))
        object.__setattr__(self, "omega_rad_s", known.omega_rad_s)
        check_kinds(self)
        if len(self.t_us) < 2:
            raise InputError(f"a prior needs two or more readings of a gyroscope, got {len(self.t_us)}")
        apart_us = np.diff(self.t_us)
        if np.median(apart_us) < _SHORTEST_STEP_US or apart_us.min() > _LONGEST_GAP_US:
            raise InputError(
                f"the readings of a gyroscope are {np.median(apart_us):g} us apart, and {_SHORTEST_STEP_US} to "
                f"{_LONGEST_GAP_US:,} us are expected of a prior: are its times (t_us) microseconds?"
            )
        if not 0 < self.sd_rad_s < np.inf:
            raise ConfigError(f"the standard deviation of a gyroscope must be positive, got {self.sd_rad_s} rad/s")
        for name in ("offset_sd_s", "axes_sd_rad", "bias_sd_rad_s"):
            if not 0 <= getattr(self, name) < np.inf:
                raise ConfigError(
                    f"GyroPrior: {name} must be a number from 0 on, got {getattr(self, name)}; of a fit that leaves it "
                    "open, fit another motion, with turns about all axes"
                )

    @classmethod
    def from_fit(cls, fit: GyroFit, gyro: GroundTruth | Inertial, sd_deg_s: float = 1.0) -> "GyroPrior":
        """Readings with the offset, mounting and bias that `fit_gyro` found, and what it leaves open.

        Args:
            fit: how the gyroscope belongs to the camera.
            gyro: its readings, on its own clock and axes.
            sd_deg_s: standard deviation of a reading.
        """
        seen = expect(fit, GyroFit).apply(gyro)
        return cls(
            seen.t_s * 1e6,
            seen.omega_rad_s,
            float(np.radians(number_of("sd_deg_s", sd_deg_s))),
            fit.offset_sd_s,
            min(float(np.radians(fit.axes_sd_deg.max())), _MOST_TURNED_RAD),
            float(fit.bias_sd_rad_s.max()),
        )

    @classmethod
    def of_camera(cls, gyro: GroundTruth | Inertial, sd_deg_s: float = 1.0) -> "GyroPrior":
        """Readings that are on the camera's clock and about its axes already, without bias."""
        gyro = gyro_of(gyro)
        return cls(gyro.t_s * 1e6, gyro.omega_rad_s, float(np.radians(number_of("sd_deg_s", sd_deg_s))))

    def expected(self, packet: Packet, accelerates: bool = True) -> Expected | None:
        """What the readings say of a packet; None where the gyroscope was not read.

        Args:
            packet: its times.
            accelerates: whether the velocity is one at the packet's reference time, or one for all of the packet.
        """
        if not self.reads(packet.start_us, packet.end_us):
            return None
        t_us = packet.t_ref_us if accelerates else (packet.start_us + packet.end_us) // 2
        # A line through all readings says how the velocity changes; what it is at one time, those near it say: a
        # packet may last for several periods of a vibration.
        _, acceleration = self._line(packet.start_us, packet.end_us, t_us)
        near_us = _NEAR_US if accelerates else max(_NEAR_US, (packet.end_us - packet.start_us) / 2)
        velocity, steepness = self._line(t_us - near_us, t_us + near_us, t_us)
        open_ = [self.sd_rad_s, self.bias_sd_rad_s, self.axes_sd_rad * np.linalg.norm(velocity)]
        sd = np.sqrt(np.sum(np.square(open_)) + (self.offset_sd_s * steepness) ** 2)
        return Expected(velocity, acceleration, np.diag(sd**2))

    def reads(self, start_us: int, end_us: int) -> bool:
        """Whether the gyroscope was read before these times, after them, and without a gap between."""
        first, end = np.searchsorted(self.t_us, [start_us, end_us], side="left")
        around = self.t_us[max(first - 1, 0) : end + 1]
        return bool(first > 0 and end < len(self.t_us) and np.diff(around).max(initial=0) <= _LONGEST_GAP_US)

    def check_read(self, first_us: int, last_us: int) -> None:
        """Refuse readings of another time than that of a recording, whose events begin and end so.

        Raises:
            InputError: all lie before the recording, or after it.
        """
        if self.t_us[-1] < first_us or self.t_us[0] > last_us:
            raise InputError(self._elsewhere(first_us, last_us))

    def check_begun(self, events: Events) -> None:
        """As `check_read`, of the first events of a stream: where all readings follow them, it may still get there, and
        that is logged."""
        if len(events) == 0:
            return
        first_us, last_us = int(events.t_us[0]), int(events.t_us[-1])
        if self.t_us[-1] < first_us:
            raise InputError(self._elsewhere(first_us, last_us))
        if self.t_us[0] > last_us:
            _log.warning("%s", self._elsewhere(first_us, last_us))

    def within(self, parts: Iterable[Events], ends: bool = False) -> Iterator[Events]:
        """The parts of a recording in order; as `check_read`, as soon as it is known.

        Args:
            parts: of any size.
            ends: whether the first one is the last, too.
        """
        times_us: list[int] = []
        for part in parts:
            if len(part):
                times_us = [*times_us[:1], int(part.t_us[0]), int(part.t_us[-1])]
                later_us = times_us[-1] if ends else int(self.t_us[0])  # the recording may get there
                self.check_read(times_us[0], max(times_us[-1], later_us))
            yield part
        if times_us:
            self.check_read(times_us[0], times_us[-1])

    def _elsewhere(self, first_us: int, last_us: int) -> str:
        return (
            f"the gyroscope was read at {in_seconds(int(self.t_us[0]), int(self.t_us[-1]))}, and the events lie at "
            f"{in_seconds(first_us, last_us)}: are both on one clock? `pauca events gyro` finds an offset (--gyro-fit; "
            "in Python fit_gyro and GyroPrior.from_fit)"
        )

    def _line(self, start_us: int | float, end_us: int | float, t_us: int) -> tuple[np.ndarray, np.ndarray]:
        """Value at a time, and slope a second, of the line through the readings of a stretch around it."""
        first, end = np.searchsorted(self.t_us, [start_us, end_us], side="left")
        if end - first >= _FEWEST:
            seconds = (self.t_us[first:end] - t_us) * 1e-6
            value, slope = np.polynomial.polynomial.polyfit(seconds, self.omega_rad_s[first:end], 1)
            return value, slope
        times = np.array([t_us, start_us, end_us])
        value, begun, ended = np.stack([np.interp(times, self.t_us, axis) for axis in self.omega_rad_s.T], axis=1)
        return value, (ended - begun) / max((end_us - start_us) * 1e-6, 1e-6)


def in_seconds(first_us: int, last_us: int) -> str:
    """A stretch of time in words."""
    return f"{first_us / 1e6:.3f} to {last_us / 1e6:.3f} s"


def combined(estimate: Estimate, expected: Expected) -> Estimate:
    """What events and gyroscope say together.

    Where the events tell a motion, the mean of both, weighted by their covariances. Where they tell none, or their
    parts contradict each other, what the gyroscope says. Where both are sure and contradict each other by more than
    chance (one in a thousand), what the gyroscope says, DISPUTED. A camera that rests by both rests.
    """
    point, covariance = estimate.point.copy(), expected.covariance
    if estimate.status not in (Status.CONVERGED, Status.REST):
        point[:3] = expected.velocity
        point[3:] = expected.acceleration[: len(point) - 3]
        return estimate._replace(point=point, covariance=covariance, status=Status.CONVERGED)
    apart, both = expected.velocity - point[:3], estimate.covariance + covariance
    if apart @ np.linalg.solve(both, apart) > REST_CHI2:
        point[:3] = expected.velocity
        return estimate._replace(point=point, covariance=covariance, status=Status.DISPUTED)
    if estimate.status is Status.REST:
        return estimate
    gain = np.linalg.solve(both, estimate.covariance).T
    point[:3] += gain @ apart
    left = (np.eye(3) - gain) @ estimate.covariance
    return estimate._replace(point=point, covariance=(left + left.T) / 2)
