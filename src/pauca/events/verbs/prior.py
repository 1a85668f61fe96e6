"""A gyroscope as a prior: the options of `pauca events align`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pauca.errors import ConfigError
from pauca.events.gyro_prior import GyroPrior
from pauca.events.gyroscope import GyroFit
from pauca.events.verbs.files import facts
from pauca.events.verbs.gyro import Unit, read_gyro


@dataclass(frozen=True)
class PriorOptions:
    """A gyroscope beside the camera as a prior of each packet's velocity; off by default."""

    gyro_prior: Path | None = None
    """Its readings: UZH imu.txt, a CSV with columns t_s, wx_rad_s, wy_rad_s, wz_rad_s, or a recording that holds
    them."""
    gyro_fit: Path | None = None
    """How it belongs to the camera, as `pauca events gyro --json` prints it; default: on the camera's clock and axes,
    without bias."""
    gyro_unit: Unit = "rad/s"
    """What the rates of these readings are in, whatever their file calls them."""
    gyro_sd_deg_s: float = 1.0
    """Standard deviation of a reading in degrees a second, with what shakes between gyroscope and camera."""

    def read(self) -> GyroPrior | None:
        """The prior, where there is one.

        Raises:
            ConfigError: a fit without readings, or a standard deviation that is not positive.
            InputError: a file that is something else.
        """
        if not self.gyro_sd_deg_s > 0:
            raise ConfigError(f"--gyro-sd-deg-s must be positive, got {self.gyro_sd_deg_s}")
        if self.gyro_prior is None:
            if self.gyro_fit is not None:
                raise ConfigError(
                    "--gyro-fit says how a gyroscope belongs to the camera: add its readings (--gyro-prior)"
                )
            return None
        readings = read_gyro(self.gyro_prior, self.gyro_unit)
        if self.gyro_fit is None:
            return GyroPrior.of_camera(readings, self.gyro_sd_deg_s)
        return GyroPrior.from_fit(GyroFit.from_file(self.gyro_fit), readings, self.gyro_sd_deg_s)

    def about(self) -> list[object] | None:
        """What must be the same for an interrupted run to go on, or for its results to be those of another one."""
        if self.gyro_prior is None:
            return None
        return [facts(self.gyro_prior), facts(self.gyro_fit), self.gyro_sd_deg_s, self.gyro_unit]
