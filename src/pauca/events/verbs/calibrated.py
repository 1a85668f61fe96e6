"""The camera of a recording: from a calibration file that is named, or the recording's own."""

from __future__ import annotations

from pathlib import Path

from pauca.errors import InputError
from pauca.events.camera import Camera


def calibrated(
    name: str, size: tuple[int, int], own: Camera | None, path: Path | None, camera_name: str | None
) -> Camera:
    """The camera to use.

    Args:
        name: of the recording, for the error.
        size: width and height of its sensor in pixels.
        own: the recording's own camera, where it has one.
        path: calibration file, which comes first.
        camera_name: which camera, where the file holds several.

    Raises:
        InputError: neither is known, or the file cannot be read.
    """
    if path is not None:
        return Camera.from_file(path, size, camera_name)
    if own is None:
        raise InputError(
            f"{name}: does not say its camera; add --camera FILE (UZH calib.txt, or YAML of ROS, Kalibr, OpenCV)"
        )
    return own
