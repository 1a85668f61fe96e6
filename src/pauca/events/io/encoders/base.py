"""What all encoders have in common; their errors leave the name of the file to the writer, who knows it."""

from typing import Protocol, runtime_checkable

import numpy as np

from pauca.errors import InputError
from pauca.events.camera import Camera
from pauca.events.recording import GroundTruth, Inertial
from pauca.events.types import Events


@runtime_checkable
class About(Protocol):
    """What a recording holds beside its events: a `Recording`, or an `EventStream` after its last chunk."""

    @property
    def camera(self) -> Camera | None: ...
    @property
    def ground_truth(self) -> GroundTruth | None: ...
    @property
    def inertial(self) -> Inertial | None: ...
    @property
    def frame_times_us(self) -> np.ndarray | None: ...


@runtime_checkable
class Encoder(Protocol):
    """Writes one file; `notes` says what the format could not hold as it was."""

    notes: list[str]

    def write(self, events: Events) -> None:
        """Add a chunk, which follows the last one in time."""
        ...

    def finish(self, about: About) -> None:
        """Write what stands beside the events, and end the file."""
        ...

    def close(self) -> None:
        """Let go of the file, finished or not."""
        ...


def extras(size: tuple[int, int], about: About) -> dict[str, np.ndarray]:
    """What stands beside the events, as arrays by name."""
    found = {"size": np.asarray(size)}
    if about.camera:
        found |= {"K": np.asarray(about.camera.intrinsics), "D": np.asarray(about.camera.distortion)}
        found["lens"] = np.asarray(about.camera.lens.encode())
    if inertial := about.inertial:
        found |= {"imu_t_us": inertial.t_us, "imu_gyro": inertial.angular_velocity_rad_s}
        found["imu_accel"] = inertial.acceleration_m_s2
    if about.frame_times_us is not None:
        found["frame_t_us"] = about.frame_times_us
    if truth := about.ground_truth:
        found |= {"gt_t": truth.t_s, "gt_w": truth.omega_rad_s}
        if truth.quat_xyzw is not None:
            found["gt_q"] = truth.quat_xyzw
    return found


def left_behind(about: About) -> list[str]:
    """What stands beside the events, in words, for a format that holds events alone."""
    held = {
        "the calibration": about.camera is not None,
        "the ground truth": about.ground_truth is not None,
        "inertial samples": about.inertial is not None and len(about.inertial.t_us) > 0,
        "frames' times": about.frame_times_us is not None and len(about.frame_times_us) > 0,
    }
    names = [name for name, there in held.items() if there]
    return [f"{', '.join(names)} left out: the format holds events alone"] if names else []


def whole_pixels(events: Events, largest: int) -> None:
    """Refuse what a format of whole pixels cannot hold.

    Raises:
        InputError: undistorted pixels, or a sensor with more pixels to a side than `largest`.
    """
    if events.undistorted:
        raise InputError("this format holds whole pixels, and these have fractions; write .npz, .h5 or .txt")
    if max(events.size) > largest:
        raise InputError(f"this format holds up to {largest} pixels to a side, and the sensor has {events.size}")
