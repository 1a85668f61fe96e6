"""`pauca events video`: a recording as a video, as it was seen and with the camera's rotation taken out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from pauca import events
from pauca.events.verbs.files import stem
from pauca.events.verbs.turned import read_turned
from pauca.events.video import VideoConfig, check_video, frames, longer_than_asked, write_video


def video(
    recording: Positional[Annotated[Path, arg(metavar="RECORDING")]],
    camera: Path | None = None,
    camera_name: str | None = None,
    trajectory: Path | None = None,
    config: VideoConfig = VideoConfig(),  # noqa: B008 - frozen
    out: Path | None = None,
    reading: events.ReadConfig = events.ReadConfig(),  # noqa: B008 - frozen
    force: bool = False,
    quiet: bool = False,
) -> None:
    """Write a video of a recording: left as the sensor saw it, right with the camera's rotation taken out.

    Args:
        recording: events in any format that pauca reads.
        camera: calibration file, for recordings without their own.
        camera_name: which camera, where the calibration file holds several; default: cam0.
        trajectory: trajectory.npz or .csv of `pauca events align`; default: align now.
        config: frames, speed, and what the stabilized side does.
        out: a .gif, or an .mp4 (with pip install 'pauca[video]'); default: the recording's name .gif, in runs/events.
        reading: how the file is read.
        force: replace a video that is there already.
        quiet: print only errors.
    """
    out = out or Path("runs/events") / stem(recording) / "video.gif"
    check_video(out, force)
    turned = read_turned(recording, camera, camera_name, trajectory, reading, quiet)
    shown = frames(turned.recording, turned.trajectory, turned.camera, config)
    count = write_video(out, shown, config.fps / config.slower, force)
    if not quiet:
        times = longer_than_asked(out, config.fps / config.slower)
        longer = f": {times:.3g} times as long, as a GIF shows 50 frames a second at most" if times > 1 else ""
        print(f"wrote {count} frames to {out}{longer}")
