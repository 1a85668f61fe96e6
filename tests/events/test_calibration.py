"""Calibration files as users have them, and what is said of those that are none."""

import pytest

from pauca.errors import InputError
from pauca.events import Camera

# DAVIS 240C of the UZH data set: strong barrel distortion.
NUMBERS = (199.092366542, 198.82882047, 132.192071378, 110.712660011, -0.368436311798, 0.150947243557,
           -0.000296130534385, -0.000759431726241, 0.0)  # fmt: skip
DAVIS = Camera((240, 180), *NUMBERS)

ROS = """
image_width: 240
image_height: 180
camera_name: davis
camera_matrix: {rows: 3, cols: 3, data: [199.0, 0, 132.0, 0, 198.0, 110.0, 0, 0, 1]}
distortion_model: plumb_bob
distortion_coefficients: {rows: 1, cols: 5, data: [-0.3, 0.1, 0.001, 0.002, 0.03]}
"""
KALIBR = """
cam0:
  camera_model: pinhole
  intrinsics: [199.0, 198.0, 132.0, 110.0]
  distortion_model: radtan
  distortion_coeffs: [-0.3, 0.1, 0.001, 0.002]
  resolution: [240, 180]
"""
OPENCV = """%YAML:1.0
---
image_width: 240
image_height: 180
camera_matrix: !!opencv-matrix
   rows: 3
   cols: 3
   dt: d
   data: [ 199.0, 0., 132.0, 0., 198.0, 110.0, 0., 0., 1. ]
distortion_coefficients: !!opencv-matrix
   rows: 1
   cols: 5
   dt: d
   data: [ -0.3, 0.1, 0.001, 0.002, 0.03 ]
"""


def test_calib_txt(tmp_path):
    path = tmp_path / "calib.txt"
    path.write_text(" ".join(str(number) for number in NUMBERS) + "\n")
    assert Camera.from_file(path, size=(240, 180)) == DAVIS
    with pytest.raises(InputError, match="size of the sensor"):
        Camera.from_file(path)


def test_calib_txt_with_commas(tmp_path):
    path = tmp_path / "calib.txt"
    path.write_text(", ".join(str(number) for number in NUMBERS))
    assert Camera.from_file(path, size=(240, 180)) == DAVIS


@pytest.mark.parametrize(
    ("text", "lacking"),
    [
        ("199 198 132 110", "k1 k2 p1 p2 k3"),
        ("199 0 132\n0 198 110\n0 0 1", "k1 k2 p1 p2 k3"),
        ("camera_matrix: [199.0, 0, 132.0, 0, 198.0, 110.0, 0, 0, 1]", "distortion_coefficients"),
    ],
)
def test_a_calibration_without_distortion_is_told_once(tmp_path, caplog, text, lacking):
    path = tmp_path / "calib"
    path.write_text(text)
    for _ in range(2):
        assert Camera.from_file(path, size=(240, 180)) == Camera((240, 180), 199.0, 198.0, 132.0, 110.0)
    assert [record.getMessage() for record in caplog.records] == [
        f"{path}: no {lacking}: taken as a lens without distortion; if it has none, add zeros"
    ]
    path.write_text("199 198 132 110 0 0 0 0 0")
    Camera.from_file(path, size=(240, 180))
    assert len(caplog.records) == 1


@pytest.mark.parametrize(("text", "k3"), [(ROS, 0.03), (KALIBR, 0.0), (OPENCV, 0.03)])
def test_yaml_of_ros_kalibr_and_opencv(tmp_path, text, k3):
    path = tmp_path / "camera.yaml"
    path.write_text(text)
    expected = Camera((240, 180), 199.0, 198.0, 132.0, 110.0, -0.3, 0.1, 0.001, 0.002, k3)
    assert Camera.from_file(path) == expected
    with pytest.raises(InputError, match="calibrated for"):
        Camera.from_file(path, size=(346, 260))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1 2 3", "3 numbers, expected fx fy cx cy"),
        (KALIBR.replace("radtan", "fov"), "fov is not supported"),
        (KALIBR.replace("cam0", "cam1") + KALIBR.replace("cam0", "cam2"), "several cameras .cam1, cam2"),
        (KALIBR.replace("pinhole", "omni"), "omni .* not supported"),
        (ROS.replace("camera_matrix", "matrix"), "no camera_matrix"),
        (ROS.replace("0.03]", "0.03, 1.0, 2.0, 3.0]"), "8 distortion coefficients"),
        ("a: [1, 2", "nor YAML"),
        ("hello", "no calibration"),
        ("-1 100 10 10 0 0 0 0 0", "fx -1.0"),
        (KALIBR.replace("[240, 180]", "[.inf, 180]"), "an image of inf x 180 pixels"),
    ],
)
def test_bad_calibrations_are_one_clear_line(tmp_path, text, message):
    path = tmp_path / "camera.yaml"
    path.write_text(text)
    with pytest.raises(InputError, match=message) as error:
        Camera.from_file(path, size=(240, 180))
    assert "\n" not in str(error.value)


DSEC = """intrinsics:
  cam0: {camera_matrix: [556.3, 556.2, 342.5, 209.7], camera_model: pinhole, distortion_model: radtan,
         distortion_coeffs: [-0.09, 0.08, 0.0002, 0.001], resolution: [640, 480]}
  camRect0: {camera_matrix: [583.8, 583.8, 336.8, 220.9], camera_model: pinhole, resolution: [640, 480]}
"""
DV = """<?xml version="1.0"?>
<opencv_storage><DAVIS346_00000391>
  <camera_matrix type_id="opencv-matrix"><rows>3</rows><cols>3</cols><dt>d</dt>
    <data>250. 0. 173. 0. 251. 130. 0. 0. 1.</data></camera_matrix>
  <distortion_coefficients type_id="opencv-matrix"><rows>1</rows><cols>5</cols><dt>d</dt>
    <data>-0.35 0.12 0.001 -0.002 0.01</data></distortion_coefficients>
  <image_width>346</image_width><image_height>260</image_height><use_fisheye_model>0</use_fisheye_model>
</DAVIS346_00000391></opencv_storage>
"""


def test_dsec_names_its_cameras(tmp_path, caplog):
    (tmp_path / "cam_to_cam.yaml").write_text(DSEC)
    raw = Camera.from_file(tmp_path / "cam_to_cam.yaml")
    assert raw == Camera((640, 480), 556.3, 556.2, 342.5, 209.7, -0.09, 0.08, 0.0002, 0.001)
    rectified = Camera.from_file(tmp_path / "cam_to_cam.yaml", name="camRect0")
    assert rectified == Camera((640, 480), 583.8, 583.8, 336.8, 220.9)
    assert not caplog.records  # rectified images have no distortion
    with pytest.raises(InputError, match="no camera 'cam7'; there are: cam0, camRect0"):
        Camera.from_file(tmp_path / "cam_to_cam.yaml", name="cam7")


def test_calibration_of_dv(tmp_path):
    (tmp_path / "calibration.xml").write_text(DV)
    expected = Camera((346, 260), 250.0, 251.0, 173.0, 130.0, -0.35, 0.12, 0.001, -0.002, 0.01)
    assert Camera.from_file(tmp_path / "calibration.xml") == expected
    (tmp_path / "fisheye.xml").write_text(
        DV.replace("<use_fisheye_model>0", "<use_fisheye_model>1").replace(" 0.01<", "<")
    )
    assert Camera.from_file(tmp_path / "fisheye.xml").lens == "equidistant"


def test_kalibr_of_a_fisheye(tmp_path):
    (tmp_path / "camchain.yaml").write_text(KALIBR.replace("radtan", "equidistant"))
    camera = Camera.from_file(tmp_path / "camchain.yaml")
    assert camera.lens == "equidistant"
