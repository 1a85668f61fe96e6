"""Calibration files to a `Camera`: UZH `calib.txt`, and YAML of ROS camera_info, Kalibr camchain or OpenCV."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from pauca.errors import InputError
from pauca.events.camera import Camera

_Calibration = tuple[tuple[int, int] | None, list[float]]


def read_camera(path: Path, size: tuple[int, int] | None = None) -> Camera:
    """What `Camera.from_file` reads; arguments and errors as there."""
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read as a calibration ({error})") from None
    found_size, numbers = _parse_numbers(text, path) or _parse_yaml(text, path)
    if size and found_size and tuple(size) != tuple(found_size):
        raise InputError(f"{path}: calibrated for {found_size} pixels, but the sensor has {tuple(size)}")
    chosen = found_size or size
    if chosen is None:
        raise InputError(f"{path}: does not say the size of the sensor; give it, such as size=(240, 180)")
    return Camera((int(chosen[0]), int(chosen[1])), *numbers)


def _parse_numbers(text: str, path: Path) -> _Calibration | None:
    """UZH calib.txt: fx fy cx cy k1 k2 p1 p2 k3 on one line; None where the text is something else."""
    try:
        numbers = [float(word) for word in text.split()]
    except ValueError:
        return None
    if len(numbers) not in (4, 8, 9):
        raise InputError(f"{path}: {len(numbers)} numbers, expected fx fy cx cy k1 k2 p1 p2 k3")
    return None, numbers


def _parse_yaml(text: str, path: Path) -> _Calibration:
    text = re.sub(r"\A%YAML:1\.0\s*", "", text)  # OpenCV's first line is no valid YAML directive
    try:
        tree = yaml.load(text, Loader=_CalibrationLoader)
    except yaml.YAMLError as error:
        raise InputError(f"{path}: neither nine numbers nor YAML ({' '.join(str(error).split())})") from None
    if isinstance(tree, dict) and isinstance(tree.get("cam0"), dict):
        tree = tree["cam0"]
    if not isinstance(tree, dict):
        raise InputError(f"{path}: no calibration; expected calib.txt, or YAML of ROS, Kalibr or OpenCV")
    projection = str(tree.get("camera_model", "pinhole")).lower()
    distortion = str(tree.get("distortion_model", "plumb_bob")).lower()
    if projection != "pinhole" or distortion not in ("plumb_bob", "radtan"):
        raise InputError(
            f"{path}: lens model {projection} with {distortion} distortion is not supported; calibrate as pinhole "
            "with plumb_bob (radtan), or undistort the events before and use float32 pixels"
        )
    return _size_of(tree), [*_intrinsics_of(tree, path), *_distortion_of(tree, path)]


class _CalibrationLoader(yaml.SafeLoader):
    """Safe YAML that also reads OpenCV's matrices."""


def _opencv_matrix(loader: yaml.SafeLoader, node: yaml.Node) -> dict[Any, Any]:
    if not isinstance(node, yaml.MappingNode):
        raise yaml.YAMLError("!!opencv-matrix without rows, cols and data")
    return loader.construct_mapping(node, deep=True)


_CalibrationLoader.add_constructor("tag:yaml.org,2002:opencv-matrix", _opencv_matrix)


def _numbers(node: Any) -> list[float]:
    """The numbers of a matrix, written as a mapping with `data` (ROS, OpenCV) or as a list, nested or not."""
    values = node.get("data", []) if isinstance(node, dict) else node
    try:
        return [float(value) for value in np.ravel(values)]
    except (TypeError, ValueError):
        return []


def _first(tree: dict[str, Any], *names: str) -> Any:
    return next((tree[name] for name in names if name in tree), None)


def _size_of(tree: dict[str, Any]) -> tuple[int, int] | None:
    pair = _numbers(_first(tree, "resolution")) or [
        _first(tree, "image_width", "width") or 0,
        _first(tree, "image_height", "height") or 0,
    ]
    return (int(pair[0]), int(pair[1])) if len(pair) == 2 and min(pair) > 0 else None


def _intrinsics_of(tree: dict[str, Any], path: Path) -> list[float]:
    matrix = _numbers(_first(tree, "camera_matrix", "K", "k", "Camera_Matrix"))
    if len(matrix) == 9:
        return [matrix[0], matrix[4], matrix[2], matrix[5]]
    intrinsics = _numbers(_first(tree, "intrinsics"))
    if len(intrinsics) == 4:
        return intrinsics
    raise InputError(f"{path}: no camera_matrix, K or intrinsics with fx, fy, cx, cy")


def _distortion_of(tree: dict[str, Any], path: Path) -> list[float]:
    name = next((n for n in ("distortion_coefficients", "distortion_coeffs", "D", "d") if n in tree), None)
    if name is None:
        return [0.0] * 5
    found = _numbers(tree[name])
    if len(found) not in (0, 4, 5) and any(found[5:]):
        raise InputError(f"{path}: {len(found)} distortion coefficients; supported are k1 k2 p1 p2 and k3")
    return (found + [0.0] * 5)[:5]
