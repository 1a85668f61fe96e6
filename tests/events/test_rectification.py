"""DSEC's maps of rectified pixels: made here from a known lens and a known rotation."""

import h5py
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from pauca.errors import InputError
from pauca.events import Camera
from pauca.events.camera import undistortion_table

RADTAN = Camera((640, 480), 556.3, 556.2, 342.5, 209.7, -0.094, 0.083, 0.0002, 0.001)
FISHEYE = Camera((346, 260), 226.4, 226.1, 173.6, 133.7, -0.033, -0.013, 0.012, -0.004, lens="equidistant")
TURN = Rotation.from_euler("xyz", [0.8, -1.1, 0.4], degrees=True)  # from the camera to the rectified image
YAML = """intrinsics:
  cam0: {camera_matrix: [1, 1, 1, 1], camera_model: pinhole, distortion_model: radtan, resolution: [640, 480]}
  camRect0: {camera_matrix: [583.8, 583.9, 336.8, 220.9], camera_model: pinhole, resolution: [640, 480]}
  camRect3: {camera_matrix: [590.0, 590.0, 330.0, 215.0], camera_model: pinhole, resolution: [640, 480]}
"""


def _bearings(camera):
    table = undistortion_table(camera).astype(float)
    return np.concatenate([table, np.ones((*table.shape[:2], 1))], axis=-1)


def _map(camera, turn, rectified):
    """OpenCV's initUndistortRectifyMap the other way round: where each pixel lands in the rectified image."""
    fx, fy, cx, cy = rectified
    turned = turn.apply(_bearings(camera).reshape(-1, 3)).reshape(*camera.size[::-1], 3)
    return np.stack(
        [fx * turned[..., 0] / turned[..., 2] + cx, fy * turned[..., 1] / turned[..., 2] + cy], axis=-1
    ).astype(np.float32)


def _written(folder, table, yaml=YAML, name="rectify_map"):
    folder.mkdir(parents=True, exist_ok=True)
    with h5py.File(folder / "rectify_map.h5", "w") as file:
        file[name] = table
    if yaml:
        (folder / "cam_to_cam.yaml").write_text(yaml)
    return folder / "rectify_map.h5"


def _between(camera, other):
    """Largest distance of what two cameras see at the same pixels, in pixels, and how they are turned (degrees)."""
    a, b = (_bearings(each).reshape(-1, 3)[::97] for each in (camera, other))
    a, b = (each / np.linalg.norm(each, axis=1, keepdims=True) for each in (a, b))
    turn, _ = Rotation.align_vectors(a, b)
    away = np.linalg.norm(a - turn.apply(b), axis=1).max() * camera.fx
    return away, np.degrees(turn.magnitude())


@pytest.mark.parametrize("camera", [RADTAN, FISHEYE], ids=["radtan", "fisheye"])
def test_the_lens_of_a_map_is_found(tmp_path, camera):
    path = _written(tmp_path, _map(camera, TURN, (583.8, 583.9, 336.8, 220.9)))
    found = Camera.from_file(path, size=camera.size)
    assert (found.size, found.lens) == (camera.size, camera.lens)
    away, turned = _between(found, camera)
    assert away < 0.01  # pixels
    assert turned < 0.1  # degrees: the center and a small turn do nearly the same
    assert found.fx == pytest.approx(camera.fx, rel=1e-3)


def test_the_right_camera_and_the_layout_of_dsec(tmp_path):
    table = _map(RADTAN, TURN, (590.0, 590.0, 330.0, 215.0))
    path = _written(tmp_path / "events" / "right", table, yaml=None)
    (tmp_path / "calibration").mkdir()
    (tmp_path / "calibration" / "cam_to_cam.yaml").write_text(YAML)
    assert _between(Camera.from_file(path), RADTAN)[0] < 0.01
    wrong = Camera.from_file(path, name="camRect0")  # another focal length is another camera
    assert wrong.fx != pytest.approx(RADTAN.fx, rel=5e-3)


def test_maps_without_their_calibration_or_a_lens_are_refused(tmp_path):
    table = _map(RADTAN, TURN, (583.8, 583.9, 336.8, 220.9))
    with pytest.raises(InputError, match=r"no focal length, and its cam_to_cam.yaml is neither beside"):
        Camera.from_file(_written(tmp_path / "a", table, yaml=None))
    with pytest.raises(InputError, match="no camera 'camRect0'"):
        Camera.from_file(_written(tmp_path / "b", table, yaml=YAML.replace("camRect0", "camRect1")))
    torn = table + 5 * np.sin(np.arange(480) / 20)[:, None, None].astype(np.float32)
    with pytest.raises(InputError, match=r"no lens .* explains this map .* pixels off"):
        Camera.from_file(_written(tmp_path / "c", torn))
    with pytest.raises(InputError, match=r"no lens .* explains this map .* pixels off"):
        Camera.from_file(_written(tmp_path / "noise", np.random.default_rng(0).uniform(-9e4, 9e4, table.shape)))
    with pytest.raises(InputError, match="HDF5 without `rectify_map`"):
        Camera.from_file(_written(tmp_path / "d", table, name="events"))
    with pytest.raises(InputError, match="calibrated for"):
        Camera.from_file(_written(tmp_path / "e", table), size=(346, 260))
    with pytest.raises(InputError, match="are finite numbers"):
        Camera.from_file(_written(tmp_path / "f", np.full_like(table, np.nan)))
    (tmp_path / "g.h5").write_bytes(b"\x89HDF\r\n\x1a\n")
    with pytest.raises(InputError, match="damaged, cannot be read as HDF5"):
        Camera.from_file(tmp_path / "g.h5")
