"""A clean recording passes; each fault that is put into it is found, named and measured, and nothing else is."""

import json

import numpy as np
import pytest

from pauca import events
from pauca.cli import main

SIZE = (128, 128)
SECONDS = 2.0


def _clean(rate_hz: float = 4e5, seconds: float = SECONDS, seed: int = 0) -> dict[str, np.ndarray]:
    """A texture that swings before the camera, faster and slower, on a healthy sensor."""
    rng = np.random.default_rng(seed)
    n = int(rate_hz * seconds)
    t_s = np.linspace(0, seconds, 2000)
    speed = 0.15 + np.abs(np.sin(2 * np.pi * 0.9 * t_s)) * (1 + 0.3 * np.sin(2 * np.pi * 2.3 * t_s))
    passed = np.concatenate([[0], np.cumsum(speed[1:] + speed[:-1])])
    t = np.sort(np.interp(rng.uniform(0, passed[-1], n), passed, t_s) * 1e6).astype(np.int64)
    cells = rng.choice(SIZE[0] * SIZE[1], n, p=_texture(rng))
    return {"t": t, "x": cells % SIZE[0], "y": cells // SIZE[0], "p": rng.integers(0, 2, n)}


def _texture(rng: np.random.Generator) -> np.ndarray:
    """How often each pixel fires: smooth, threefold more at some places than at others."""
    y, x = np.mgrid[: SIZE[1], : SIZE[0]] / 20
    share = 2 + np.sin(x + rng.uniform(0, 6)) * np.cos(y + rng.uniform(0, 6))
    return (share / share.sum()).ravel()


def _recording(columns: dict[str, np.ndarray], size=SIZE) -> events.Recording:
    order = np.argsort(columns["t"], kind="stable")
    t, x, y, p = (columns[name][order] for name in "txyp")
    return events.Recording(events.Events.from_arrays(t, x, y, p, size), name="rec")


def _kept(columns, kept):
    return {name: column[kept] for name, column in columns.items()}


def _with(columns, **more):
    return {name: np.concatenate([column, more[name]]) for name, column in columns.items()}


def _hot(c):
    t = np.arange(0, SECONDS * 1e6, 250).astype(np.int64)
    ones = np.ones_like(t)
    return _with(
        c,
        t=np.concatenate([t, t]),
        x=np.concatenate([17 * ones, 90 * ones]),
        y=np.concatenate([33 * ones, 2 * ones]),
        p=np.concatenate([ones, ones]),
    )


def _dead(c):
    return _kept(c, ~np.isin(c["y"] * SIZE[0] + c["x"], [40 * 128 + 50, 41 * 128 + 50, 100 * 128 + 3]))


def _flicker(c):
    rng, n = np.random.default_rng(5), len(c["t"]) // 4
    phase = rng.normal(0, 0.08, n) + np.where(rng.random(n) < 0.5, 0.25, 0.75)
    t = ((rng.integers(0, int(100 * SECONDS), n) + phase) * 1e4).astype(np.int64)
    on = (phase < 0.5).astype(int)
    return _with(c, t=np.clip(t, 0, None), x=rng.integers(0, 128, n), y=rng.integers(0, 128, n), p=on)


def _jump(c):
    return {**c, "t": c["t"] + (c["t"] > 1_000_000) * (1 << 24)}


def _gap(c):
    return _kept(c, (c["t"] < 700_000) | (c["t"] > 790_000))


def _dropped(c):
    starts = np.array([310, 523, 714, 1310, 1790]) * 1000
    return _kept(c, ~((c["t"][:, None] >= starts) & (c["t"][:, None] < starts + 6000)).any(axis=1))


def _lopsided(c):
    return _kept(c, (c["p"] == 1) | (np.arange(len(c["p"])) % 20 == 0))


def _empty(c):
    return _kept(c, ~((c["x"] >= 60) & (c["x"] < 90) & (c["y"] >= 20) & (c["y"] < 60)))


def _dead_row(c):
    return _kept(c, c["y"] != 64)


FAULTS = {
    "hot pixels": (_hot, {"count": 2}),
    "dead pixels": (_dead, {"count": 3}),
    "flicker": (_flicker, {"frequency_hz": pytest.approx(100, abs=0.2)}),
    "clock jumps": (_jump, {"count": 1, "longest_s": pytest.approx(16.777, abs=0.01)}),
    "gaps": (
        _gap,
        {"count": 1, "longest_s": pytest.approx(0.09, abs=0.002), "longest_at_s": pytest.approx(0.7, abs=0.002)},
    ),
    "dropped packets": (_dropped, {"count": 5, "longest_s": pytest.approx(0.006, abs=0.001)}),
    "polarity imbalance": (_lopsided, {"on_share": pytest.approx(0.952, abs=0.01)}),
    "empty regions": (_empty, {"regions": [{"x0": 60, "x1": 89, "y0": 20, "y1": 59, "pixels": 1200}]}),
}


def test_a_clean_recording_has_no_fault():
    for seed in range(3):
        assert events.check(_recording(_clean(seed=seed))).faults == ()


@pytest.mark.parametrize("kind", FAULTS)
def test_a_fault_is_found_and_measured_and_nothing_else(kind):
    damage, numbers = FAULTS[kind]
    report = events.check(_recording(damage(_clean())))
    assert [fault.kind for fault in report.faults] == [kind]
    (fault,) = report.faults
    assert {name: fault.numbers[name] for name in numbers} == numbers
    assert fault.remedy
    json.dumps(report.as_dict())


def test_a_dead_row_is_an_empty_region():
    (fault,) = events.check(_recording(_dead_row(_clean()))).faults
    assert fault.kind == "empty regions"
    assert fault.numbers["regions"] == [{"x0": 0, "x1": 127, "y0": 64, "y1": 64, "pixels": 128}]


def test_a_clock_that_ran_over_is_called_by_its_period():
    (fault,) = events.check(_recording(_jump(_clean()))).faults
    assert "2^24 us (EVT3): a clock that ran over" in fault.what


def test_a_saturated_readout():
    """No more than 1,000 events get through in a millisecond."""
    columns = _clean(rate_hz=1.2e6)
    order = np.argsort(columns["t"], kind="stable")
    ms = columns["t"][order] // 1000
    rank = np.arange(len(ms)) - np.searchsorted(ms, ms)
    report = events.check(_recording(_kept(columns, order[rank < 1000])))
    assert [fault.kind for fault in report.faults] == ["saturated read-out"]
    assert report.faults[0].numbers["rate_hz"] == pytest.approx(1e6, rel=0.01)
    assert events.check(_recording(columns)).faults == ()


def test_a_sensor_that_is_said_to_be_larger():
    (fault,) = events.check(_recording(_clean(rate_hz=1e6), size=(240, 180))).faults
    assert fault.kind == "wrong sensor size"
    assert fault.numbers["seen"] == [128, 128]
    assert "as a sensor of 128 x 128 has" in fault.what


def _file(tmp_path, columns, name="rec.npz"):
    x, y, p = (columns["x"].astype(np.uint16), columns["y"].astype(np.uint16), columns["p"].astype(np.uint8))
    np.savez(tmp_path / name, t_us=columns["t"], x=x, y=y, p=p)
    return tmp_path / name


def _sorted(columns):
    return _kept(columns, np.argsort(columns["t"], kind="stable"))


def test_a_sensor_that_is_said_to_be_smaller(tmp_path):
    stream = events.open_events(_file(tmp_path, _clean()), events.ReadConfig(size=(126, 128)))
    (fault,) = events.check(stream).faults
    assert fault.kind == "wrong sensor size"
    assert fault.numbers["beyond"] > 1000


def test_a_clock_that_steps_back_is_a_fault_and_what_is_before_it_is_looked_at(tmp_path):
    columns = _sorted(_hot(_clean()))
    columns["t"] = columns["t"] - (columns["t"] > 1_200_000) * 400_000
    report = events.check(events.open_events(_file(tmp_path, columns)))
    assert [fault.kind for fault in report.faults] == ["clock jumps", "hot pixels"]
    assert report.faults[0].numbers["back_s"] == pytest.approx(0.4, abs=0.001)


def test_single_wrong_times_are_a_fault(tmp_path):
    columns = _clean()
    columns["t"][5000] += 2**33
    (fault,) = events.check(events.open_events(_file(tmp_path, columns))).faults
    assert (fault.kind, fault.numbers["count"], fault.numbers["place"]) == ("clock jumps", 1, "event 5001")


def test_chunks_are_the_whole(tmp_path):
    path = _file(tmp_path, _sorted(_dropped(_hot(_clean()))))
    whole = events.check(events.read(path, size=SIZE)).as_dict()
    stream = events.open_events(path, events.ReadConfig(size=SIZE), chunk_events=10_007)
    assert events.check(stream).as_dict() == whole


def test_bins_of_long_recordings_grow():
    from pauca.events.diagnosis.rates import Rates

    rng = np.random.default_rng(0)
    t = np.sort(rng.integers(0, 10**8, 5000))
    seen = events.Events.from_arrays(t, t * 0, t * 0, rng.integers(0, 2, 5000), (1, 1))
    rates = Rates(bin_us=1000, most_bins=100)
    for start in range(0, 5000, 700):
        rates.add(seen[start : start + 700])
    assert 50 <= rates.counts.shape[1] <= 100
    edges = np.arange(rates.counts.shape[1] + 1) * rates.bin_us + t[0]
    for polarity in (0, 1):
        assert np.array_equal(rates.counts[polarity], np.histogram(t[seen.p == polarity], edges)[0])


# Faults that the data have indeed: lamps on 60 Hz mains in two of the laboratories and on 50 Hz in a third, noisy
# sensors with hundreds of hot pixels, an early DAVIS whose sensor has 190 columns.
REAL = {
    "sim/*.npz": {},
    "davis240c_packets/*.npz": {},
    "rotation/*_rotation.npz": {},
    "rotation/trans_boxes_real.npz": {},
    "rotation/rot_bars_real.npz": {"hot pixels", "dead pixels", "flicker", "wrong sensor size"},
    "davis240c_eventemin/poster*.npz": {},
    "mocap/shapes_rotation_first0.5s.npz": {},
    "recognition/dvs128_objects/a_*.npz": {"flicker"},
    "recognition/dvs128_objects/b_*.npz": {},
    "formats/davis346_emlb_demo-01.aedat4": {},
    "formats/dvs128_MovingDarkBox.aedat": {},
    "formats/dvs128_Lapiseira.aedat": {"flicker"},
    "formats/expelliarmus_evt3_sample.raw": {},
    "formats/faery_*": {},
    "formats/ros1_evt3_640x480.bag": {"hot pixels", "flicker"},
    "formats/ros2_test_events_2.mcap": {},
    "formats/tonic_sample_n*": {},
}


@pytest.mark.realdata
@pytest.mark.parametrize("pattern", REAL)
def test_no_false_alarm_on_real_recordings(pauca_data, pattern):
    paths = sorted((pauca_data / "events").glob(pattern))
    assert paths
    for path in paths:
        found = {fault.kind for fault in events.check(events.open_events(path)).faults}
        assert found == set(REAL[pattern]), path


def test_the_verb(tmp_path, capsys):
    good, bad = _file(tmp_path, _clean(), "good.npz"), _file(tmp_path, _gap(_clean()), "sub.npz")
    assert main(["events", "check", str(good), "--plot", str(tmp_path / "good.png")]) == 0
    assert "good.npz: 800,000 events of 128 x 128 pixels in 2.000 s: no fault found" in capsys.readouterr().out
    assert (tmp_path / "good.png").stat().st_size > 10_000
    assert main(["events", "check", str(good), str(bad), str(tmp_path / "gone.raw"), "--json"]) == 1
    told = capsys.readouterr()
    assert [len(each["faults"]) for each in json.loads(told.out)] == [0, 1]
    assert "gone.raw: no such file" in told.err
    assert main(["events", "check", str(good), str(bad), "--plot", str(tmp_path / "a.png")]) == 2
    assert "name a folder" in capsys.readouterr().err


def test_info_of_several(tmp_path, capsys):
    _file(tmp_path, _clean(rate_hz=1e4), "a.npz")
    assert main(["events", "info", str(tmp_path), "--json"]) == 0
    (only,) = json.loads(capsys.readouterr().out)
    assert only["count"] == 20_000
    assert only["path"].endswith("a.npz")
