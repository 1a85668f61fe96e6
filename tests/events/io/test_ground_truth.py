import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from pauca.errors import InputError
from pauca.events.io.ground_truth import read_ground_truth

OMEGA = np.array([0.5, -1.0, 2.0])


def test_imu_text_has_the_gyroscope_in_its_last_columns(tmp_path):
    path = tmp_path / "imu.txt"
    path.write_text("0.001 0.1 9.8 0.2 0.5 -1.0 2.0\n0.002 0.1 9.8 0.2 0.6 -1.1 2.1\n")
    truth = read_ground_truth(path)
    np.testing.assert_allclose(truth.t_s, [0.001, 0.002])
    np.testing.assert_allclose(truth.omega_rad_s, [[0.5, -1.0, 2.0], [0.6, -1.1, 2.1]])


def test_poses_give_the_rate_in_the_cameras_own_frame(tmp_path):
    t_s = np.arange(0, 1, 0.005)
    first = Rotation.from_euler("xyz", [0.4, -0.2, 1.0])
    quaternions = (first * Rotation.from_rotvec(t_s[:, None] * OMEGA)).as_quat()
    path = tmp_path / "groundtruth.txt"
    np.savetxt(path, np.column_stack([t_s, np.zeros((len(t_s), 3)), quaternions]))
    truth = read_ground_truth(path)
    np.testing.assert_allclose(truth.omega_rad_s, np.broadcast_to(OMEGA, truth.omega_rad_s.shape), atol=1e-6)


def test_npz_of_the_simulator(tmp_path):
    path = tmp_path / "recording.npz"
    np.savez(path, gt_t=[0.0, 1.0], gt_w=[[1.0, 2, 3], [4, 5, 6]])
    np.testing.assert_array_equal(read_ground_truth(path).omega_rad_s, [[1, 2, 3], [4, 5, 6]])


@pytest.mark.parametrize("keep", [10, 300, -30])
def test_a_damaged_npz_is_one_clear_line(tmp_path, keep):
    path = tmp_path / "truth.npz"
    np.savez_compressed(path, gt_t=np.arange(50.0), gt_w=np.random.default_rng(0).standard_normal((50, 3)))
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(InputError, match=r"truth\.npz: damaged or cut short"):
        read_ground_truth(path)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("imu.txt", "1 2 3\n"),
        ("imu.txt", "hello\n"),
        ("imu.txt", "# no line\n"),
        ("imu.txt", "0.002 0 0 0 1 1 1\n0.001 0 0 0 1 1 1\n"),
        ("imu.txt", "0.001 0 0 0 1 1 1\n"),
        ("imu.txt", "0.001 0 0 0 nan 1 1\n0.002 0 0 0 1 1 1\n"),
        ("truth.npz", "no zip"),
        ("motion.csv", "t,x\n0,1\n"),
        ("motion.csv", ""),
        ("motion.csv", "t_s,wx_rad_s,wy_rad_s,wz_rad_s\n0,1,2,3\n1,1,2\n"),
    ],
)
def test_other_files_are_refused(tmp_path, name, text):
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(InputError, match=name):
        read_ground_truth(path)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is empty"),
        ("# t ax\n", "is empty"),
        ("1 0 0 0 1 1 1\n2 0 0 0 1 1 1\n3 0\n", "line 3: 2 columns, and 7 above; is the file cut short"),
        ("1 0 0 0 1 1 1\n\n2 0 0 0 one 1 1\n", "line 3: 'one' is no number"),
    ],
)
def test_the_first_fault_of_a_text_is_told_in_our_words(tmp_path, text, said):
    path = tmp_path / "imu.txt"
    path.write_text(text)
    with pytest.raises(InputError) as told:
        read_ground_truth(path)
    assert said in str(told.value)
    assert "loadtxt" not in str(told.value)
    assert "usecols" not in str(told.value)


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([(0, 0, 0, 0, 0, 0, 0, 1)], "increasing times"),
        ([(0, 0, 0, 0, 0, 0, 0, 1), (0, 0, 0, 0, 0, 0, 0, 1)], "increasing times"),
        ([(0, 0, 0, 0, 0, 0, 0, 0), (1, 0, 0, 0, 0, 0, 0, 0)], "no poses of a camera"),
    ],
)
def test_poses_that_are_none_are_refused(tmp_path, rows, words):
    np.savetxt(tmp_path / "groundtruth.txt", rows)
    with pytest.raises(InputError, match=rf"groundtruth\.txt: .*{words}"):
        read_ground_truth(tmp_path / "groundtruth.txt")


def test_csv_of_a_trajectory_has_other_columns_too(tmp_path):
    path = tmp_path / "trajectory.csv"
    path.write_text("t_s,wx_rad_s,wy_rad_s,wz_rad_s,status\n0.0,1,2,3,converged\n0.5,4,5,6,stalled\n")
    motion = read_ground_truth(path)
    np.testing.assert_array_equal(motion.t_s, [0.0, 0.5])
    np.testing.assert_array_equal(motion.omega_rad_s, [[1, 2, 3], [4, 5, 6]])


def test_missing_file(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        read_ground_truth(tmp_path / "imu.txt")


@pytest.mark.realdata
def test_motion_capture_of_a_real_sequence(pauca_data):
    truth = read_ground_truth(pauca_data / "events" / "mocap" / "shapes_rotation_groundtruth.npz")
    assert 600 < np.degrees(np.abs(truth.omega_rad_s).max()) < 1000  # the sequence is shaken by hand to about 700 deg/s
