"""`pauca events export`: a trajectory for other programs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from pauca import events
from pauca.errors import ConfigError
from pauca.events.exports.files import check_export
from pauca.events.exports.files import export as write_export
from pauca.events.hot_pixels import find_hot_pixels
from pauca.events.passes import Clean
from pauca.events.verbs.calibrated import calibrated
from pauca.events.verbs.turned import tell_uncovered


def export(
    trajectory: Positional[Annotated[Path, arg(metavar="TRAJECTORY")]],
    out: Positional[Annotated[Path, arg(metavar="OUT")]],
    recording: Path | None = None,
    camera: Path | None = None,
    camera_name: str | None = None,
    reading: events.ReadConfig = events.ReadConfig(),  # noqa: B008 - frozen
    force: bool = False,
    quiet: bool = False,
) -> None:
    """Write a trajectory for other programs: TUM's tools, ROS 2 or the Rerun viewer; the ending says which.

    A .txt (or .tum) holds lines of t x y z qx qy qz qw; an .mcap holds sensor_msgs/Imu and
    geometry_msgs/TwistWithCovarianceStamped; an .rrd (with pip install 'pauca[viewer]') holds plots and, with
    --recording, the events as they were seen and with the camera's rotation taken out.

    Args:
        trajectory: trajectory.npz or .csv of `pauca events align`.
        out: file to write: .txt, .tum, .mcap or .rrd.
        recording: the recording that was aligned, to be shown in an .rrd.
        camera: calibration file, for a recording without its own.
        camera_name: which camera, where the calibration file holds several; default: cam0.
        reading: how the recording is read.
        force: replace a file that is there already.
        quiet: print only errors.
    """
    check_export(out, force, recording is not None)
    if camera is not None and recording is None:
        raise ConfigError("--camera is for the events of a --recording, and none is given")
    found = events.Trajectory.from_file(trajectory)
    if recording is None:
        write_export(out, found, force=force)
    else:
        stream = events.open_events(recording, reading)
        calibration = calibrated(stream, camera, camera_name)
        hot = find_hot_pixels(stream)
        tell_uncovered(found, hot, quiet)
        shown = Clean(stream, hot, without_noise=False)
        write_export(out, found, shown, calibration, force)
    if not quiet:
        left = "" if found.trusted.all() else f"; {len(found) - int(found.trusted.sum())} are not trusted"
        print(f"wrote {out}: {len(found)} velocities{left}")
