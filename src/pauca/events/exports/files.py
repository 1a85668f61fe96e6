"""A trajectory in a file of another program; the ending says which."""

from pathlib import Path

import numpy as np

from pauca.errors import ConfigError, InputError
from pauca.events.camera import Camera
from pauca.events.coverage import with_events
from pauca.events.exports.mcap import write_mcap
from pauca.events.exports.viewer import Viewer, check_viewer, open_viewer
from pauca.events.given import expect, path_of
from pauca.events.passes import Chunks, parts_of, pieces_between
from pauca.events.recording import camera_of
from pauca.events.trajectory import Trajectory, decimal_seconds
from pauca.runs import atomic_write, check_can_write, write_text

ENDINGS = (".txt", ".tum", ".mcap", ".rrd")


def export(
    path: str | Path,
    trajectory: Trajectory,
    recording: Chunks | None = None,
    camera: Camera | None = None,
    force: bool = False,
) -> None:
    """Write a trajectory for another program.

    >>> trajectory = align(recording)
    >>> export("orientation.txt", trajectory)  # TUM: t x y z qx qy qz qw
    >>> export("motion.mcap", trajectory)  # sensor_msgs/Imu and geometry_msgs/TwistWithCovarianceStamped

    Args:
        path: .txt or .tum for the orientation as TUM's tools read it, .mcap for ROS 2, .rrd for Rerun.
        trajectory: rotations; .rrd takes translations, too. Velocities that cannot be trusted are left out of .mcap;
            the orientation passes over them.
        recording: for .rrd: its events are shown, as they were seen and with the camera's rotation taken out.
        camera: calibration, where the recording does not bring its own.
        force: replace a file that is there already.

    Raises:
        ConfigError: another ending, or a recording for a format that shows none.
        InputError: `path` exists and `force` is not set, a translation where that has no meaning, no camera, or no
            event at the time of the trajectory.
        PaucaError: .rrd without the package that writes it.
    """
    path, trajectory = path_of(path), expect(trajectory, Trajectory)
    check_export(path, force, recording is not None)
    if path.suffix.lower() == ".rrd":
        with atomic_write(path, force) as temporary:
            _write_rrd(temporary, trajectory, recording, camera)
        return
    if trajectory.motion != "rotation":
        raise InputError(
            f"{path}: the trajectory is a translation in focal lengths a second, which {path.suffix} lacks"
        )
    if not trajectory.trusted.any():
        raise InputError(f"{path}: no velocity of the trajectory can be trusted, so there is nothing to write")
    if path.suffix.lower() == ".mcap":
        write_mcap(path, trajectory, force)
    else:
        _write_tum(path, trajectory, force)


def check_export(path: Path, force: bool = False, with_recording: bool = False) -> None:
    """Refuse early what `export` would refuse after long work; errors as there."""
    ending = path.suffix.lower()
    if ending not in ENDINGS:
        raise ConfigError(f"{path}: trajectories are exported as {', '.join(ENDINGS[:-1])} or {ENDINGS[-1]}")
    if with_recording and ending != ".rrd":
        raise ConfigError(f"{path}: {ending} holds no events; a recording is for .rrd")
    if ending == ".rrd":
        check_viewer(str(path))
    check_can_write(path, force)


def _write_tum(path: Path, trajectory: Trajectory, force: bool) -> None:
    rows = zip(trajectory.t_us.tolist(), trajectory.orientation().tolist(), strict=True)
    lines = [f"{decimal_seconds(t_us)} 0 0 0 {x:.9f} {y:.9f} {z:.9f} {w:.9f}" for t_us, (x, y, z, w) in rows]
    write_text(path, "\n".join(lines) + "\n", force)


def _write_rrd(path: Path, trajectory: Trajectory, recording: Chunks | None, camera: Camera | None) -> None:
    calibration = None if recording is None else camera_of(recording, camera)
    sd = np.sqrt(np.maximum(np.diagonal(trajectory.covariance, axis1=1, axis2=2), 0))
    windows = [None] * len(trajectory)
    if recording is not None:
        edges_us = np.append(trajectory.start_us, trajectory.end_us[-1:] + 1)
        pieces = pieces_between(parts_of(recording), np.maximum.accumulate(edges_us))
        windows = with_events(pieces, trajectory)
    with open_viewer(str(path)) as stream:
        viewer = Viewer(stream, calibration, trajectory.motion)
        for i, window in enumerate(windows):
            status, velocity = trajectory.status[i], trajectory.velocity[i]
            viewer.add(int(trajectory.t_us[i]), velocity, sd[i], status, window)
