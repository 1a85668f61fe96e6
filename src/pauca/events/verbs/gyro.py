"""`pauca events gyro`: when a gyroscope was read, and how it is mounted, found from the camera's own motion."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from tyro.conf import Positional, arg

from pauca import events
from pauca.errors import InputError
from pauca.events.gyroscope import fit_gyro
from pauca.runs import json_text

Unit = Literal["rad/s", "deg/s"]
_TABLES = (".txt", ".csv", ".npz")


def gyro(
    trajectory: Positional[Annotated[Path, arg(metavar="TRAJECTORY")]],
    readings: Positional[Annotated[Path, arg(metavar="GYRO")]],
    within_s: float = 0.2,
    unit: Unit = "rad/s",
    as_json: Annotated[bool, arg(name="json")] = False,
) -> None:
    """Find a gyroscope's time offset, mounting and bias from the motion of its camera, each with a 95 % interval.

    Args:
        trajectory: trajectory.npz or .csv of `pauca events align`.
        readings: UZH imu.txt (t ax ay az gx gy gz), a CSV with columns t_s, wx_rad_s, wy_rad_s, wz_rad_s, or a
            recording that holds the samples of an inertial sensor (AEDAT4, ROS bag).
        within_s: largest offset to look for, in seconds, to either side.
        unit: what its rates are in, whatever the file calls them.
        as_json: print JSON for programs.
    """
    found = fit_gyro(events.Trajectory.from_file(trajectory), read_gyro(readings, unit), within_s)
    if as_json:
        print(json_text(found.as_dict(), indent=2))
        return
    for name, value in found.table():
        print(f"{name:<11} {value}")
    for words in found.untold:
        print(f"not told    {words}")


def read_gyro(path: Path, unit: Unit = "rad/s") -> events.GroundTruth:
    """The readings of a gyroscope, on its own clock and axes; a recording is read chunk by chunk.

    Args:
        path: the file.
        unit: of the rates in it; the answer's are in rad/s.

    Raises:
        InputError: a recording without any, or another file.
    """
    found = events.read_ground_truth(path) if path.suffix in _TABLES else _of_recording(path)
    return found if unit == "rad/s" else events.GroundTruth(found.t_s, np.radians(found.omega_rad_s))


def _of_recording(path: Path) -> events.GroundTruth:
    stream = events.open_events(path)
    for _ in stream:
        pass
    samples = stream.inertial
    if samples is None or len(samples.t_us) < 2:
        raise InputError(f"{path}: holds no samples of a gyroscope")
    return events.GroundTruth(samples.t_us * 1e-6, samples.angular_velocity_rad_s)
