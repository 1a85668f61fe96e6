"""Chain rule from the slope of the score at each warped event to the motion of that event's bearing, per radian or
per focal length; `accumulate` then sums over events.

Arguments as in `warp.py`; warp_x, warp_y are the warped pixels, slope_x, slope_y the slopes there; out float32 [k, n].
"""

from numba import njit

from pauca.events.kernels.series import C4, C6, HALF, ONE, S5, S7, SIXTH


@njit(cache=True, nogil=True, error_model="numpy")
def chain_rotate(x, y, dt, velocity, acceleration, frame, warp_x, warp_y, slope_x, slope_y, out):
    """Slope by the rotation vector of each event.

    A small change r of the rotation vector turns the warped bearing by J r, J the left Jacobian of the rotation
    group, so the slope is J^T (bearing x slope by bearing); the depth of the warped bearing cancels.
    """
    wx, wy, wz = velocity
    ax, ay, az = acceleration
    fx, fy, cx, cy = frame
    inverse_fx, inverse_fy = ONE / fx, ONE / fy
    for i in range(dt.size):
        s = dt[i]
        h = HALF * s * s
        rx, ry, rz = s * wx + h * ax, s * wy + h * ay, s * wz + h * az
        a2 = rx * rx + ry * ry + rz * rz
        b = HALF - a2 * (C4 - a2 * C6)  # (1 - cos a) / a^2
        c = SIXTH - a2 * (S5 - a2 * S7)  # (a - sin a) / a^3
        px, py = (warp_x[i] - cx) * inverse_fx, (warp_y[i] - cy) * inverse_fy
        qx, qy = fx * slope_x[i], fy * slope_y[i]
        along = qx * px + qy * py
        vx, vy, vz = -py * along - qy, qx + px * along, px * qy - py * qx
        ux, uy, uz = ry * vz - rz * vy, rz * vx - rx * vz, rx * vy - ry * vx
        out[0, i] = vx - b * ux + c * (ry * uz - rz * uy)
        out[1, i] = vy - b * uy + c * (rz * ux - rx * uz)
        out[2, i] = vz - b * uz + c * (rx * uy - ry * ux)


@njit(cache=True, nogil=True, error_model="numpy")
def chain_rotate_first_order(x, y, dt, velocity, acceleration, frame, warp_x, warp_y, slope_x, slope_y, out):
    """As `chain_rotate`, for the first-order warp: bearing x slope by bearing, over the depth of the warped bearing."""
    wx, wy, _ = velocity
    ax, ay, _ = acceleration
    fx, fy, cx, cy = frame
    inverse_fx, inverse_fy = ONE / fx, ONE / fy
    for i in range(dt.size):
        s = dt[i]
        h = HALF * s * s
        depth = ONE + (s * wx + h * ax) * y[i] - (s * wy + h * ay) * x[i]
        qx, qy = fx * slope_x[i] / depth, fy * slope_y[i] / depth
        qz = -((warp_x[i] - cx) * inverse_fx * qx + (warp_y[i] - cy) * inverse_fy * qy)
        out[0, i] = y[i] * qz - qy
        out[1, i] = qx - x[i] * qz
        out[2, i] = x[i] * qy - y[i] * qx


@njit(cache=True, nogil=True, error_model="numpy")
def chain_translate(x, y, dt, velocity, acceleration, frame, warp_x, warp_y, slope_x, slope_y, out):
    """Slope by the shift of each event."""
    fx, fy, _, _ = frame
    for i in range(dt.size):
        out[0, i] = -fx * slope_x[i]
        out[1, i] = -fy * slope_y[i]
