"""Where the camera comes back to what it saw before: by how much the integrated orientation has drifted."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy.fft import next_fast_len
from scipy.ndimage import gaussian_filter, map_coordinates
from scipy.optimize import minimize
from scipy.sparse import coo_matrix
from scipy.sparse.linalg import spsolve
from scipy.spatial.transform import Rotation

from pauca.events.mosaic.projection import count_pixels, project
from pauca.events.mosaic.shelf import Shelved
from pauca.events.warp import Frame

_BLUR = 1.5  # pixels
SEGMENT_EVENTS = 20_000
"""A segment of twice as many or more is thinned: so many place it as well."""

_FEWEST_EVENTS = 500
_AROUND = 20  # pixels
_SURE = 7.0  # standard deviations of the other places' agreement by which the best place must stand out
_FAR = 1.2  # fields of view that the camera must have turned away before it comes back
_ROUNDS = 8  # of reweighting: closures that contradict the others lose their say
_DRIFT = 0.02  # radians of drift for each radian turned, in the balance between closures and integration
_CLOSURE_PIXELS = 0.5


@dataclass(frozen=True, eq=False)
class Segment:
    """A short part of the recording, over which the orientation's drift does not matter."""

    middle_us: int
    turned: Float[np.ndarray, "3 3"]  # camera coordinates at the middle to those at the first time
    shelved: Shelved  # directions of its events, in coordinates of the first time
    path_rad: float  # how far the camera has turned up to here

    @property
    def rays(self) -> Float[np.ndarray, "n 3"]:
        """Directions of its events, in coordinates of the first time; read anew each time."""
        return self.shelved.take()

    @property
    def forward(self) -> Float[np.ndarray, "3"]:
        """Where the optical axis points."""
        return self.turned[:, 2]


@dataclass(frozen=True, eq=False)
class Closure:
    """A segment found again among earlier ones."""

    segment: int
    earlier: tuple[int, ...]
    turn: Float[
        np.ndarray, "3"
    ]  # rotation vector that puts the segment onto the earlier ones, first time's coordinates
    sureness: float  # standard deviations by which this place stands out among the others


def find_closures(segments: Sequence[Segment], frame: Frame, reach_pixels: int) -> list[Closure]:
    """Look for each segment among those that saw the same part of the scene, before the camera had turned away.

    Args:
        segments: in order of time.
        frame: the image in which they are compared.
        reach_pixels: how far the drift may have moved them there.
    """
    width, height = frame.camera.size
    across = 2 * np.arctan(min(width, height) / 2 / frame.camera.fx)
    wide = 2 * np.arctan(max(width, height) / 2 / frame.camera.fx)
    forward = np.stack([segment.forward for segment in segments])
    path = np.array([segment.path_rad for segment in segments])
    found = []
    for i, segment in enumerate(segments):
        if segment.shelved.count < _FEWEST_EVENTS:
            continue
        angle = np.arccos(np.clip(forward[:i] @ segment.forward, -1, 1))
        earlier = np.flatnonzero((angle < across / 2) & (segment.path_rad - path[:i] > _FAR * wide))
        if earlier.size and (closure := _place(segments, i, earlier[:20], frame, reach_pixels)) is not None:
            found.append(closure)
    return found


def _place(segments: Sequence[Segment], i: int, earlier: np.ndarray, frame: Frame, reach: int) -> Closure | None:
    segment = segments[i]
    known = sum(count_pixels(segments[j].rays @ segment.turned, frame) for j in earlier)
    assert isinstance(known, np.ndarray)
    own = segment.rays @ segment.turned
    if known.sum() < _FEWEST_EVENTS:
        return None
    known = gaussian_filter(np.sqrt(known), _BLUR)
    shift, sureness = _shift(known, count_pixels(own, frame), reach)
    if sureness < _SURE:
        return None
    fx, fy, *_ = frame.intrinsics
    start = np.array([-shift[1] / fy, shift[0] / fx, 0.0])

    def disagreement(turn: np.ndarray) -> float:
        column, row = project(Rotation.from_rotvec(turn).apply(own), frame)
        return -float(map_coordinates(known, [row, column], order=1).mean())

    simplex = start + np.vstack([np.zeros(3), np.eye(3) / fx])  # a pixel each
    best = minimize(disagreement, start, method="Nelder-Mead", options={"initial_simplex": simplex, "xatol": 0.05 / fx})
    return Closure(i, tuple(earlier.tolist()), segment.turned @ best.x, sureness)


def _shift(known: np.ndarray, own: np.ndarray, reach: int) -> tuple[np.ndarray, float]:
    """Pixels (x, y) by which the segment must be moved, and by how many deviations that place stands out."""
    around = max(reach, _AROUND)  # where the other places are that the best one must stand out from
    shape = [int(next_fast_len(side + around, real=True) or side + around) for side in known.shape]
    moving = gaussian_filter(np.sqrt(own), _BLUR)
    a, b = (np.fft.rfft2(image - image.mean(), shape) for image in (known, moving))
    everywhere = np.fft.irfft2(a * b.conj(), shape)
    agreement = np.roll(everywhere, (around, around), (0, 1))[: 2 * around + 1, : 2 * around + 1]
    y, x = (int(place) for place in np.unravel_index(int(agreement.argmax()), agreement.shape))
    if max(abs(x - around), abs(y - around)) >= reach:
        return np.zeros(2), 0.0  # it does not lie within reach
    rows, columns = np.ogrid[: 2 * around + 1, : 2 * around + 1]
    others = agreement[np.hypot(rows - y, columns - x) > 4 * _BLUR]
    middle = np.median(others)
    spread = 1.4826 * np.median(np.abs(others - middle))
    return np.array([x, y]) - around, float((agreement[y, x] - middle) / max(spread, 1e-12))


def balance(segments: Sequence[Segment], closures: Sequence[Closure], pixel_rad: float) -> Float[np.ndarray, "s 3"]:
    """Corrections of all segments' orientations, between what the closures and what the integration say.

    Least squares with Cauchy weights: a closure that contradicts the rest is passed over.

    Args:
        segments: in order of time.
        closures: what was found among them.
        pixel_rad: angle of a pixel.

    Returns:
        Rotation vectors in coordinates of the first time.
    """
    n, path = len(segments), np.array([segment.path_rad for segment in segments])
    rows, columns, values = [0], [0], [1e6]  # the first stays
    wanted, sigma = [np.zeros(3)], [1.0]
    for i in range(1, n):
        rows += [i, i]
        columns += [i, i - 1]
        values += [1.0, -1.0]
        wanted.append(np.zeros(3))
        sigma.append(_DRIFT * (path[i] - path[i - 1]) + 0.1 * pixel_rad)
    for k, closure in enumerate(closures):
        rows += [n + k] * (1 + len(closure.earlier))
        columns += [closure.segment, *closure.earlier]
        values += [1.0, *[-1.0 / len(closure.earlier)] * len(closure.earlier)]
        wanted.append(closure.turn)
        sigma.append(_CLOSURE_PIXELS * pixel_rad)
    design = coo_matrix((values, (rows, columns)), (n + len(closures), n)).tocsr()
    target, scale = np.stack(wanted), np.array(sigma)
    weights, corrections = 1 / scale**2, np.zeros((n, 3))
    for _ in range(_ROUNDS):
        weighted = design.multiply(weights[:, None]).tocsr()
        corrections = np.asarray(spsolve((design.T @ weighted).tocsc(), weighted.T @ target)).reshape(n, 3)
        misfit = np.linalg.norm(design @ corrections - target, axis=1) / scale
        weights = np.where(np.arange(len(scale)) < n, 1.0, 1 / (1 + misfit**2 / 9)) / scale**2
    return corrections
