"""NPZ recordings, our own and those of others."""

import re

import numpy as np
import pytest

from pauca.errors import InputError
from pauca.events.io import read

EVENTS = {
    "t_us": np.array([10, 20, 30]),
    "x": np.array([1, 3, 239], np.uint8),
    "y": np.array([2, 4, 179], np.uint8),
    "p": np.array([1, 0, 1], np.uint8),
}
K, D = [199.1, 198.8, 132.2, 110.7], [-0.37, 0.15, -0.0003, -0.0008, 0.0]


def _write(folder, **arrays):
    path = folder / "recording.npz"
    np.savez(path, **{name: array for name, array in arrays.items() if array is not None})
    return path


def test_microseconds(tmp_path):
    recording = read(_write(tmp_path, **EVENTS, size=[240, 180]), strict=True)
    assert recording.events.t_us.tolist() == [10, 20, 30]
    assert recording.events.size == (240, 180)
    assert recording.camera is None
    assert recording.ground_truth is None
    assert recording.name == "recording.npz"


def test_float_times_are_seconds(tmp_path):
    """49.012157999 s is what float64 holds of 49.012158 s."""
    path = _write(tmp_path, **{**EVENTS, "t_us": None}, t=np.array([49.006624, 49.006625, 49.012157999]))
    assert read(path).events.t_us.tolist() == [49006624, 49006625, 49012158]


def test_integer_times_are_microseconds_and_said_to_be(tmp_path):
    recording = read(_write(tmp_path, **{**EVENTS, "t_us": None}, t=np.array([1, 2, 3])), size=(240, 180))
    assert recording.events.t_us.tolist() == [1, 2, 3]
    assert recording.notes == ("times are whole numbers: taken as microseconds",)
    assert read(recording.report.path, size=(240, 180), time_unit="ms").events.t_us.tolist() == [1000, 2000, 3000]


@pytest.mark.parametrize(
    "calibration",
    [
        {"K": K, "D": D, "size": [240, 180]},
        {"K": [[K[0], 0, K[2]], [0, K[1], K[3]], [0, 0, 1]], "D": D, "size": [240, 180]},
        {"calib": [*K, *D, 240, 180]},
        {"calib": [*K, *D], "size": [240, 180]},
    ],
)
def test_camera(tmp_path, calibration):
    camera = read(_write(tmp_path, **EVENTS, **calibration)).camera
    assert camera.size == (240, 180)
    assert list(camera.intrinsics) == K
    assert list(camera.distortion) == D


def test_camera_without_distortion(tmp_path):
    assert read(_write(tmp_path, **EVENTS, K=K, size=[240, 180])).camera.distortion == (0.0,) * 5


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"size": ["a", "b"]}, "size holds <U1, expected numbers"),
        ({"gt_t": [0.0, 1.0], "gt_w": [[0.0, 0, 0]]}, r"ground truth of shapes gt_t \(2,\), gt_w \(1, 3\)"),
    ],
)
def test_wrong_extras(tmp_path, wrong, message):
    with pytest.raises(InputError, match=message):
        read(_write(tmp_path, **EVENTS, **wrong))


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ({"K": [1.0, 2.0]}, "K is .*, expected 4 or 9 numbers"),
        ({"K": ["a", "b", "c", "d"]}, "K holds .*, expected numbers"),
        ({"K": [-1.0, 1, 1, 1]}, "camera: fx -1.0"),
        ({"K": [0.83, 1.1, 0.5, 0.5]}, "are they normalized"),
        ({"K": [200.0, 200, 320, 240]}, "lies outside of the sensor"),
        ({"K": K, "D": [0.1, 0.2]}, "D is .*, expected 0 or 4 or 5 numbers"),
        ({"K": K, "lens": "omni"}, "the lens model omni is not supported"),
        ({"calib": [1.0, 2.0]}, "calib is .*, expected 9 or 11 numbers"),
    ],
)
def test_an_unfit_calibration_is_none(tmp_path, wrong, why, caplog):
    path = _write(tmp_path, **EVENTS, size=[240, 180], **wrong)
    recording = read(path)
    assert (len(recording.events), recording.camera) == (len(EVENTS["x"]), None)
    assert re.search(why, recording.no_camera)
    assert str(path) not in recording.no_camera
    assert "dropped the calibration in it" in caplog.text


def test_a_matrix_in_place_of_the_camera_is_told_in_one_line(tmp_path):
    said = read(_write(tmp_path, **EVENTS, size=[240, 180], K=np.zeros((5, 20)))).no_camera
    assert "K is [[0.0, 0.0" in said
    assert "\n" not in said


def test_what_is_called_d_without_intrinsics_is_no_calibration(tmp_path):
    """It may be depth."""
    recording = read(_write(tmp_path, **EVENTS, size=[240, 180], D=np.zeros((9, 9))), strict=True)
    assert (recording.camera, recording.no_camera) == (None, "")


def test_ground_truth(tmp_path):
    truth = {"gt_t": np.arange(5) / 1e3, "gt_w": np.ones((5, 3), np.float32), "gt_q": np.tile([0.0, 0, 0, 1], (5, 1))}
    found = read(_write(tmp_path, **EVENTS, **truth)).ground_truth
    assert np.array_equal(found.t_s, truth["gt_t"])
    assert found.omega_rad_s.shape == (5, 3)
    assert found.quat_xyzw.shape == (5, 4)


@pytest.mark.parametrize("missing", ["t_us", "x", "y", "p"])
def test_missing_keys(tmp_path, missing):
    name = "t" if missing == "t_us" else missing
    with pytest.raises(InputError, match=rf"no {name} among its arrays \(.*\); expected t \(or t_us\), x, y, p"):
        read(_write(tmp_path, **{**EVENTS, missing: None}))


def test_mixed_lengths(tmp_path):
    with pytest.raises(InputError, match="different length"):
        read(_write(tmp_path, **{**EVENTS, "p": np.array([1, 0])}))


def test_wrong_shapes(tmp_path):
    with pytest.raises(InputError, match=r"x is .* of shape \(3, 1\)"):
        read(_write(tmp_path, **{**EVENTS, "x": np.zeros((3, 1))}))


def test_no_events(tmp_path):
    with pytest.raises(InputError, match="holds no events"):
        read(_write(tmp_path, **{name: array[:0] for name, array in EVENTS.items()}))


def test_truncated_file(tmp_path):
    path = _write(tmp_path, **EVENTS)
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(InputError, match=r"recording\.npz: damaged or cut short, cannot be read as NPZ"):
        read(path)


def test_flipped_bits(tmp_path):
    path = tmp_path / "flipped.npz"
    rng = np.random.default_rng(0)
    np.savez_compressed(path, t_us=np.cumsum(rng.integers(0, 9, 5000)), **{k: rng.integers(0, 2, 5000) for k in "xyp"})
    damaged = bytearray(path.read_bytes())
    damaged[3000:3200] = bytes(255 - byte for byte in damaged[3000:3200])
    path.write_bytes(damaged)
    with pytest.raises(InputError, match="damaged or cut short"):
        read(path)


def test_pickled_objects_are_not_loaded(tmp_path):
    with pytest.raises(InputError, match="cannot be read as NPZ"):
        read(_write(tmp_path, **{**EVENTS, "p": np.array([{"code": 1}] * len(EVENTS["t_us"]), object)}))
    read(_write(tmp_path, **EVENTS, extra=np.array([{"code": 1}], object)))  # nobody asks for it


@pytest.mark.realdata
@pytest.mark.parametrize(
    ("name", "count", "size"),
    [
        ("davis240c_packets/boxes_rotation", 30_000, (240, 180)),
        ("davis240c_packets/shapes_rotation", 30_000, (240, 180)),
        ("davis240c_eventemin/poster_6dof", 38_139, (240, 180)),
        ("davis240c_eventemin/indoor_flying1", 37_187, (346, 260)),
        ("mocap/shapes_rotation_first0.5s", 9_058, (240, 180)),
    ],
)
def test_real_recordings(pauca_data, name, count, size):
    """Counts and sizes as the data's README gives them; no event is lost and no camera has to be given."""
    recording = read(pauca_data / "events" / f"{name}.npz", strict=True)
    assert len(recording.events) == count
    assert recording.events.size == size
    assert recording.camera.size == size


@pytest.mark.realdata
def test_real_times_to_the_microsecond(pauca_data):
    """boxes_rotation runs from 49.006624 s to 49.012157999 s, which float64 rounding made of 49.012158 s."""
    events = read(pauca_data / "events" / "davis240c_packets" / "boxes_rotation.npz").events
    assert (events.t_us[0], events.t_us[-1]) == (49_006_624, 49_012_158)


@pytest.mark.realdata
def test_real_undistorted_pixels(pauca_data):
    recording = read(pauca_data / "events" / "davis240c_eventemin" / "indoor_flying1.npz")
    assert recording.events.undistorted
    assert recording.camera.distortion == (0.0,) * 5
    assert 0.1 < recording.events.p.mean() < 0.9  # polarity stands in `extra`


@pytest.mark.realdata
def test_simulated_ground_truth(pauca_data):
    truth = read(pauca_data / "events" / "sim" / "texture_slow.npz").ground_truth
    assert truth.t_s.shape == (1600,)
    assert truth.omega_rad_s.shape == (1600, 3)


def test_floating_milliseconds_are_not_taken_for_seconds(tmp_path):
    """Two seconds were read as 2,000."""
    n = 200_000
    np.savez(tmp_path / "e.npz", ts=np.arange(n) * 0.01, x=np.zeros(n, int), y=np.zeros(n, int), p=np.ones(n, int))
    with pytest.raises(InputError, match=r"all whole milliseconds over 2,000 s.*probably ms"):
        read(tmp_path / "e.npz", size=(240, 180))
    assert read(tmp_path / "e.npz", size=(240, 180), time_unit="ms").events.duration_us == pytest.approx(2e6, abs=200)
