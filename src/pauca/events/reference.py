"""The method in plain numpy and float64: slow, obvious, and the oracle of every kernel in `pauca.events.kernels`."""

import numpy as np
from jaxtyping import Float
from scipy.ndimage import convolve1d
from scipy.spatial.transform import Rotation

from pauca.events.likelihood import PixelScore
from pauca.events.score import Score
from pauca.events.types import Packet
from pauca.events.warp import Frame, Warp


def score(
    packet: Packet,
    frame: Frame,
    warp: Warp,
    pixel_score: PixelScore,
    velocity: Float[np.ndarray, "k"],
    acceleration: Float[np.ndarray, "k"],
) -> Score:
    """What `Scorer` computes."""
    warped, jacobian = warp_events(packet, frame, warp, velocity, acceleration)
    images, inside = vote(warped, packet.p, frame)
    counts = blur(images)
    empty_slope = pixel_score.slope(np.zeros(1))
    outside = len(packet) - counts.sum()  # spread thinly over an empty image: there a count is worth `empty_slope`
    value = pixel_score.value(counts).sum() + outside * empty_slope[0]
    slopes = blur(pixel_score.slope(counts) - empty_slope)
    at_events = interpolation_gradient(slopes, warped, packet.p, inside)  # [2, n]
    by_motion = np.einsum("cn,ckn->kn", at_events, jacobian)  # by each event's rotation vector or shift
    dt = packet.dt_s.astype(float)
    by_parameters = np.concatenate([dt * by_motion, dt**2 / 2 * by_motion])
    return Score(float(value), by_parameters.sum(1), by_parameters @ by_parameters.T, int(inside.sum()))


def warp_events(
    packet: Packet,
    frame: Frame,
    warp: Warp,
    velocity: Float[np.ndarray, "k"],
    acceleration: Float[np.ndarray, "k"],
) -> tuple[Float[np.ndarray, "2 n"], Float[np.ndarray, "2 k n"]]:
    """Warped pixels, and their derivative by each event's own rotation vector or shift."""
    fx, fy, cx, cy = frame.intrinsics
    dt = packet.dt_s.astype(float)
    bearing = np.stack([packet.x, packet.y, np.ones(len(packet))], axis=1).astype(float)  # [n, 3]
    moved = dt[:, None] * velocity + dt[:, None] ** 2 / 2 * acceleration  # [n, k]
    if warp.motion == "translation":
        point = bearing - np.pad(moved, ((0, 0), (0, 1)))
        by_moved = np.broadcast_to(-np.eye(3)[:, :2], (len(packet), 3, 2))
    elif warp.exact:
        point = Rotation.from_rotvec(moved).apply(bearing)
        by_moved = -_cross_matrix(point) @ _left_jacobian(moved)
    else:
        point = bearing + np.cross(moved, bearing)
        by_moved = -_cross_matrix(bearing)
    x, y, z = point.T
    by_point = np.zeros((len(packet), 2, 3))
    by_point[:, 0, 0], by_point[:, 0, 2] = fx / z, -fx * x / z**2
    by_point[:, 1, 1], by_point[:, 1, 2] = fy / z, -fy * y / z**2
    warped = np.where(z > 0.05, [fx * x / z + cx, fy * y / z + cy], -1.0)  # behind the camera is outside the frame
    return warped, (by_point @ by_moved).transpose(1, 2, 0)


def vote(
    warped: Float[np.ndarray, "2 n"], p: np.ndarray, frame: Frame
) -> tuple[Float[np.ndarray, "2 height width"], np.ndarray]:
    """Bilinear votes into the image of each polarity, and which events lie inside the frame."""
    width, height = frame.size
    images = np.zeros((2, height, width))
    inside = (warped[0] >= 0) & (warped[1] >= 0) & (warped[0] < width - 1) & (warped[1] < height - 1)
    corner = np.floor(warped[:, inside]).astype(int)
    right, down = warped[:, inside] - corner
    for row, share_y in ((0, 1 - down), (1, down)):
        for column, share_x in ((0, 1 - right), (1, right)):
            np.add.at(images, (p[inside], corner[1] + row, corner[0] + column), share_x * share_y)
    return images, inside


def blur(images: Float[np.ndarray, "2 height width"]) -> Float[np.ndarray, "2 height width"]:
    """5x5 Gaussian of sigma 1, nothing outside the frame; its own adjoint."""
    taps = np.exp(-0.5 * np.arange(-2, 3) ** 2)
    taps /= taps.sum()
    for axis in (1, 2):
        images = convolve1d(images, taps, axis=axis, mode="constant")
    return images


def interpolation_gradient(
    images: Float[np.ndarray, "2 height width"],
    warped: Float[np.ndarray, "2 n"],
    p: np.ndarray,
    inside: np.ndarray,
) -> Float[np.ndarray, "2 n"]:
    """Derivative of bilinear interpolation by x and y, at each event; zero outside the frame."""
    gradient = np.zeros_like(warped)
    corner = np.floor(warped[:, inside]).astype(int)
    right, down = warped[:, inside] - corner

    def corner_value(row: int, column: int) -> np.ndarray:
        return images[p[inside], corner[1] + row, corner[0] + column]

    across = (1 - down) * (corner_value(0, 1) - corner_value(0, 0)) + down * (corner_value(1, 1) - corner_value(1, 0))
    along = (1 - right) * (corner_value(1, 0) - corner_value(0, 0)) + right * (corner_value(1, 1) - corner_value(0, 1))
    gradient[0, inside], gradient[1, inside] = across, along
    return gradient


def _cross_matrix(vectors: Float[np.ndarray, "n 3"]) -> Float[np.ndarray, "n 3 3"]:
    """[v]x, so that [v]x w = v x w."""
    x, y, z = vectors.T
    zero = np.zeros_like(x)
    return np.stack([zero, -z, y, z, zero, -x, -y, x, zero], axis=1).reshape(-1, 3, 3)


def _left_jacobian(rotation_vectors: Float[np.ndarray, "n 3"]) -> Float[np.ndarray, "n 3 3"]:
    """J of exp([r + dr]x) = exp([J dr]x) exp([r]x)."""
    angle = np.linalg.norm(rotation_vectors, axis=1)[:, None, None]
    small = angle < 1e-4
    safe = np.where(small, 1.0, angle)
    b = np.where(small, 0.5, (1 - np.cos(safe)) / safe**2)
    c = np.where(small, 1 / 6, (safe - np.sin(safe)) / safe**3)
    cross = _cross_matrix(rotation_vectors)
    return np.eye(3) + b * cross + c * cross @ cross
