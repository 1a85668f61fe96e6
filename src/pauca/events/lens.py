"""Lens models: from the direction of a ray to where the lens puts it, and back, in units of the focal length.

`radtan` is Brown and Conrady's model as OpenCV counts it (k1 k2 p1 p2 k3); `equidistant` the fisheye of Kannala and
Brandt as OpenCV and Kalibr count it (k1 k2 k3 k4: the angle from the axis theta lands at theta (1 + k1 theta^2 + ...)).
"""

from typing import Literal, TypeAlias

import numpy as np
from jaxtyping import Bool, Float

from pauca.events.kernels.lens import distort_radtan

LensModel: TypeAlias = Literal["radtan", "equidistant"]

_STEPS = 50
_CLOSE = 1e-9  # of the focal length: a millionth of a pixel and less
_WIDEST = np.deg2rad(88)  # beyond, a bearing (x, y, 1) grows without bound


def distort(
    x: Float[np.ndarray, "*n"], y: Float[np.ndarray, "*n"], model: LensModel, coefficients: tuple[float, ...]
) -> tuple[np.ndarray, np.ndarray]:
    """Bearings (x, y, 1) to where the lens puts them."""
    if model == "radtan":
        shape = np.broadcast_shapes(np.shape(x), np.shape(y))
        x, y = (np.broadcast_to(part, shape).astype(float).ravel() for part in (x, y))
        u, v = np.empty_like(x), np.empty_like(x)
        distort_radtan(x, y, coefficients, u, v)
        return u.reshape(shape), v.reshape(shape)
    r = np.hypot(x, y)
    landed, _ = _fisheye(np.arctan(r), coefficients)
    scale = np.where(r > 0, landed / np.where(r > 0, r, 1.0), 1.0)
    return x * scale, y * scale


def undistort(
    u: Float[np.ndarray, "*n"], v: Float[np.ndarray, "*n"], model: LensModel, coefficients: tuple[float, ...]
) -> tuple[np.ndarray, np.ndarray, Bool[np.ndarray, "*n"]]:
    """The bearings that a lens puts at (u, v), by Newton's method in float64, and where there are none."""
    if model == "radtan":
        return _undo_radtan(u, v, coefficients)
    landed = np.hypot(u, v)
    theta = np.minimum(landed, _WIDEST)
    for _ in range(_STEPS):
        value, slope = _fisheye(theta, coefficients)
        step = (landed - value) / np.where(np.abs(slope) < 1e-3, 1e-3, slope)
        theta = np.clip(theta + step, 0.0, _WIDEST)
        if np.abs(step).max(initial=0) < 1e-13:
            break
    value, slope = _fisheye(theta, coefficients)
    scale = np.where(landed > 0, np.tan(theta) / np.where(landed > 0, landed, 1.0), 1.0)
    return u * scale, v * scale, ~((np.abs(value - landed) < _CLOSE) & (slope > 0))


def _fisheye(theta: np.ndarray, coefficients: tuple[float, ...]) -> tuple[np.ndarray, np.ndarray]:
    k1, k2, k3, k4, *_ = coefficients
    s = theta * theta
    value = theta * (1 + s * (k1 + s * (k2 + s * (k3 + s * k4))))
    return value, 1 + s * (3 * k1 + s * (5 * k2 + s * (7 * k3 + s * 9 * k4)))


def _undo_radtan(
    u: np.ndarray, v: np.ndarray, coefficients: tuple[float, ...]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    x, y = u.copy(), v.copy()
    for _ in range(_STEPS):
        u_now, v_now, a, b, c, d = _radtan(x, y, coefficients)
        du, dv = u - u_now, v - v_now
        determinant = a * d - b * c
        determinant = np.where(np.abs(determinant) < 1e-3, 1e-3, determinant)
        x, y = x + (d * du - b * dv) / determinant, y + (a * dv - c * du) / determinant
        if max(np.abs(du).max(initial=0), np.abs(dv).max(initial=0)) < 1e-13:
            break
    u_back, v_back, a, b, c, d = _radtan(x, y, coefficients)
    return x, y, ~((np.hypot(u_back - u, v_back - v) < _CLOSE) & (a * d - b * c > 0))


def _radtan(x: np.ndarray, y: np.ndarray, coefficients: tuple[float, ...]) -> tuple[np.ndarray, ...]:
    """Distorted normalized coordinates, and their Jacobian du/dx, du/dy, dv/dx, dv/dy."""
    k1, k2, p1, p2, k3 = coefficients
    r2 = x * x + y * y
    radial = 1 + r2 * (k1 + r2 * (k2 + r2 * k3))
    slope = 2 * (k1 + r2 * (2 * k2 + 3 * r2 * k3))  # d radial / d x = slope * x
    u = x * radial + 2 * p1 * x * y + p2 * (r2 + 2 * x * x)
    v = y * radial + p1 * (r2 + 2 * y * y) + 2 * p2 * x * y
    cross = slope * x * y + 2 * p1 * x + 2 * p2 * y
    du_dx = radial + slope * x * x + 2 * p1 * y + 6 * p2 * x
    dv_dy = radial + slope * y * y + 6 * p1 * y + 2 * p2 * x
    return u, v, du_dx, cross, cross, dv_dy
