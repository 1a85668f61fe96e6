"""What the verbs that need a camera's orientation begin with: a recording, its camera, and a trajectory."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from pauca import events
from pauca.events.coverage import covered
from pauca.events.hot_pixels import HotPixels, check_something_left, find_hot_pixels
from pauca.events.passes import Clean
from pauca.events.verbs.calibrated import calibrated
from pauca.events.whole import align_chunks
from pauca.runs import Progress


@dataclass(frozen=True)
class Turned:
    """A recording of a camera that turned as a trajectory says, to be read chunk by chunk."""

    recording: Clean  # without hot pixels
    events: int
    camera: events.Camera
    trajectory: events.Trajectory


def read_turned(
    recording: Path,
    camera: Path | None,
    camera_name: str | None,
    trajectory: Path | None,
    reading: events.ReadConfig,
    quiet: bool,
) -> Turned:
    """Look at a recording's hot pixels, and read its trajectory; align where none is given."""
    stream = events.open_events(recording, reading)
    calibration = calibrated(stream, camera, camera_name)
    hot = find_hot_pixels(stream)
    check_something_left(hot, stream.path.name)
    clean = Clean(stream, hot, without_noise=False)
    if trajectory is not None:
        given = events.Trajectory.from_file(trajectory)
        tell_uncovered(given, hot, quiet)
        return Turned(clean, hot.kept, calibration, given)
    with Progress("align", hot.kept, "events", quiet=quiet) as progress:
        found = align_chunks(
            Clean(stream, hot, without_noise=True),
            calibration,
            events.AlignConfig(),
            lambda a: progress.advance(a.n_events),
        )
    return Turned(clean, hot.kept, calibration, found)


def tell_uncovered(trajectory: events.Trajectory, hot: HotPixels, quiet: bool) -> None:
    """Say what part of a recording's time a trajectory from a file does not cover.

    Raises:
        InputError: all of it.
    """
    left = covered(trajectory, hot.first_us, hot.last_us)
    if left and not quiet:
        print(left, file=sys.stderr)
