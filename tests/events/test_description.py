"""What `info` says about recordings whose faults are known."""

import json

import numpy as np
import pytest

from pauca.errors import InputError
from pauca.events.camera import Camera
from pauca.events.description import info
from pauca.events.io import Recording, read
from pauca.events.simulation import SimulateConfig, simulate

from .scenes import poisson_times, random_events

CAMERA = Camera((64, 48), 60.0, 60.0, 31.5, 23.5)


def test_rates_and_times():
    """1000 events/s, but 50,000 in the tenth of a second from 0.5 s on."""
    t = np.sort(np.concatenate([np.arange(0, 1_000_001, 1000), 500_000 + np.arange(0, 100_000, 2)]))
    found = info(Recording(random_events(t), name="known"))
    assert (found.count, found.start_us, found.duration_s) == (51_001, 0, 1.0)
    assert found.mean_rate_hz == pytest.approx(51_001)
    assert found.peak_rate_hz == pytest.approx(501_000)
    assert found.same_time_share == pytest.approx(100 / 51_001)
    assert found.problems == ()


def test_polarity_and_pixels():
    t = poisson_times(10_000, 1.0)
    n = len(t)
    found = info(Recording(random_events(t, x=np.zeros(n, int), y=np.arange(n) % 48, p=np.arange(n) % 4 > 0)))
    assert found.on_share == pytest.approx(0.75, abs=1e-3)
    assert found.active_pixels == 48


@pytest.mark.parametrize(("p", "words"), [(0, "all events are OFF"), (1, "all events are ON")])
def test_lost_polarity(p, words):
    t = poisson_times(10_000, 1.0)
    assert any(words in problem for problem in info(Recording(random_events(t, p=np.full(len(t), p)))).problems)


def test_gaps():
    t = np.concatenate([np.arange(0, 500_000, 100), np.arange(900_000, 1_500_000, 100)])
    found = info(Recording(random_events(t)))
    (gap,) = found.gaps
    assert (gap.start_us, gap.duration_us) == (499_900, 400_100)
    assert any("1 gaps without any event, 27 % of the time" in problem for problem in found.problems)


def test_a_sparse_recording_has_no_gaps():
    assert info(Recording(random_events(poisson_times(20, 60.0)))).gaps == ()


def test_wrong_size_and_coarse_times():
    t = np.repeat(np.arange(50) * 20_000, 700)
    rng = np.random.default_rng(0)
    found = info(Recording(random_events(t, rng.integers(0, 20, len(t)), rng.integers(0, 20, len(t)))))
    assert any("within 20 x 20 pixels" in problem for problem in found.problems)
    assert any("times are coarse: about one every 19.6 ms" in problem for problem in found.problems)


def test_repairs_are_problems(tmp_path):
    (tmp_path / "events.txt").write_text("0.1 1 2 1\n0.2 3\n0.3 5 6 0\n")
    problems = info(read(tmp_path / "events.txt", size=(240, 180))).problems
    assert problems[0] == "dropped 1 lines with too few columns (line 2)"


def test_table_and_json():
    recording = simulate(SimulateConfig(duration_s=0.05), camera=CAMERA)
    found = info(recording)
    table = dict(found.table())
    assert table["sensor"] == "64 x 48 pixels"
    assert table["camera"] == "fx 60.0, fy 60.0, cx 31.5, cy 23.5"
    assert table["ground truth"] == "51 samples"
    assert json.loads(json.dumps(found.as_dict()))["count"] == len(recording.events)


def test_one_event():
    found = info(Recording(random_events([5])))
    assert (found.count, found.duration_s, found.gaps) == (1, 0.0, ())
    assert np.isfinite(found.peak_rate_hz)


def test_norandom_events():
    with pytest.raises(InputError, match="holds no events"):
        info(Recording(random_events([]), name="void"))


def test_undistorted_pixels():
    t = poisson_times(10_000, 1.0)
    x = np.random.default_rng(0).uniform(-3, 66, len(t)).astype(np.float32)
    assert info(Recording(random_events(t, x=x))).active_pixels > 2000


@pytest.mark.realdata
def test_real_recordings_have_no_problems(pauca_data):
    for path in sorted((pauca_data / "events" / "davis240c_packets").glob("*.npz")):
        assert info(read(path)).problems == ()


@pytest.mark.realdata
def test_rate_of_a_real_packet(pauca_data):
    """boxes_rotation: 30,000 events in 5.5 ms, 5.42 million events/s (specification, measured before)."""
    found = info(read(pauca_data / "events" / "davis240c_packets" / "boxes_rotation.npz"))
    assert found.mean_rate_hz == pytest.approx(5.42e6, rel=0.01)
