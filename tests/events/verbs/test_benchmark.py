"""Small sequences in the layouts of the public ones, from the simulator: found, aligned, compared, taken up again."""

import json
import os
import struct

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from pauca import cli, events
from pauca.errors import InputError
from pauca.events import sequences
from pauca.events.evaluation import orientation_error_deg
from pauca.events.verbs import benchmark as verb

from ..test_trajectory import _trajectory

SMALL = events.Camera((120, 90), 100.0, 100.0, 59.5, 44.5)
CALIB = "199.092366542 198.82882047 132.192071378 110.712660011 -0.368436311798 0.150947243557 -0.000296 -0.000759 0.0"
NOT_DAVIS = """
cam0:
  camera_model: pinhole
  intrinsics: [100.0, 100.0, 59.5, 44.5]
  distortion_model: radtan
  distortion_coeffs: [0.0, 0.0, 0.0, 0.0]
  resolution: [120, 90]
"""


def _imu_text(truth: events.GroundTruth, late_s: float) -> str:
    rows = [(t + late_s, 0, 0, 9.8, *omega) for t, omega in zip(truth.t_s, truth.omega_rad_s, strict=True)]
    return "".join(" ".join(f"{value:.9f}" for value in row) + "\n" for row in rows)


@pytest.fixture(scope="module")
def uzh(tmp_path_factory):
    """Two of the four sequences: one as text, one named but without its files."""
    folder = tmp_path_factory.mktemp("uzh")
    home = folder / "shapes_rotation"
    home.mkdir()
    config = events.SimulateConfig(duration_s=0.25, scene="shapes", peak_deg_s=250.0, seed=2)
    recording = events.simulate(config)
    events.write(home / "events.txt", recording)
    (home / "imu.txt").write_text(_imu_text(recording.ground_truth, 0.0024))
    (home / "calib.txt").write_text(CALIB)
    (folder / "poster_rotation").mkdir()
    return folder


def _message(recording: events.Events, start_s: int) -> bytes:
    """dvs_msgs/EventArray of ROS 1."""
    kind = np.dtype([("x", "<u2"), ("y", "<u2"), ("s", "<u4"), ("ns", "<u4"), ("p", "u1")])
    rows = np.empty(len(recording), kind)
    rows["x"], rows["y"], rows["p"] = recording.x, recording.y, recording.p
    rows["s"], rows["ns"] = start_s + recording.t_us // 1_000_000, recording.t_us % 1_000_000 * 1000
    width, height = recording.size
    return struct.pack("<IIII3sIII", 0, start_s, 0, 3, b"cam", height, width, len(rows)) + rows.tobytes()


def _imu_message(t_s: float, omega: np.ndarray) -> bytes:
    head = struct.pack("<IIII3s", 0, int(t_s), round(t_s % 1 * 1e9), 3, b"imu")
    return head + struct.pack("<37d", 0, 0, 0, 1, *[0] * 9, *omega, *[0] * 9, 0, 0, 9.8, *[0] * 9)


@pytest.fixture(scope="module")
def ecrot(tmp_path_factory):
    """A bag with a turned gyroscope and one with true poses."""
    from rosbags import rosbag1

    folder = tmp_path_factory.mktemp("ecrot")
    recording = events.simulate(events.SimulateConfig(duration_s=0.8, peak_deg_s=200.0, seed=4), camera=SMALL)
    truth, start_s = recording.ground_truth, 1_600_000_000
    turned = truth.omega_rad_s @ np.array([[0.0, 1, 0], [-1, 0, 0], [0, 0, 1]])
    for name in ("Crossroad", "bay"):
        (folder / name).mkdir()
        with rosbag1.Writer(folder / name / "out.bag") as bag:
            stream = bag.add_connection("/dvs/events", "dvs_msgs/msg/EventArray", msgdef="byte data", md5sum="0" * 32)
            imu = bag.add_connection("/dvs/imu", "sensor_msgs/msg/Imu", msgdef="byte data", md5sum="0" * 32)
            for i in range(0, len(recording.events), 5000):
                bag.write(stream, start_s * 10**9 + i, _message(recording.events[i : i + 5000], start_s))
            for t_s, omega in zip(truth.t_s[::5], turned[::5], strict=True):
                bag.write(imu, start_s * 10**9 + round(t_s * 1e9), _imu_message(start_s + t_s, omega))
        (folder / name / "camera.yaml").write_text(NOT_DAVIS)
    steps = Rotation.from_rotvec((truth.omega_rad_s[1:] + truth.omega_rad_s[:-1]) / 2 * np.diff(truth.t_s)[:, None])
    pose, lines = Rotation.from_euler("y", 90, degrees=True), []
    for t_s, step in zip(truth.t_s, [*steps, Rotation.identity()], strict=True):
        lines.append(" ".join(f"{value:.9f}" for value in (start_s + t_s, 0, 0, 0, *pose.as_quat())))
        pose = pose * step
    (folder / "bay" / "groundtruth.txt").write_text("\n".join(lines) + "\n")
    return folder


def test_the_uzh_sequences_by_both_protocols_and_taken_up_again(uzh, tmp_path, capsys, monkeypatch):
    out = tmp_path / "out"
    (tmp_path / "known.csv").write_text(
        "sequence,protocol,method,rms_deg_s,percent\nshapes_rotation,packet-end,somebody,12.5,1.5\n"
    )
    words = ["events", "benchmark", "davis240c", str(uzh), "--out", str(out), "--settings", "paper"]
    assert cli.main([*words, "--published", str(tmp_path / "known.csv")]) == 0
    printed = capsys.readouterr().out
    assert "shapes_rotation, paper:" in printed
    assert "packet-middle: packet middle" in printed
    assert [line.split()[:4] for line in printed.splitlines() if "somebody" in line] == [
        ["shapes_rotation", "somebody", "-", "12.50"]
    ]
    rows = json.loads((out / "results.json").read_text())["rows"]
    middle, end, known = rows
    assert (middle["protocol"], end["protocol"], known["method"]) == ("packet-middle", "packet-end", "somebody")
    truth = events.read_ground_truth(uzh / "shapes_rotation" / "imu.txt")
    trajectory = events.Trajectory.from_file(out / "shapes_rotation" / "paper" / "trajectory.npz")
    expected = events.evaluate(trajectory, truth, events.PACKET_MIDDLE, all_packets=True)
    assert middle["rms_deg_s"] == expected.rms_deg_s
    assert middle["rms_deg_s"] < 40  # the true offset of the clocks: 250 deg/s are turned
    assert (out / "results.csv").read_text().splitlines()[0].startswith("sequence,protocol,method,packets,rms_deg_s")
    assert cli.main(words) == 2
    assert "go on with it (--resume)" in capsys.readouterr().err

    def never(*_, **__):
        raise AssertionError("what is done is aligned again")

    monkeypatch.setattr(verb, "align", never)
    assert cli.main([*words, "--resume", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == rows[:2]
    for name in ("calib.txt", "events.txt"):
        path = uzh / "shapes_rotation" / name
        before = path.stat()
        path.touch()
        assert cli.main([*words, "--resume"]) == 1
        assert "made from another recording or calibration, or one has changed since" in capsys.readouterr().err
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def test_ecrot_by_its_gyroscope_or_its_poses(ecrot, tmp_path, capsys):
    out = tmp_path / "out"
    assert cli.main(["events", "benchmark", "ecrot", str(ecrot), "--out", str(out), "--settings", "packets"]) == 0
    rows = {row["sequence"]: row for row in json.loads((out / "results.json").read_text())["rows"]}
    assert {name: row["protocol"] for name, row in rows.items()} == {"bay": "poses", "crossroad": "gyroscope"}
    assert rows["bay"]["median_deg_s"] < 4
    assert rows["crossroad"]["median_deg_s"] < 4
    assert 0 < rows["bay"]["orientation_rms_deg"] < 2
    assert "turned deg" in capsys.readouterr().out


def test_what_is_missing_is_said(uzh, ecrot, tmp_path, capsys):
    with pytest.raises(InputError, match=r"none of boxes_rotation.*https://rpg"):
        sequences.davis240c(tmp_path)
    with pytest.raises(InputError, match="no sequence of ECRot"):
        sequences.ecrot(tmp_path)
    home = tmp_path / "boxes_rotation"
    home.mkdir()
    (home / "events.txt").write_text("0.1 1 1 1\n")
    with pytest.raises(InputError, match=r"its imu\.txt is not beside it"):
        sequences.davis240c(tmp_path)
    (home / "imu.txt").write_text("0 0 0 0 0 0 0\n")
    with pytest.raises(InputError, match=r"no calib\.txt"):
        sequences.davis240c(tmp_path)
    (tmp_path / "calib.txt").write_text(CALIB)
    assert [found.name for found in sequences.davis240c(tmp_path)] == ["boxes_rotation"]
    assert (
        cli.main(
            ["events", "benchmark", "davis240c", str(uzh), "--names", "boxes_rotation", "--out", str(tmp_path / "o")]
        )
        == 2
    )
    assert "no sequence boxes_rotation; there are: shapes_rotation" in capsys.readouterr().err
    (tmp_path / "wrong.csv").write_text("sequence,protocol,method,rms_deg_s\na,mine,b,1\n")
    words = ["events", "benchmark", "davis240c", str(uzh), "--out", str(tmp_path / "o"), "--published"]
    assert cli.main([*words, str(tmp_path / "wrong.csv")]) == 2
    assert "line 2: protocol 'mine'" in capsys.readouterr().err
    (tmp_path / "short.csv").write_text("sequence,protocol,method,rms_deg_s\na,packet-end\n")
    assert cli.main([*words, str(tmp_path / "short.csv")]) == 2
    assert "line 2: no method and no rms_deg_s" in capsys.readouterr().err
    (tmp_path / "nan.csv").write_text("sequence,protocol,method,rms_deg_s\na,packet-end,b,nan\n")
    assert cli.main([*words, str(tmp_path / "nan.csv")]) == 2
    assert "line 2: rms_deg_s or percent is no number" in capsys.readouterr().err


def test_where_nothing_was_aligned_no_table_is_printed(uzh, tmp_path, monkeypatch, capsys):
    def fails(*_, **__):
        raise InputError("no luck")

    monkeypatch.setattr(verb, "align", fails)
    words = ["events", "benchmark", "davis240c", str(uzh), "--settings", "paper", "--out", str(tmp_path / "out")]
    assert cli.main([*words, "--quiet"]) == 1
    assert capsys.readouterr().out == ""


def test_a_sequence_without_its_gyroscope_does_not_stop_the_others(tmp_path, monkeypatch, capsys):
    (tmp_path / "calib.txt").write_text(CALIB)
    for name in ("boxes_rotation", "poster_rotation"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "events.txt").write_text("0.1 1 1 1\n")
    (tmp_path / "poster_rotation" / "imu.txt").write_text("0 0 0 0 0 0 0\n")
    tried = []
    monkeypatch.setattr(verb, "align", lambda paths, **_: tried.append(paths[0].parent.name))
    monkeypatch.setattr(events.Trajectory, "from_file", lambda path: _trajectory())
    monkeypatch.setattr(verb, "_against_gyro", lambda sequence, trajectory: [])
    words = ["events", "benchmark", "davis240c", str(tmp_path), "--settings", "paper", "--out", str(tmp_path / "out")]
    assert cli.main(words) == 1
    said = capsys.readouterr().err
    assert tried == ["poster_rotation"]
    assert "boxes_rotation, paper: " in said
    assert "imu.txt is not beside it" in said
    assert "1 of 2 alignments failed" in said


def test_calibrations_of_ecrot_by_their_names(ecrot, tmp_path):
    for name in ("DVX-handheld.yaml", "DVX-motorized_mount.yaml", "DAVIS240C-synthetic.yaml"):
        (tmp_path / name).write_text(NOT_DAVIS)
    for name in ("Bridge.bag", "TU Berlin Main Building.bag", "town.bag"):
        (tmp_path / name).write_bytes(b"#ROSBAG V2.0\n")
    found = {each.name: each.camera.name for each in sequences.ecrot(tmp_path)}
    assert found == {
        "bridge": "DVX-handheld.yaml", "main_building": "DVX-motorized_mount.yaml", "town": "DAVIS240C-synthetic.yaml"
    }  # fmt: skip


def test_orientation_is_compared_up_to_one_rotation():
    t_us = np.arange(0, 1_000_000, 10_000)
    n = len(t_us)
    velocity = np.stack([np.full(n, 0.5), np.zeros(n), np.full(n, -0.2)], axis=1)
    integers = np.ones(n, np.int64)
    trajectory = events.Trajectory(
        "rotation", t_us, velocity, np.tile(np.eye(3), (n, 1, 1)), t_us, t_us, integers, integers, np.zeros(n),
        (events.Status.CONVERGED,) * n,
    )  # fmt: skip
    t_s = np.linspace(-0.1, 1.1, 50)
    start = Rotation.from_euler("xyz", [30, 40, 50], degrees=True)
    quat = (start * Rotation.from_rotvec(t_s[:, None] * velocity[0])).as_quat()
    assert orientation_error_deg(trajectory, t_s, quat) < 1e-6
    faster = (start * Rotation.from_rotvec(1.1 * t_s[:, None] * velocity[0])).as_quat()
    turned = np.degrees(0.1 * np.linalg.norm(velocity[0]) * 0.99)
    assert orientation_error_deg(trajectory, t_s, faster) == pytest.approx(turned / np.sqrt(12), rel=0.02)
    with pytest.raises(InputError, match="none of the packets"):
        orientation_error_deg(trajectory, t_s + 100, quat)
