"""The camera of a recording: from a calibration file that is named, or the recording's own."""

from __future__ import annotations

from pathlib import Path

from pauca.errors import InputError
from pauca.events.camera import Camera
from pauca.events.io import EventStream


def calibrated(stream: EventStream, path: Path | None, camera_name: str | None) -> Camera:
    """The camera to use.

    Args:
        stream: the recording.
        path: calibration file, which comes first.
        camera_name: which camera, where the file holds several.

    Raises:
        InputError: neither knows it, or the file cannot be read.
    """
    if path is not None:
        return Camera.from_file(path, stream.size, camera_name)
    if stream.camera is None:
        raise InputError(
            f"{stream.path.name}: {stream.no_camera or 'does not say its camera'}; "
            "add --camera FILE (UZH calib.txt, or YAML of ROS, Kalibr, OpenCV)"
        )
    return stream.camera
