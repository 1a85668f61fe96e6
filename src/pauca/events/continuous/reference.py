"""The score of a window in plain numpy and float64: the oracle of `WindowScorer` and of the kernels it calls."""

import numpy as np
from jaxtyping import Float
from scipy.spatial.transform import Rotation

from pauca.events import reference
from pauca.events.continuous.window import Window, WindowScorer
from pauca.events.newton import Trial


def score_window(scorer: WindowScorer, window: Window, velocity: Float[np.ndarray, "knots 3"]) -> Trial:
    """What `scorer(window, velocity)` computes."""
    rotations = edge_rotations(window, velocity)
    warped = warp_window(scorer, window, rotations)
    apart = [np.flatnonzero(window.image == image) for image in range(window.images)]
    weights = [1.0] * len(apart)
    if window.images > 2:
        weights = [1 - scorer.unsigned] * len(apart) + [scorer.unsigned]
        apart.append(np.arange(len(window.image)))
    value, slopes = 0.0, np.zeros((2, len(window.image)))
    for members, weight in zip(apart, weights, strict=True):
        score, slope = _score_image(scorer, warped[:, members])
        value += weight * score
        slopes[:, members] += weight * slope
    return Trial(value, *_by_knots(scorer, window, rotations, warped, slopes))


def edge_rotations(window: Window, velocity: Float[np.ndarray, "knots 3"]) -> Float[np.ndarray, "edges 3 3"]:
    """Rotation of an event at each edge of a cell to the window's reference; the kernel `integrate`."""
    at_edges = window.basis @ velocity
    steps = Rotation.from_rotvec((at_edges[1:] + at_edges[:-1]) / 2 * window.step_s)
    turned = [Rotation.identity()]
    for step in steps:
        turned.append(turned[-1] * step)
    return np.stack([(turned[window.reference].inv() * rotation).as_matrix() for rotation in turned])


def warp_window(
    scorer: WindowScorer, window: Window, rotations: Float[np.ndarray, "edges 3 3"]
) -> Float[np.ndarray, "2 n"]:
    """Warped pixels of the frame; the kernel `rotate_cells`."""
    fx, fy, cx, cy = scorer.frame.intrinsics
    bearings = np.stack([window.x, window.y, np.ones(len(window.x))], axis=1).astype(float)
    cell, share = _cells(window), window.fraction[:, None, None].astype(float)
    x, y, z = np.einsum("nab,nb->an", (1 - share) * rotations[cell] + share * rotations[cell + 1], bearings)
    return np.where(z > 0.05, [fx * x / z + cx, fy * y / z + cy], -1.0)


def _cells(window: Window) -> np.ndarray:
    return np.repeat(np.arange(len(window.first) - 1), np.diff(window.first))


def _score_image(scorer: WindowScorer, warped: Float[np.ndarray, "2 n"]) -> tuple[float, Float[np.ndarray, "2 n"]]:
    """Score of one image above that of an empty one, and the slope at each event."""
    one = np.zeros(warped.shape[1], np.uint8)
    images, inside = reference.vote(warped, one, scorer.frame, scorer.vote)
    counts, score = reference.blur(images, scorer.blur_sigma), scorer.pixel_score
    empty, empty_slope = score.value(np.zeros(1))[0], score.slope(np.zeros(1))[0]
    value = (score.value(counts[0]) - empty - empty_slope * counts[0]).sum()
    slopes = reference.blur(score.slope(counts) - empty_slope, scorer.blur_sigma)
    return float(value), reference.interpolation_gradient(slopes, warped, one, inside, scorer.vote)


def _by_knots(
    scorer: WindowScorer,
    window: Window,
    rotations: Float[np.ndarray, "edges 3 3"],
    warped: Float[np.ndarray, "2 n"],
    slopes: Float[np.ndarray, "2 n"],
) -> tuple[np.ndarray, np.ndarray]:
    """Gradient and Fisher matrix by the velocities at the knots; the kernels `sum_cells` and `project_knots`."""
    fx, fy, cx, cy = scorer.frame.intrinsics
    x, y = (warped[0] - cx) / fx, (warped[1] - cy) / fy
    by_bearing = np.stack([fx * slopes[0], fy * slopes[1], -(x * fx * slopes[0] + y * fy * slopes[1])])
    by_turn = np.cross(np.stack([x, y, np.ones_like(x)]), by_bearing, axis=0)  # [3, n]
    rate = rotations[:, :, None, :] * window.basis[:, None, :, None]  # turn an edge by a change at a knot, a second
    turned = np.cumsum(np.concatenate([rate[:1] * 0, (rate[1:] + rate[:-1]) / 2 * window.step_s]), axis=0)
    turned = (turned - turned[window.reference]).reshape(len(rotations), 3, -1)  # [edges, 3, 3 knots]
    cell = _cells(window)
    at_events = turned[cell] + window.fraction[:, None, None] * (turned[cell + 1] - turned[cell])
    at_middles = (turned[cell] + turned[cell + 1]) / 2
    each = np.einsum("an,nak->nk", by_turn, at_middles)
    return np.einsum("an,nak->k", by_turn, at_events), each.T @ each
