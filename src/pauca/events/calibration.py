"""Calibration files: UZH `calib.txt`; YAML of ROS camera_info, Kalibr, DSEC or OpenCV; OpenCV's XML; DSEC's maps."""

import logging
import re
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import yaml

from pauca.errors import InputError
from pauca.events.lens import LensModel
from pauca.events.rectification import HDF5_MAGIC, calibration_beside, fit_lens, read_map, rectified_name

_log = logging.getLogger(__name__)

_LARGEST = 1 << 16  # pixels to a side of a sensor; more is damage
_LENSES: dict[str, LensModel] = {
    **dict.fromkeys(("plumb_bob", "radtan", "none", ""), "radtan"),
    **dict.fromkeys(("equidistant", "fisheye"), "equidistant"),
}


@dataclass(frozen=True)
class Calibration:
    """What a calibration says of a camera, under the names that ROS, Kalibr and OpenCV give to lens models."""

    size: tuple[int, int] | None  # width, height; None where the file does not say it
    intrinsics: list[float]  # fx fy cx cy, pixels
    coefficients: list[float]
    model: str = "radtan"

    def lens(self, where: Path) -> tuple[LensModel, list[float]]:
        """The lens model by our name, and five coefficients, the missing ones 0.

        Raises:
            InputError: another model, or other coefficients than it has; `where` is the file that said so.
        """
        lens = _LENSES.get(self.model.lower())
        if lens is None:
            raise InputError(
                f"{where}: the lens model {self.model} is not supported; supported are plumb_bob (radtan) and "
                "equidistant (fisheye): calibrate anew, or undistort the events before and use float32 pixels"
            )
        given, expected = self.coefficients, (0, 4) if lens == "equidistant" else (0, 4, 5)
        if len(given) not in expected and any(given[expected[-1] :]):
            names = "k1 k2 k3 k4" if lens == "equidistant" else "k1 k2 p1 p2 and k3"
            raise InputError(f"{where}: {len(given)} distortion coefficients; supported are {names}")
        return lens, [*given, 0.0, 0.0, 0.0, 0.0, 0.0][:5]


def read_calibration(path: Path, size: tuple[int, int] | None = None, name: str | None = None) -> Calibration:
    """What `Camera.from_file` reads, with its size; arguments and errors as there."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read as a calibration ({error.strerror})") from None
    found = _from_map(path, name) if data.startswith(HDF5_MAGIC) else _from_words(data, path, name)
    if size and found.size and tuple(size) != tuple(found.size):
        raise InputError(f"{path}: calibrated for {found.size} pixels, but the sensor has {tuple(size)}")
    chosen = found.size or size
    if chosen is None:
        raise InputError(f"{path}: does not say the size of the sensor; give it, such as size=(240, 180)")
    return replace(found, size=(int(chosen[0]), int(chosen[1])))


def _from_words(data: bytes, path: Path, name: str | None) -> Calibration:
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: cannot be read as a calibration ({error})") from None
    if text.lstrip().startswith(("<?xml", "<opencv_storage")):
        return _from_tree(_choose(_xml_cameras(text, path), name, path), path)
    return _parse_numbers(text, path) or _from_tree(_choose(_yaml_cameras(text, path), name, path), path)


def _from_map(path: Path, name: str | None) -> Calibration:
    """The lens that explains a map of rectified pixels, whose focal length stands in the calibration beside it."""
    table = read_map(path)
    rectified = read_calibration(calibration_beside(path), name=name or rectified_name(path))
    fx, fy, cx, cy = rectified.intrinsics
    model, numbers = fit_lens(table, (fx, fy, cx, cy), path)
    coefficients = numbers[4 : 8 if model == "equidistant" else 9].tolist()
    return Calibration((table.shape[1], table.shape[0]), numbers[:4].tolist(), coefficients, model)


def _parse_numbers(text: str, path: Path) -> Calibration | None:
    """UZH calib.txt: fx fy cx cy k1 k2 p1 p2 k3 on one line, or a 3 x 3 matrix; None where it is something else."""
    try:
        numbers = [float(word) for word in text.replace(",", " ").split()]
    except ValueError:
        return None
    if len(numbers) == 9 and numbers[6:] == [0, 0, 1]:
        numbers = [numbers[0], numbers[4], numbers[2], numbers[5]]
    if len(numbers) not in (4, 8, 9):
        raise InputError(f"{path}: {len(numbers)} numbers, expected fx fy cx cy k1 k2 p1 p2 k3")
    if len(numbers) == 4:
        _tell_undistorted(path, "k1 k2 p1 p2 k3")
    return Calibration(None, numbers[:4], numbers[4:])


def _yaml_cameras(text: str, path: Path) -> dict[str, dict[str, Any]]:
    """The cameras of a YAML file by name; one without a name is ``."""
    text = re.sub(r"\A%YAML:1\.0\s*", "", text)  # OpenCV's first line is no valid YAML directive
    try:
        tree = yaml.load(text, Loader=_CalibrationLoader)
    except yaml.YAMLError as error:
        raise InputError(f"{path}: neither nine numbers nor YAML ({' '.join(str(error).split())})") from None
    if not isinstance(tree, dict):
        raise InputError(f"{path}: no calibration; expected calib.txt, or YAML of ROS, Kalibr, DSEC or OpenCV")
    if isinstance(tree.get("intrinsics"), dict):  # DSEC
        tree = tree["intrinsics"]
    tree = _by_words(tree)
    cameras = {
        key: ({"D": []} if key.startswith("camRect") else {}) | _by_words(value)  # of rectified images
        for key, value in tree.items()
        if key.startswith("cam") and isinstance(value, dict)
    }
    named = {key: value for key, value in cameras.items() if {"intrinsics", "camera_matrix"} & value.keys()}
    return named or {"": tree}


def _by_words(tree: dict[Any, Any]) -> dict[str, Any]:
    """With keys that are words, as damaged YAML has not."""
    return {str(key): value for key, value in tree.items()}


def _xml_cameras(text: str, path: Path) -> dict[str, dict[str, Any]]:
    """OpenCV's XML, which DV writes: an element for each camera, or one camera at the top."""
    try:
        root = ElementTree.fromstring(text)
    except ElementTree.ParseError as error:
        raise InputError(f"{path}: damaged XML ({error}); export the calibration again") from None
    if root.find("camera_matrix") is not None or root.find("Camera_Matrix") is not None:
        return {"": _xml_values(root)}
    return {child.tag: _xml_values(child) for child in root if child.find("camera_matrix") is not None}


def _xml_values(node: ElementTree.Element) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for child in node:
        data = child.find("data")
        text = (child.text if data is None else data.text) or ""
        values[child.tag] = text.split() if data is not None else text.strip().strip('"')
    if str(values.get("use_fisheye_model", "0")).lower() in ("1", "true"):
        values["distortion_model"] = "equidistant"
    return values


def _choose(cameras: dict[str, dict[str, Any]], name: str | None, path: Path) -> dict[str, Any]:
    told = ", ".join(filter(None, cameras)) or "one without a name"
    if name is not None and name not in cameras:
        raise InputError(f"{path}: no camera {name!r}; there are: {told}")
    if name is None and len(cameras) != 1 and "cam0" not in cameras:
        raise InputError(f"{path}: several cameras ({told}), or none; say which (name, --camera-name)")
    return cameras[name if name is not None else "cam0" if "cam0" in cameras else next(iter(cameras))]


def _from_tree(tree: dict[str, Any], path: Path) -> Calibration:
    projection = str(tree.get("camera_model", "pinhole")).lower()
    if projection != "pinhole":
        raise InputError(
            f"{path}: the camera model {projection} is not supported; calibrate as pinhole with radtan or equidistant "
            "distortion, or undistort the events before and use float32 pixels"
        )
    model = str(tree.get("distortion_model", "plumb_bob"))
    return Calibration(_size_of(tree, path), _intrinsics_of(tree, path), _distortion_of(tree, path), model)


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


def _size_of(tree: dict[str, Any], path: Path) -> tuple[int, int] | None:
    pair = _numbers(_first(tree, "resolution")) or [
        *_numbers([_first(tree, "image_width", "image_Width", "width") or 0]),
        *_numbers([_first(tree, "image_height", "image_Height", "height") or 0]),
    ]
    if any(not side < _LARGEST for side in pair):
        raise InputError(f"{path}: an image of {' x '.join(f'{side:g}' for side in pair)} pixels; is the file damaged?")
    return (int(pair[0]), int(pair[1])) if len(pair) == 2 and min(pair) > 0 else None


def _intrinsics_of(tree: dict[str, Any], path: Path) -> list[float]:
    matrix = _numbers(_first(tree, "camera_matrix", "K", "k", "Camera_Matrix"))
    if len(matrix) == 9:
        return [matrix[0], matrix[4], matrix[2], matrix[5]]
    if len(matrix) == 4:  # DSEC
        return matrix
    intrinsics = _numbers(_first(tree, "intrinsics"))
    if len(intrinsics) == 4:
        return intrinsics
    raise InputError(f"{path}: no camera_matrix, K or intrinsics with fx, fy, cx, cy")


def _distortion_of(tree: dict[str, Any], path: Path) -> list[float]:
    name = next(
        (n for n in ("distortion_coefficients", "distortion_coeffs", "Distortion_Coefficients", "D", "d") if n in tree),
        None,
    )
    if name is None:
        _tell_undistorted(path, "distortion_coefficients")
        return []
    return _numbers(tree[name])


@cache
def _tell_undistorted(path: Path, lacking: str) -> None:
    """Say, once for each file, that a lens is taken as one without distortion, as hardly any is."""
    _log.warning("%s: no %s: taken as a lens without distortion; if it has none, add zeros", path, lacking)
