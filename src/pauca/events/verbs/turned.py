"""What the verbs that need a camera's orientation begin with: a recording, its camera, and a trajectory."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pauca import events
from pauca.events.verbs.calibrated import calibrated
from pauca.runs import Progress


@dataclass(frozen=True)
class Turned:
    """A recording of a camera that turned as a trajectory says."""

    recording: events.Recording
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
    """Read a recording without its hot pixels, and its trajectory; align where none is given."""
    loaded = events.remove_hot_pixels(events.read(recording, **vars(reading)))
    calibration = calibrated(loaded.name, loaded.events.size, loaded.camera, camera, camera_name)
    if trajectory is not None:
        return Turned(loaded, calibration, events.Trajectory.from_file(trajectory))
    with Progress("align", len(loaded.events), "events", quiet=quiet) as progress:
        found = events.align(
            loaded, calibration, events.AlignConfig(remove_hot_pixels=False), lambda a: progress.advance(a.n_events)
        )
    return Turned(loaded, calibration, found)
