import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from pauca.errors import InputError
from pauca.events import Alignment, Status, Trajectory
from pauca.events.trajectory import microseconds


def _alignment(t_us, velocity, status=Status.CONVERGED):
    k = len(velocity)
    return Alignment(
        motion="rotation" if k == 3 else "translation",
        t_us=t_us,
        velocity=np.array(velocity, float),
        acceleration=np.arange(k) + 0.25,
        covariance=np.diag(np.arange(1.0, k + 1)) * 1e-4 + 2e-5,
        score=-1234.5,
        status=status,
        evaluations=9,
        t_ref_us=t_us,
        start_us=t_us - 5_000,
        end_us=t_us + 5_001,
        n_events=30_000,
    )


def _trajectory():
    velocities = [[0.1, -2.0, 3.0], [0.2, -1.5, 2.0], [9.0, 9.0, 9.0], [0.4, 0.5, 1.0]]
    statuses = [Status.CONVERGED, Status.STALLED, Status.DEGENERATE, Status.CONVERGED]
    times = range(49_006_624, 49_006_624 + 4 * 10_000, 10_000)
    return Trajectory.from_alignments(
        [_alignment(t, v, s) for t, v, s in zip(times, velocities, statuses, strict=True)]
    )


def _assert_same(a, b, rtol):
    for name in ("t_us", "start_us", "end_us", "n_events", "evaluations"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name))
    for name in ("velocity", "acceleration", "covariance", "score"):
        np.testing.assert_allclose(getattr(a, name), getattr(b, name), rtol=rtol)
    assert a.status == b.status
    assert a.motion == b.motion


def test_csv_keeps_everything_and_begins_as_promised(tmp_path):
    path = tmp_path / "trajectory.csv"
    _trajectory().to_csv(path)
    header, first, *_ = path.read_text().splitlines()
    assert header.startswith("t_s,wx_rad_s,wy_rad_s,wz_rad_s,start_s,end_s,")
    assert first.startswith("49.006624,0.1,-2,3,49.001624,49.011625,30000,")
    _assert_same(Trajectory.from_csv(path), _trajectory(), rtol=1e-5)


def test_csv_of_a_translation(tmp_path):
    path = tmp_path / "trajectory.csv"
    trajectory = Trajectory.from_alignments([_alignment(1_000_000, [0.7, -3.0])])
    trajectory.to_csv(path)
    assert path.read_text().startswith("t_s,vx_1_s,vy_1_s,start_s,")
    _assert_same(Trajectory.from_csv(path), trajectory, rtol=1e-5)


def test_npz_is_exact(tmp_path):
    path = tmp_path / "trajectory.npz"
    _trajectory().to_npz(path)
    _assert_same(Trajectory.from_npz(path), _trajectory(), rtol=0)


@pytest.mark.parametrize("keep", [10, 1000, -200])
def test_a_damaged_npz_is_one_clear_line(tmp_path, keep):
    path = tmp_path / "trajectory.npz"
    _trajectory().to_npz(path)
    whole = path.read_bytes()
    path.write_bytes(whole[:keep])
    with pytest.raises(InputError, match=r"trajectory\.npz: damaged or cut short"):
        Trajectory.from_npz(path)
    path.write_bytes(whole[:700] + bytes(byte ^ 0x55 for byte in whole[700:720]) + whole[720:])
    with pytest.raises(InputError, match=r"trajectory\.npz: damaged or cut short"):
        Trajectory.from_npz(path)


def test_an_npz_of_something_else_says_what_it_is(tmp_path):
    path, columns = tmp_path / "a.npz", {}
    _trajectory().to_npz(path)
    with np.load(path) as file:
        columns = dict(file)
    for name, other in (("velocity", columns["velocity"][:, :2]), ("status", columns["score"]), ("motion", "sideways")):
        np.savez(path, **columns | {name: other})
        with pytest.raises(InputError, match=r"a\.npz: incomplete or damaged trajectory"):
            Trajectory.from_npz(path)
    np.savez(path, t=[0.0], x=[1], y=[1], p=[0])
    with pytest.raises(InputError, match="align` makes a trajectory of it"):
        Trajectory.from_npz(path)


@pytest.mark.parametrize("text", ["", "a,b\n1,2\n", "t_s,wx_rad_s,wy_rad_s,wz_rad_s\n1,2,3,4\n", "\x00\x01"])
def test_other_files_are_refused(tmp_path, text):
    path = tmp_path / "trajectory.csv"
    path.write_text(text)
    with pytest.raises(InputError, match=r"trajectory\.csv"):
        Trajectory.from_csv(path)


def test_trajectories_of_version_0_1_are_read(tmp_path):
    """They have no columns of accelerations."""
    path = tmp_path / "trajectory.csv"
    _trajectory().to_csv(path)
    rows = [line.split(",") for line in path.read_text().splitlines()]
    path.write_text("\n".join(",".join(row[:7] + row[10:]) for row in rows))
    assert "ax" not in path.read_text()
    old = Trajectory.from_csv(path)
    assert old.acceleration is None
    np.testing.assert_allclose(old.covariance, _trajectory().covariance, rtol=1e-5)
    old.to_npz(tmp_path / "trajectory.npz")
    assert Trajectory.from_npz(tmp_path / "trajectory.npz").acceleration is None


def test_interpolation_passes_over_packets_that_are_not_converged():
    trajectory = _trajectory()
    times = trajectory.t_us[[0, 3]]
    np.testing.assert_allclose(trajectory.at(times), trajectory.velocity[[0, 3]])
    np.testing.assert_allclose(trajectory.at(trajectory.t_us[1:3]), [[0.2, -7 / 6, 7 / 3], [0.3, -1 / 3, 5 / 3]])
    np.testing.assert_allclose(trajectory.at(times[:1] - 1_000_000), trajectory.velocity[:1])


def test_where_nothing_is_trusted_there_is_no_velocity(tmp_path):
    lost = Trajectory.from_alignments([_alignment(t, [1.0, 2.0, 3.0], Status.STALLED) for t in (0, 10_000)])
    assert np.isnan(lost.at(np.array([5_000]))).all()
    assert np.isnan(lost.orientation()).all()
    lost.to_npz(tmp_path / "trajectory.npz")
    assert lost.count(Status.STALLED) == 2


def test_orientation_of_a_constant_rotation():
    omega = np.array([0.3, -0.2, 2.0])
    trajectory = Trajectory.from_alignments([_alignment(t, omega) for t in range(0, 1_000_001, 10_000)])
    expected = Rotation.from_rotvec(omega * trajectory.t_s[:, None]).as_quat(canonical=True)
    got = Rotation.from_quat(trajectory.orientation()).as_quat(canonical=True)
    np.testing.assert_allclose(got, expected, atol=1e-9)


def test_a_translation_has_no_orientation():
    with pytest.raises(InputError, match="translation"):
        Trajectory.from_alignments([_alignment(0, [1.0, 2.0])]).orientation()


def test_nothing_aligned_is_said():
    with pytest.raises(InputError, match="no events"):
        Trajectory.from_alignments([])


def test_times_must_not_run_back():
    with pytest.raises(InputError, match="row 1 runs back"):
        Trajectory.from_alignments([_alignment(10, [1.0, 2, 3]), _alignment(9, [1.0, 2, 3])])


def test_times_may_be_one_or_several_but_not_seconds():
    trajectory = _trajectory()
    middle_us = 49_006_624 + 15_000
    expected = trajectory.at(np.array([middle_us]))
    np.testing.assert_array_equal(trajectory.at(middle_us), expected[0])
    np.testing.assert_array_equal(trajectory.at([middle_us]), expected)
    np.testing.assert_array_equal(trajectory.at(np.array([middle_us + 0.0])), expected)
    assert trajectory.at(np.array([])).shape == (0, 3)
    assert trajectory.at(np.array([49.02]) * 1e6).shape == (1, 3)
    for seconds in (trajectory.t_s, 49.021624, [49.02, 49.03]):
        with pytest.raises(InputError, match="look like seconds: multiply by 1e6"):
            trajectory.at(seconds)
    for other in (np.array(["a"]), np.array([5], "timedelta64[us]"), None):
        with pytest.raises(InputError, match="times are numbers"):
            microseconds(other, 0, 5)


def test_times_at_the_beginning_of_a_recording_are_no_seconds():
    start = Trajectory.from_alignments([_alignment(t, [0.1, 0.2, 0.3]) for t in range(5_000, 2_000_000, 10_000)])
    with pytest.raises(InputError, match="look like seconds"):
        start.at(np.linspace(0, 1.9, 20))
    assert start.at(np.array([0.0])).shape == (1, 3)
    assert start.at(np.linspace(0.5, 1_900_000.5, 20)).shape == (20, 3)


def test_times_on_another_clock_are_refused():
    """Beyond its ends a trajectory is constant; that was said of a time a year before, too."""
    trajectory = _trajectory()
    begin_us, end_us = int(trajectory.start_us.min()), int(trajectory.end_us.max())
    near = trajectory.at([begin_us - 1000, end_us + 1000])
    assert np.isfinite(near).all()
    for far_us in (begin_us - 10_000_000, end_us + 10_000_000):
        with pytest.raises(InputError, match="lie far from the trajectory's"):
            trajectory.at(far_us)
        assert np.isfinite(trajectory.at([far_us, begin_us])).all()
