"""What other programs read is what was found."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from pauca import cli, events
from pauca.errors import ConfigError, InputError, PaucaError
from pauca.events import Camera, Events, Status, Trajectory
from pauca.events.exports import Viewer, export
from pauca.events.exports.mcap import IMU_TOPIC, TWIST_TOPIC
from pauca.events.exports.viewer import open_viewer

from ..mosaic.test_attitude import trajectory

CAMERA = Camera.pinhole((64, 48))


@pytest.fixture
def path() -> Trajectory:
    """Half a second about a changing axis; the third velocity is not to be trusted."""
    velocity = np.stack([np.linspace(0.1, 1, 50), np.linspace(-2, 1, 50), np.full(50, 0.5)], axis=1)
    found = trajectory(velocity, 10_000, 1_700_000_000_000_000)
    status = [*found.status]
    status[2] = Status.DISPUTED
    covariance = np.broadcast_to(np.array([[4, 1, 0], [1, 5, 0], [0, 0, 6]]) * 1e-4, (50, 3, 3))
    return replace(found, status=tuple(status), covariance=covariance)


def test_tum_holds_the_orientation(path, tmp_path):
    export(tmp_path / "a.txt", path)
    rows = [line.split() for line in (tmp_path / "a.txt").read_text().splitlines()]
    assert [row[0] for row in rows[:2]] == ["1700000000.000000", "1700000000.010000"]
    numbers = np.array(rows, float)
    np.testing.assert_array_equal(numbers[:, 1:4], 0)
    wrong = Rotation.from_quat(numbers[:, 4:]) * Rotation.from_quat(path.orientation()).inv()
    assert wrong.magnitude().max() < 1e-8
    with pytest.raises(InputError, match="exists already"):
        export(tmp_path / "a.txt", path)


def test_a_bag_holds_the_trusted_velocities(path, tmp_path):
    from rosbags.rosbag2 import Reader
    from rosbags.typesys import Stores, get_typestore

    export(tmp_path / "a.mcap", path)
    assert [each.name for each in tmp_path.iterdir()] == ["a.mcap"]
    store, found = get_typestore(Stores.ROS2_HUMBLE), {IMU_TOPIC: [], TWIST_TOPIC: []}
    with Reader(tmp_path / "a.mcap") as bag:
        for connection, t_ns, data in bag.messages():
            found[connection.topic].append((t_ns, store.deserialize_cdr(data, connection.msgtype)))
    kept = path.trusted
    for topic, messages in found.items():
        assert [t_ns for t_ns, _ in messages] == (1000 * path.t_us[kept]).tolist(), topic
        stamps = [m.header.stamp.sec * 1_000_000 + m.header.stamp.nanosec // 1000 for _, m in messages]
        assert stamps == path.t_us[kept].tolist()
    turns = [m.angular_velocity for _, m in found[IMU_TOPIC]]
    np.testing.assert_array_equal([(w.x, w.y, w.z) for w in turns], path.velocity[kept])
    turns = [m.twist.twist.angular for _, m in found[TWIST_TOPIC]]
    np.testing.assert_array_equal([(w.x, w.y, w.z) for w in turns], path.velocity[kept])
    imu, twist = found[IMU_TOPIC][5][1], found[TWIST_TOPIC][5][1]
    np.testing.assert_array_equal(imu.angular_velocity_covariance.reshape(3, 3), path.covariance[0])
    np.testing.assert_array_equal(twist.twist.covariance.reshape(6, 6)[3:, 3:], path.covariance[0])
    assert imu.linear_acceleration_covariance[0] == -1
    stood = [m.orientation for _, m in found[IMU_TOPIC]]
    np.testing.assert_allclose([(q.x, q.y, q.z, q.w) for q in stood], path.orientation()[kept], atol=1e-12)


def test_what_cannot_be_exported_is_said(path, tmp_path):
    with pytest.raises(ConfigError, match=r"\.mcap or \.rrd"):
        export(tmp_path / "a.bag", path)
    with pytest.raises(ConfigError, match="holds no events"):
        export(tmp_path / "a.mcap", path, [])
    lost = replace(path, status=(Status.DISPUTED,) * 50)
    with pytest.raises(InputError, match="can be trusted"):
        export(tmp_path / "a.txt", lost)
    with pytest.raises(InputError, match="cannot be told in ROS 2"):
        export(tmp_path / "a.mcap", replace(path, t_us=path.t_us - 1_800_000_000_000_000))
    shift = replace(path, motion="translation", velocity=path.velocity[:, :2], covariance=path.covariance[:, :2, :2])
    for name in ("a.txt", "a.mcap"):
        with pytest.raises(InputError, match="a translation"):
            export(tmp_path / name, shift)
    assert list(tmp_path.iterdir()) == []


def test_the_command_exports(path, tmp_path, capsys):
    path.to_npz(tmp_path / "trajectory.npz")
    words = ["events", "export", str(tmp_path / "trajectory.npz"), str(tmp_path / "a.tum")]
    assert cli.main(words) == 0
    assert "50 velocities; 1 are not trusted" in capsys.readouterr().out
    assert len((tmp_path / "a.tum").read_text().splitlines()) == 50
    assert cli.main([*words[:3], str(tmp_path / "a.mcap"), "--camera", "calib.txt"]) == 2
    assert "--recording" in capsys.readouterr().err


def test_without_the_package_the_viewer_says_what_to_install(path, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(__import__("sys").modules, "rerun", None)
    with pytest.raises(PaucaError, match=r"pauca\[viewer\]"):
        export(tmp_path / "a.rrd", path)
    path.to_npz(tmp_path / "trajectory.npz")
    assert cli.main(["events", "export", str(tmp_path / "trajectory.npz"), str(tmp_path / "a.rrd")]) == 1
    assert "pip install 'pauca[viewer]'" in capsys.readouterr().err
    assert cli.main(["events", "live", "--from", "file://none.npz", "--viewer", str(tmp_path / "b.rrd")]) == 1
    assert [each.name for each in tmp_path.iterdir()] == ["trajectory.npz"]


def _shown(file) -> dict[str, dict[str, list]]:
    """What an .rrd holds: values by component, by place."""
    reading = pytest.importorskip("rerun.chunk", reason="rerun-sdk is not installed")
    found: dict[str, dict[str, list]] = {}
    for chunk in reading.RrdReader(file).stream():
        batch = chunk.to_record_batch()
        place = found.setdefault(chunk.entity_path, {})
        for name in set(batch.schema.names) - {"log_time"}:
            place.setdefault(name, []).extend(batch.column(name).to_pylist())
    return found


@pytest.fixture(scope="module")
def turning():
    config = events.SimulateConfig(movement="constant", peak_deg_s=60.0, duration_s=0.3, noise_hz=0.0, seed=3)
    return events.simulate(config, camera=CAMERA)


def test_rerun_shows_velocities_and_pictures(turning, tmp_path):
    pytest.importorskip("rerun", reason="rerun-sdk is not installed")
    found = events.align(turning)
    export(tmp_path / "a.rrd", found, turning)
    shown = _shown(tmp_path / "a.rrd")
    assert {"/velocity", "/status", "/events", "/stabilized"} <= set(shown)
    drawn = [value for name, column in shown["/velocity"].items() if "calars" in name for value in column if value]
    np.testing.assert_allclose(drawn, np.degrees(found.velocity[found.trusted]), rtol=1e-9)


def test_pictures_are_of_the_packets_events(turning, tmp_path):
    pytest.importorskip("rerun", reason="rerun-sdk is not installed")
    with open_viewer(str(tmp_path / "a.rrd")) as stream:
        viewer = Viewer(stream, CAMERA)
        window: Events = turning.events[:2000]
        viewer.add(10_000, np.zeros(3), np.ones(3), Status.REST, window)
        viewer.add(20_000, np.zeros(3), np.full(3, np.inf), Status.DISPUTED, window)  # too early for a picture
        viewer.add(60_000, np.zeros(3), np.ones(3), Status.REST, window[:0])
    shown = _shown(tmp_path / "a.rrd")
    assert len(next(column for name, column in shown["/events"].items() if "blob" in name)) == 1
    assert len(shown["/status"]["recording"]) == 3
    with pytest.raises(ConfigError, match="a viewer is open"), open_viewer("window"):
        pass
