"""Warp bearings (x, y, 1) to the reference time and project them to pixels of the frame.

Arguments of every kernel: x, y, dt float32 [n] (seconds); velocity and acceleration, tuples of float32; frame, the
tuple fx, fy, cx, cy of float32; out_x, out_y float32 [n], -1 for what turned out of the camera's view.
"""

import numpy as np
from numba import njit

from pauca.events.kernels.series import C4, C6, C8, HALF, ONE, S5, S7, SIXTH

_NEAREST = np.float32(0.05)  # depth below which a turned bearing is not in front of the camera any more
_OUTSIDE = np.float32(-1)


@njit(cache=True, nogil=True, error_model="numpy")
def rotate(x, y, dt, velocity, acceleration, frame, out_x, out_y):
    """Turn each bearing by the rotation vector dt velocity + dt^2/2 acceleration (Rodrigues' formula).

    The series of sin(a)/a and (1 - cos(a))/a^2 are cut after a^6, exact to 3e-6 up to one radian.
    """
    wx, wy, wz = velocity
    ax, ay, az = acceleration
    fx, fy, cx, cy = frame
    for i in range(x.size):
        s = dt[i]
        h = HALF * s * s
        rx, ry, rz = s * wx + h * ax, s * wy + h * ay, s * wz + h * az
        a2 = rx * rx + ry * ry + rz * rz
        sine = ONE - a2 * (SIXTH - a2 * (S5 - a2 * S7))
        cosine = HALF - a2 * (C4 - a2 * (C6 - a2 * C8))
        ux, uy, uz = ry - rz * y[i], rz * x[i] - rx, rx * y[i] - ry * x[i]  # rotation vector x bearing
        px = x[i] + sine * ux + cosine * (ry * uz - rz * uy)
        py = y[i] + sine * uy + cosine * (rz * ux - rx * uz)
        pz = ONE + sine * uz + cosine * (rx * uy - ry * ux)
        out_x[i] = fx * px / pz + cx if pz > _NEAREST else _OUTSIDE
        out_y[i] = fy * py / pz + cy if pz > _NEAREST else _OUTSIDE


@njit(cache=True, nogil=True, error_model="numpy")
def rotate_first_order(x, y, dt, velocity, acceleration, frame, out_x, out_y):
    """Add to each bearing its cross product with the rotation vector, as the paper does."""
    wx, wy, wz = velocity
    ax, ay, az = acceleration
    fx, fy, cx, cy = frame
    for i in range(x.size):
        s = dt[i]
        h = HALF * s * s
        rx, ry, rz = s * wx + h * ax, s * wy + h * ay, s * wz + h * az
        px, py = x[i] + ry - rz * y[i], y[i] + rz * x[i] - rx
        pz = ONE + rx * y[i] - ry * x[i]
        out_x[i] = fx * px / pz + cx if pz > _NEAREST else _OUTSIDE
        out_y[i] = fy * py / pz + cy if pz > _NEAREST else _OUTSIDE


@njit(cache=True, nogil=True, error_model="numpy")
def translate(x, y, dt, velocity, acceleration, frame, out_x, out_y):
    """Shift each bearing against the motion of the image: -(dt velocity + dt^2/2 acceleration)."""
    vx, vy = velocity
    ax, ay = acceleration
    fx, fy, cx, cy = frame
    for i in range(x.size):
        s = dt[i]
        h = HALF * s * s
        out_x[i] = fx * (x[i] - s * vx - h * ax) + cx
        out_y[i] = fy * (y[i] - s * vy - h * ay) + cy
