"""The method in plain numpy and float64: slow, obvious, and the oracle of every kernel in `pauca.events.kernels`."""

import numpy as np
from jaxtyping import Float
from scipy.ndimage import convolve1d
from scipy.spatial.transform import Rotation

from pauca.events.likelihood import PixelScore
from pauca.events.score import Score
from pauca.events.types import Packet, VoteKernel
from pauca.events.warp import Frame, Warp


def score(
    packet: Packet,
    frame: Frame,
    warp: Warp,
    pixel_score: PixelScore,
    velocity: Float[np.ndarray, "k"],
    acceleration: Float[np.ndarray, "k"],
    kernel: VoteKernel = "quadratic",
    blur_sigma: float = 0.5,
) -> Score:
    """What `Scorer` computes: score of a motion, with its gradient and empirical Fisher matrix.

    Args:
        packet: n events.
        frame: image in which events vote.
        warp: kind of motion, with k = 3 (rotation) or 2 (translation) components.
        pixel_score: score of one pixel's blurred count.
        velocity: [k] rad/s, or focal lengths per second.
        acceleration: [k], its change per second.
        kernel: how an event is shared by pixels.
        blur_sigma: pixels.

    Returns:
        Value; gradient [2 k] and Fisher matrix [2 k, 2 k] by velocity and acceleration; number of events inside.
    """
    warped, jacobian = warp_events(packet, frame, warp, velocity, acceleration)
    images, inside = vote(warped, packet.p, frame, kernel)
    counts = blur(images, blur_sigma)
    empty_slope = pixel_score.slope(np.zeros(1))
    outside = len(packet) - counts.sum()  # spread thinly over an empty image: there a count is worth `empty_slope`
    value = pixel_score.value(counts).sum() + outside * empty_slope[0]
    slopes = blur(pixel_score.slope(counts) - empty_slope, blur_sigma)
    at_events = interpolation_gradient(slopes, warped, packet.p, inside, kernel)  # [2, n]
    by_motion = np.einsum("cn,ckn->kn", at_events, jacobian)  # by each event's rotation vector or shift
    dt = packet.dt_s.astype(float)
    by_parameters = np.concatenate([dt * by_motion, dt**2 / 2 * by_motion])
    return Score(float(value), by_parameters.sum(1), by_parameters @ by_parameters.T, int(inside.sum()), by_motion)


def warp_events(
    packet: Packet,
    frame: Frame,
    warp: Warp,
    velocity: Float[np.ndarray, "k"],
    acceleration: Float[np.ndarray, "k"],
) -> tuple[Float[np.ndarray, "2 n"], Float[np.ndarray, "2 k n"]]:
    """Where each event goes when it is moved to the reference time; the kernels of `kernels/warp.py`.

    Returns:
        Warped pixels x, y [2, n], -1 for an event behind the camera, and their derivative [2, k, n] by the event's own
        rotation vector (rad) or shift (focal lengths); `kernels/chain.py` contracts it.
    """
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
    warped: Float[np.ndarray, "2 n"], p: np.ndarray, frame: Frame, kernel: VoteKernel = "quadratic"
) -> tuple[Float[np.ndarray, "2 height width"], np.ndarray]:
    """Images of warped events; the kernels of `kernels/vote.py`.

    Args:
        warped: pixels x, y of the frame, [2, n].
        p: polarity of each event, 0 or 1, [n].
        frame: gives the size of the images.
        kernel: bilinear shares each event among four pixels, quadratic among nine.

    Returns:
        Votes of OFF and ON events, [2, height, width], and which events lie inside the frame with all pixels that they
        vote for, bool [n]; others do not vote.
    """
    width, height = frame.size
    images = np.zeros((2, height, width))
    margin = 0.0 if kernel == "bilinear" else 0.5
    ends = np.array([[width - 1], [height - 1]]) - margin
    inside = np.all((warped >= margin) & (warped < ends), axis=0)
    first, shares, _ = _shares(warped[:, inside], kernel)
    for row, share_y in enumerate(shares[:, 1]):
        for column, share_x in enumerate(shares[:, 0]):
            np.add.at(images, (p[inside], first[1] + row, first[0] + column), share_x * share_y)
    return images, inside


def _shares(
    warped: Float[np.ndarray, "2 n"], kernel: VoteKernel
) -> tuple[np.ndarray, Float[np.ndarray, "m 2 n"], Float[np.ndarray, "m 2 n"]]:
    """First pixel of each event, the shares of it and those that follow on each axis, and their derivatives."""
    if kernel == "bilinear":
        first = np.floor(warped).astype(int)
        away = warped - first
        return first, np.stack([1 - away, away]), np.stack([-np.ones_like(away), np.ones_like(away)])
    nearest = np.floor(warped + 0.5).astype(int)
    away = warped - nearest
    shares = np.stack([(0.5 - away) ** 2 / 2, 0.75 - away**2, (0.5 + away) ** 2 / 2])
    return nearest - 1, shares, np.stack([away - 0.5, -2 * away, away + 0.5])


def blur(images: Float[np.ndarray, "2 height width"], sigma: float = 0.5) -> Float[np.ndarray, "2 height width"]:
    """Images [2, height, width] blurred by a 5x5 Gaussian of `sigma` pixels; the first half of `kernels/image_pass.py`.

    Outside the frame is nothing. The blur is its own adjoint. A tap below a thousandth of the middle one is zero.
    """
    taps = np.exp(-0.5 * (np.arange(-2, 3) / sigma) ** 2)
    taps[taps < 1e-3] = 0
    taps /= taps.sum()
    for axis in (1, 2):
        images = convolve1d(images, taps, axis=axis, mode="constant")
    return images


def interpolation_gradient(
    images: Float[np.ndarray, "2 height width"],
    warped: Float[np.ndarray, "2 n"],
    p: np.ndarray,
    inside: np.ndarray,
    kernel: VoteKernel = "quadratic",
) -> Float[np.ndarray, "2 n"]:
    """How the images read at an event change as it moves by a pixel; the kernels of `kernels/gather.py`.

    Args:
        images: [2, height, width], one for each polarity.
        warped: pixels x, y, [2, n].
        p: polarity, [n].
        inside: which events voted, bool [n].
        kernel: as in `vote`.

    Returns:
        Derivative by x and y, [2, n], of the images' pixels weighted as in `vote`; zero for events that did not vote.
    """
    gradient = np.zeros_like(warped)
    first, shares, slopes = _shares(warped[:, inside], kernel)
    for row in range(len(shares)):
        for column in range(len(shares)):
            pixel = images[p[inside], first[1] + row, first[0] + column]
            gradient[0, inside] += shares[row, 1] * slopes[column, 0] * pixel
            gradient[1, inside] += slopes[row, 1] * shares[column, 0] * pixel
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
