"""The simulator obeys its own physics: thresholds, times, polarity, geometry, ground truth, seeds."""

import math
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from scipy.spatial.transform import Rotation

from pauca.errors import ConfigError, InputError
from pauca.events.camera import Camera, undistortion_table
from pauca.events.recording import GroundTruth
from pauca.events.simulation import DAVIS240C, SimulateConfig, simulate, simulator

SMALL = Camera((64, 48), 60.0, 60.0, 31.5, 23.5)
IDEAL = SimulateConfig(contrast_spread=0.0, refractory_us=0.0, noise_hz=0.0, duration_s=0.2)


def _turn(omega, duration_s: float = 0.2) -> GroundTruth:
    """Constant angular velocity, rad/s."""
    return GroundTruth(np.array([0.0, duration_s]), np.tile(np.asarray(omega, float), (2, 1)))


def _columns(tmp_path, intensity: np.ndarray):
    """An equirectangular image whose columns have the given intensities (0 to 255)."""
    path = tmp_path / "panorama.png"
    rows = len(intensity) // 2
    Image.fromarray(np.tile(intensity.astype(np.uint8), (rows, 1))).save(path)
    return path


def test_repeatable_and_seeded():
    one, same = simulate(IDEAL, camera=SMALL), simulate(IDEAL, camera=SMALL)
    for name in ("t_us", "x", "y", "p"):
        assert np.array_equal(getattr(one.events, name), getattr(same.events, name))
    other = simulate(replace(IDEAL, seed=1), camera=SMALL)
    assert len(other.events) != len(one.events)


def test_pixels_are_looked_at_as_the_file_that_holds_them(tmp_path):
    path = _columns(tmp_path, np.random.default_rng(0).integers(0, 255, 400))
    of_file = simulate(replace(IDEAL, image=path), camera=SMALL).events
    of_pixels = simulate(IDEAL, camera=SMALL, image=np.asarray(Image.open(path))).events
    assert len(of_file) > 1000
    assert np.array_equal(of_file.t_us, of_pixels.t_us)


def test_the_size_of_the_buffer_changes_nothing(monkeypatch):
    whole = simulate(IDEAL, camera=SMALL).events
    monkeypatch.setattr(simulator, "_BUFFER", 1000)
    pieces = simulate(IDEAL, camera=SMALL).events
    assert len(whole) > 5000
    for name in ("t_us", "x", "y", "p"):
        assert np.array_equal(getattr(whole, name), getattr(pieces, name))


def test_a_still_camera_sees_nothing_but_noise():
    still = _turn([0, 0, 0], 2.0)
    assert len(simulate(IDEAL, camera=SMALL, motion=still).events) == 0
    noisy = simulate(replace(IDEAL, noise_hz=5.0), camera=SMALL, motion=still).events
    expected = 5.0 * 2.0 * 64 * 48  # Poisson: standard deviation 175
    assert abs(len(noisy) - expected) < 5 * math.sqrt(expected)
    assert abs(noisy.p.mean() - 0.5) < 5 * 0.5 / math.sqrt(expected)


def test_hot_pixels():
    config = replace(IDEAL, hot_pixels=3, hot_pixel_hz=1000.0)
    events = simulate(config, camera=SMALL, motion=_turn([0, 0, 0], 1.0)).events
    pixels, counts = np.unique(events.y.astype(int) * 64 + events.x, return_counts=True)
    assert len(pixels) == 3
    assert np.all(np.abs(counts - 1000) < 5 * math.sqrt(1000))


@pytest.mark.parametrize(("omega_y", "leading"), [(-2.0, 1), (2.0, 0)])
def test_polarity_of_a_bright_edge(tmp_path, omega_y, leading):
    """Left half dark, right half bright. Turning left (negative about y, which points down) moves the image right."""
    columns = np.where(np.arange(800) < 400, 20, 220)
    config = replace(IDEAL, image=_columns(tmp_path, columns))
    camera_sees_edge = simulate(config, camera=SMALL, motion=_turn([0, omega_y, 0])).events
    # Dark comes in from the left when the image moves right: OFF; when it moves left, bright comes in: ON.
    assert set(camera_sees_edge.p.tolist()) == {1 - leading}
    middle = camera_sees_edge.x[np.argsort(camera_sees_edge.t_us)]
    first, last = middle[:200].mean(), middle[-200:].mean()
    assert (last > first) == (omega_y < 0)


def test_a_bright_bar_moving_right_is_on_in_front_and_off_behind(tmp_path):
    columns = np.where(np.abs(np.arange(800) - 400) < 8, 220, 20)
    events = simulate(
        replace(IDEAL, image=_columns(tmp_path, columns)), camera=SMALL, motion=_turn([0, -1.0, 0], 0.1)
    ).events
    late = events[-1500:]
    assert late.x[late.p == 1].mean() > late.x[late.p == 0].mean() + 3


@pytest.mark.parametrize(("contrast", "ratio"), [(0.1, 1.0), (0.3, 0.5), (0.2, 2.0)])
def test_number_of_events_is_change_over_threshold(tmp_path, contrast, ratio):
    """Before a ramp of brightness each pixel fires |change| / threshold times, give or take where it started.

    A start between the two thresholds advances the first event by up to one threshold, or delays it by the other.
    """
    ramp = np.linspace(40, 220, 800)
    config = replace(IDEAL, image=_columns(tmp_path, ramp), contrast_on=contrast, contrast_off=contrast * ratio)
    camera = Camera((32, 24), 120.0, 120.0, 15.5, 11.5)
    turned_rad = 0.8
    columns_rad = (np.arange(800) - 399.5) / 800 * 2 * np.pi
    pixels_rad = np.arctan((np.arange(32) - 15.5) / 120)
    for sign, threshold, other in ((1, contrast, contrast * ratio), (-1, contrast * ratio, contrast)):
        events = simulate(config, camera=camera, motion=_turn([0, sign * turned_rad / 0.2, 0])).events
        assert set(events.p.tolist()) == {int(sign > 0)}
        counts = np.bincount(events.y.astype(int) * 32 + events.x, minlength=32 * 24).reshape(24, 32)[11]
        before = np.log((np.interp(pixels_rad, columns_rad, ramp) / 255) ** 2.2 + 0.02)
        after = np.log((np.interp(pixels_rad + sign * turned_rad, columns_rad, ramp) / 255) ** 2.2 + 0.02)
        exact = np.abs(after - before) / threshold
        surplus = counts - exact
        assert surplus.max() < 1.1
        assert surplus.min() > -1.1 - other / threshold
        # Pixels do not start all alike: charged by anything up to one threshold, they round up or down.
        assert surplus.std() == pytest.approx(np.sqrt(np.mean((exact % 1) * (1 - exact % 1))), abs=0.25)


def test_threshold_spread_is_that_of_the_rates(tmp_path):
    """One brightness seen by all pixels changes alike; 20 % of spread in thresholds shows in the counts."""
    path = _columns(tmp_path, np.linspace(5, 250, 4000))
    camera = Camera((40, 30), 300.0, 300.0, 19.5, 14.5)
    counts = []
    for spread in (0.0, 0.2):
        config = replace(IDEAL, image=path, contrast_on=0.01, contrast_off=0.01, contrast_spread=spread)
        events = simulate(config, camera=camera, motion=_turn([0, 4.0, 0])).events
        counts.append(np.bincount(events.y.astype(int) * 40 + events.x, minlength=1200).reshape(30, 40))
    ratio = counts[0] / counts[1]  # threshold of the pixel over the mean threshold
    assert abs(ratio.mean() - 1) < 0.03
    assert abs(ratio.std() - 0.2) < 0.02


def test_times_are_those_of_the_crossing(tmp_path):
    """A soft edge sweeps the row at constant speed: events of neighboring pixels follow at 1 / (omega f) seconds."""
    columns = np.clip(np.arange(4000) - 1980.0, 0, 40) * 5 + 20
    camera = Camera((64, 8), 200.0, 200.0, 31.5, 3.5)
    config = replace(IDEAL, image=_columns(tmp_path, columns), contrast_on=0.5)
    omega = 1.0  # to the right: the edge, straight ahead at first, moves to the left
    events = simulate(config, camera=camera, motion=_turn([0, omega, 0])).events
    on_row = events.y == 4
    pixels = np.arange(8, 24)
    seconds = [np.median(events.t_us[on_row & (events.x == x)]) / 1e6 for x in pixels]
    slope = np.polyfit(np.arctan((pixels - 31.5) / 200.0), seconds, 1)[0]
    assert slope * omega == pytest.approx(-1, abs=0.1)  # starts between thresholds shift single pixels: 3 %


def test_refractory_period_keeps_its_distance():
    config = replace(IDEAL, refractory_us=2000.0, contrast_on=0.1, contrast_off=0.1)
    events = simulate(config, camera=SMALL).events
    pixel = events.y.astype(int) * 64 + events.x
    order = np.lexsort((events.t_us, pixel))
    same = np.diff(pixel[order]) == 0
    gaps = np.diff(events.t_us[order])[same]
    assert gaps.size > 1000
    assert gaps.min() >= 1999  # times are rounded to microseconds
    assert len(events) < len(simulate(replace(config, refractory_us=0.0), camera=SMALL).events)


def test_finer_steps_give_the_same_events():
    """Half a pixel a step is fine enough: halving it changes few events, and times by far less than a step."""
    coarse = simulate(replace(IDEAL, scene="shapes"), camera=SMALL).events
    fine = simulate(replace(IDEAL, scene="shapes", step_pixels=0.1), camera=SMALL).events
    assert abs(len(coarse) - len(fine)) < 0.02 * len(fine)
    bins = np.arange(0, 200_001, 10_000)
    assert np.allclose(np.histogram(coarse.t_us, bins)[0], np.histogram(fine.t_us, bins)[0], rtol=0.1, atol=40)


def _contrast(events, camera: Camera, omega, t_ref_us: float) -> float:
    """Variance of the image of events warped by an angular velocity, in a few lines of its own."""
    bearings = undistortion_table(camera)[events.y.astype(int), events.x.astype(int)].astype(float)
    rays = np.concatenate([bearings, np.ones((len(events), 1))], axis=1)
    back = Rotation.from_rotvec((events.t_us - t_ref_us)[:, None] / 1e6 * np.asarray(omega))
    x, y, z = back.apply(rays).T
    image, _, _ = np.histogram2d(
        y / z * camera.fy,
        x / z * camera.fx,
        bins=[180, 240],
        range=[[-110, 70], [-130, 110]],
        weights=2.0 * events.p - 1,
    )
    return float(image.var())


@pytest.mark.parametrize("scene", ["texture", "shapes"])
def test_true_velocity_sharpens_through_distortion(scene):
    """Warped with the ground truth, the image is sharper than where its middle or its rim would move by two pixels."""
    recording = simulate(SimulateConfig(scene=scene, duration_s=0.4, seed=3))
    events = recording.events[len(recording.events) // 2 :][:60_000]
    middle = (events.t_us[0] + events.t_us[-1]) / 2
    truth = recording.ground_truth
    omega = np.array([np.interp(middle / 1e6, truth.t_s, truth.omega_rad_s[:, axis]) for axis in range(3)])
    best = _contrast(events, DAVIS240C, omega, middle)
    assert best > 1.2 * _contrast(events, DAVIS240C, np.zeros(3), middle)
    assert best > 1.2 * _contrast(events, DAVIS240C, -omega, middle)
    reach = 2 / 100 / (events.duration_us / 2e6)  # rad/s: two pixels, 100 from the middle, in half the window
    for axis in np.eye(3):
        for sign in (-1, 1):
            assert best > _contrast(events, DAVIS240C, omega + sign * reach * axis, middle)


def test_ground_truth_is_its_own_integral():
    """Orientation integrated in steps of 10 us (first order) from the linear angular velocity agrees to 1e-5 rad."""
    truth = simulate(replace(IDEAL, peak_deg_s=700.0, bandwidth_hz=5.0), camera=SMALL).ground_truth
    fine = np.arange(0, 0.2, 1e-5) + 5e-6
    omega = np.stack([np.interp(fine, truth.t_s, truth.omega_rad_s[:, axis]) for axis in range(3)], axis=1)
    orientation = Rotation.identity()
    for part in np.array_split(Rotation.from_rotvec(omega * 1e-5).as_quat(), 20):
        for quaternion in part:
            orientation = orientation * Rotation.from_quat(quaternion)
    error = (Rotation.from_quat(truth.quat_xyzw[-1]).inv() * orientation).magnitude()
    assert error < 1e-5


def test_random_motion_has_the_peak_and_the_length_asked_for():
    truth = simulate(replace(IDEAL, duration_s=0.5, peak_deg_s=123.0), camera=SMALL).ground_truth
    assert np.linalg.norm(truth.omega_rad_s, axis=1).max() == pytest.approx(math.radians(123.0))
    assert truth.t_s[-1] == pytest.approx(0.5)
    assert np.allclose(np.diff(truth.t_s), 1e-3)


def test_given_motion_keeps_its_clock():
    t_s = np.linspace(40.0, 40.1, 21)
    omega = np.stack([np.sin(t_s * 50), np.cos(t_s * 50), np.ones(21)], axis=1)
    recording = simulate(IDEAL, camera=SMALL, motion=GroundTruth(t_s, omega))
    truth = recording.ground_truth
    assert truth.t_s[0] == 40.0
    assert np.allclose(truth.omega_rad_s[::5], omega)
    assert 40_000_000 <= recording.events.t_us[0] < recording.events.t_us[-1] <= 40_100_000


def test_no_image(tmp_path):
    (tmp_path / "notes.txt").write_text("no image")
    with pytest.raises(InputError, match=r"notes\.txt: cannot be read as an image"):
        simulate(replace(IDEAL, image=tmp_path / "notes.txt"), camera=SMALL)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"duration_s": 0.0}, "duration_s is 0.0, but must be positive"),
        ({"contrast_on": -0.1}, "contrast_on"),
        ({"noise_hz": -1.0}, "noise_hz is -1.0, but must not be negative"),
        ({"peak_deg_s": math.nan}, "peak_deg_s"),
    ],
)
def test_impossible_configs(changes, message):
    with pytest.raises(ConfigError, match=message):
        SimulateConfig(**changes)


@pytest.mark.parametrize(
    ("t_s", "message"),
    [([0.0, 0.0], "times must increase"), ([0.0, 1e-4], "lasts 0.0001 s"), ([0.0, math.nan], "times must increase")],
)
def test_impossible_motions(t_s, message):
    with pytest.raises(InputError, match=message):
        simulate(IDEAL, camera=SMALL, motion=GroundTruth(np.array(t_s), np.zeros((2, 3))))


@pytest.mark.realdata
@pytest.mark.slow
def test_rates_resemble_the_shared_simulation(pauca_data):
    """The shared sequences have the same sensor and motion before another texture: rates within a factor of two."""
    with np.load(pauca_data / "events" / "sim" / "texture_rot.npz") as shared:
        t_s, omega, t_us = shared["gt_t"][:600], shared["gt_w"][:600].astype(float), shared["t_us"]
    events = simulate(SimulateConfig(), motion=GroundTruth(t_s, omega)).events
    theirs = np.count_nonzero((t_us >= events.t_us[0]) & (t_us <= events.t_us[-1]))
    assert 0.5 < len(events) / theirs < 2
