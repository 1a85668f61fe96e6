"""The simulator's kernels against what they mean, written out."""

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from pauca.events.kernels.simulate import add_lattice_noise, directions, draw_polygon, expose, look


def _smooth(rays) -> np.ndarray:
    x, y, z = np.moveaxis(np.asarray(rays, float), -1, 0)
    return np.sin(2 * x) + np.cos(3 * y) + x * z


def test_look_sees_a_smooth_function_in_every_direction():
    """Bilinear interpolation on 128 texels a face: the error is below the curvature times a texel squared, / 4."""
    faces = _smooth(directions(128)).astype(np.float32)
    rng = np.random.default_rng(0)
    rays = rng.standard_normal((5000, 3))
    rays /= np.linalg.norm(rays, axis=1, keepdims=True)
    turn = Rotation.from_quat([0.1, 0.5, -0.3, 0.8])
    out = np.empty(5000, np.float32)
    look(faces, turn.as_matrix().astype(np.float32), np.ascontiguousarray(rays.T, np.float32), out)
    assert np.abs(out - _smooth(turn.apply(rays))).max() < 10 * (2 / 128) ** 2 / 4


def _reference_pixel(seen, times, reference, on, off, refractory):
    """Events of one pixel with brightness linear between the looks, in plain Python."""
    events, ready = [], -np.inf
    for (t0, b0), (t1, b1) in zip(zip(times, seen, strict=True), list(zip(times, seen, strict=True))[1:], strict=False):
        slope, now = (b1 - b0) / (t1 - t0), t0
        while True:
            if ready > now:
                if ready >= t1:
                    break
                now, reference, ready = ready, b0 + slope * (ready - t0), -np.inf
            if slope > 0 and b1 - reference >= on:
                reference += on
            elif slope < 0 and reference - b1 >= off:
                reference -= off
            else:
                break
            now = t0 + (reference - b0) / slope
            events.append((now, slope > 0))
            if refractory:
                ready = now + refractory
    return events


@pytest.mark.parametrize("refractory", [0.0, 30.0, 5000.0])
def test_events_of_each_pixel_are_those_of_the_definition(refractory):
    rng = np.random.default_rng(4)
    faces = (3 * _smooth(directions(64))).astype(np.float32)
    steps, pixels = 60, 20
    turns = Rotation.from_rotvec(np.cumsum(rng.normal(0, 0.05, (steps, 3)), axis=0)).as_matrix().astype(np.float32)
    times = np.cumsum(rng.uniform(500, 1500, steps))
    rays = rng.normal([[0], [0], [1]], 0.2, (3, pixels)).astype(np.float32)
    thresholds = rng.uniform(0.05, 0.3, (2, pixels)).astype(np.float32)
    seen = np.empty((steps, pixels), np.float32)
    for k in range(steps):
        look(faces, turns[k], rays, seen[k])
    out = np.empty(100_000), np.empty(100_000, np.int32), np.empty(100_000, np.uint8)
    state = seen[0].copy(), seen[0].copy(), np.zeros(pixels)
    n = expose(faces, turns, times, refractory, rays, thresholds, np.zeros(2, np.int64), *state, *out)
    assert n > 100
    for k in range(pixels):
        mine = out[1][:n] == k
        expected = _reference_pixel(
            seen[:, k].astype(float), times, float(seen[0, k]), thresholds[1, k], thresholds[0, k], refractory
        )
        assert mine.sum() == len(expected)
        assert np.allclose(out[0][:n][mine], [t for t, _ in expected], atol=0.5)  # float32 brightness: 0.5 us
        assert out[2][:n][mine].tolist() == [int(rising) for _, rising in expected]


def test_lattice_noise_takes_the_values_of_its_table_at_lattice_points():
    table = np.random.default_rng(0).standard_normal((8, 8, 8))
    points = np.array([[1, 0, 0], [0, 1, 0], [0, 0, -1]], np.float32)
    out = np.zeros(3, np.float32)
    add_lattice_noise(out, points, np.eye(3), 2.0, 3.0, table)  # cell = 2 (point + 4)
    assert np.allclose(out, 3.0 * np.array([table[10 % 8, 0, 0], table[0, 10 % 8, 0], table[0, 0, 6]]), atol=1e-5)


def test_polygon_covers_its_inside_alone():
    points = directions(64)
    out = np.zeros(points.shape[:-1], np.float32)
    square = 0.3 * np.array([[1, 1], [-1, 1], [-1, -1], [1, -1]], float)
    draw_polygon(
        out.reshape(-1), points.reshape(-1, 3), np.array([0, 0, 1.0]), np.array([1.0, 0, 0]), square, 0.05, 2.0
    )
    assert np.all(out[[0, 1, 2, 3, 5]] == 0)
    ahead = points[4] / points[4][..., 2:]
    far = np.abs(ahead[..., :2]).max(axis=-1)
    assert np.all(out[4][far < 0.27] == 2.0)
    assert np.all(out[4][far > 0.33] == 0.0)
