import numpy as np
import pytest

from pauca import cli, events
from pauca.errors import InputError
from pauca.events import Camera, GyroPrior
from pauca.events.coverage import covered, not_read
from pauca.events.video import frames

CAMERA = Camera.pinhole((64, 48))


@pytest.fixture(scope="module")
def turn():
    config = events.SimulateConfig(movement="constant", peak_deg_s=90.0, duration_s=0.3, noise_hz=0.0, seed=3)
    recording = events.simulate(config, camera=CAMERA)
    return recording, events.align(recording)


def _later(recording: events.Recording, by_us: int) -> events.Recording:
    found = recording.events
    moved = events.Events(found.t_us + by_us, found.x, found.y, found.p, found.size)
    return events.Recording(moved, recording.camera)


def test_a_trajectory_of_another_time_gives_no_empty_picture(turn):
    recording, trajectory = turn
    other = _later(recording, 10_000_000)
    with pytest.raises(InputError, match=r"no event lies at the trajectory's time, 0\.0.* another clock"):
        events.panorama(other, trajectory)
    with pytest.raises(InputError, match="no event lies at the trajectory's time"):
        list(frames(other, trajectory))


def test_a_trajectory_says_what_it_leaves_out(turn):
    recording, trajectory = turn
    first_us, last_us = int(recording.events.t_us[0]), int(recording.events.t_us[-1])
    assert covered(trajectory, first_us, last_us) == ""
    assert covered(trajectory, first_us, first_us) == ""  # a single event within
    assert "covers 0.000 to 0.3" in covered(trajectory, first_us, last_us + 200_000)
    with pytest.raises(InputError, match="it is of another recording"):
        covered(trajectory, last_us + 100_000, last_us + 200_000)


def test_the_commands_say_so_too(turn, tmp_path, capsys):
    recording, trajectory = turn
    path, known = str(tmp_path / "later.npz"), str(tmp_path / "trajectory.csv")
    events.write(path, _later(recording, 10_000_000))
    trajectory.to_csv(known)
    for words in (["panorama", path, "--out", str(tmp_path)], ["video", path, "--out", str(tmp_path / "a.gif")]):
        assert cli.main(["events", *words, "--trajectory", known]) == 2
        assert "and the events at 10.000 to 10.3" in capsys.readouterr().err
    events.write(path, _later(recording, 150_000), force=True)
    assert cli.main(["events", "panorama", path, "--out", str(tmp_path), "--trajectory", known]) == 0
    told = capsys.readouterr()
    assert "what lies outside is left out" in told.err
    shown = int(told.out.split(" events at ")[0].replace(",", ""))
    assert 0 < shown < 0.7 * len(recording.events)  # and not all that the file holds


def test_a_gyroscope_that_was_read_at_another_time_is_said(turn, tmp_path, capsys):
    recording, _ = turn
    path = str(tmp_path / "turn.npz")
    events.write(path, recording)
    truth = recording.ground_truth
    words = ["events", "align", path, "--images", "0", "--force", "--out", str(tmp_path), "--gyro-prior"]
    for shift_s, code, said in ((50.0, 2, "are both on one clock?"), (0.1, 0, "packets are estimated without it")):
        rows = np.column_stack([truth.t_s + shift_s, np.zeros((len(truth.t_s), 3)), truth.omega_rad_s])
        np.savetxt(tmp_path / "imu.txt", rows, fmt="%.9f")
        assert cli.main([*words, str(tmp_path / "imu.txt")]) == code
        assert said in "".join(capsys.readouterr())


def test_packets_in_which_a_gyroscope_was_not_read_are_counted(turn):
    packets = list(events.align_packets(turn[0]))
    whole = np.arange(-10_000.0, packets[-1].end_us + 10_000, 5_000)

    def said(t_us):
        return not_read(GyroPrior(t_us, np.zeros((len(t_us), 3)), 0.1), packets)

    assert said(whole) == ""
    assert f"s: 1 of {len(packets)} packets are estimated without it" in said(whole[whole < packets[-1].end_us])
    middle_us = (packets[1].start_us + packets[1].end_us) / 2
    gap = whole[np.abs(whole - middle_us) > 25_000]
    lacking = sum(a.start_us < middle_us + 25_000 and a.end_us > middle_us - 25_000 for a in packets)
    assert f"s, with gaps: {lacking} of {len(packets)} packets are estimated without it" in said(gap)
