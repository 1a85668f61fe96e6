"""A window of events in short cells of time: turn them by rotations at the cells' edges, and sum their slopes there.

Events are in order of time, so that a cell is a run of them: event i of cell c has first[c] <= i < first[c + 1] and
lies at the share fraction[i] of it. Inside a cell the rotation matrix is interpolated linearly: over 0.5 ms that is
wrong by 0.002 pixels at 1,000 deg/s and a focal length of 200 pixels. Sums have a fixed order, see `sums.py`.
"""

import numpy as np
from numba import njit

from pauca.events.kernels.sums import LANES

_NEAREST = np.float32(0.05)  # depth below which a turned bearing is not in front of the camera any more
_OUTSIDE = np.float32(-1)
_ONE = np.float32(1)


@njit(cache=True, nogil=True)
def assign_cells(t_us, start_us, cell_us, fraction, first):
    """Write fraction float32 [n] and first int64 [cells + 1] for times int64 [n] in order.

    Cells are `cell_us` long, the first begins at `start_us`; events beyond the ends count as being there.
    """
    cells = first.size - 1
    cell = 0
    first[0] = 0
    for i in range(t_us.size):
        place = (t_us[i] - start_us) / cell_us
        while cell < cells - 1 and place >= cell + 1:
            cell += 1
            first[cell] = i
        fraction[i] = min(max(place - cell, 0.0), 1.0)
    while cell < cells:
        cell += 1
        first[cell] = t_us.size


@njit(cache=True, nogil=True, error_model="numpy")
def rotate_cells(x, y, fraction, first, rotations, frame, out_x, out_y):
    """Turn bearings (x, y, 1) float32 [n] by rotations float32 [cells + 1, 3, 3], and project them.

    out_x, out_y float32 [n] are pixels of the frame (fx, fy, cx, cy), -1 for what turned out of the camera's view.
    """
    fx, fy, cx, cy = frame
    for cell in range(first.size - 1):
        a, b = rotations[cell], rotations[cell + 1]
        a00, a01, a02 = a[0, 0], a[0, 1], a[0, 2]
        a10, a11, a12 = a[1, 0], a[1, 1], a[1, 2]
        a20, a21, a22 = a[2, 0], a[2, 1], a[2, 2]
        d00, d01, d02 = b[0, 0] - a00, b[0, 1] - a01, b[0, 2] - a02
        d10, d11, d12 = b[1, 0] - a10, b[1, 1] - a11, b[1, 2] - a12
        d20, d21, d22 = b[2, 0] - a20, b[2, 1] - a21, b[2, 2] - a22
        low, high = first[cell], first[cell + 1]
        u, v, f, column, row = x[low:high], y[low:high], fraction[low:high], out_x[low:high], out_y[low:high]
        for i in range(u.size):
            px = a00 * u[i] + a01 * v[i] + a02 + f[i] * (d00 * u[i] + d01 * v[i] + d02)
            py = a10 * u[i] + a11 * v[i] + a12 + f[i] * (d10 * u[i] + d11 * v[i] + d12)
            pz = a20 * u[i] + a21 * v[i] + a22 + f[i] * (d20 * u[i] + d21 * v[i] + d22)
            column[i] = fx * px / pz + cx if pz > _NEAREST else _OUTSIDE
            row[i] = fy * py / pz + cy if pz > _NEAREST else _OUTSIDE


@njit(cache=True, nogil=True, error_model="numpy")
def sum_cells(warp_x, warp_y, slope_x, slope_y, fraction, first, frame, gradient, fisher):
    """Sum each event's slope by a small turn of its warped bearing: bearing x slope by bearing.

    Args:
        warp_x, warp_y: float32 [n], warped pixels of the frame.
        slope_x, slope_y: float32 [n], slope of the score there.
        fraction, first: see above.
        frame: fx, fy, cx, cy, float32.
        gradient: float64 [cells + 1, 3], written: slopes, shared between the two edges of their cell.
        fisher: float64 [cells, 6], written: xx, xy, xz, yy, yz, zz of the sum of outer products in each cell.
    """
    gradient[:] = 0
    lanes = np.empty((12, LANES), np.float32)
    sums = np.empty(12)
    for cell in range(first.size - 1):
        low, high = first[cell], first[cell + 1]
        px, py, sx, sy = warp_x[low:high], warp_y[low:high], slope_x[low:high], slope_y[low:high]
        _sum_cell(px, py, sx, sy, fraction[low:high], frame, lanes, sums)
        for axis in range(3):
            gradient[cell, axis] += sums[axis] - sums[3 + axis]
            gradient[cell + 1, axis] += sums[3 + axis]
        fisher[cell] = sums[6:]


@njit(cache=True, nogil=True, error_model="numpy")
def slopes_in_cells(warp_x, warp_y, slope_x, slope_y, fraction, first, frame, reference, step_s, slopes, dt_s):
    """Write what `sum_cells` sums, slopes float32 [3, n], and the seconds of each event from an edge, dt_s float32 [n].

    Arguments as of `sum_cells`; `reference` is the edge, `step_s` the length of a cell, float32.
    """
    along_x, along_y, along_z = slopes[0], slopes[1], slopes[2]
    for i in range(warp_x.size):
        along_x[i], along_y[i], along_z[i] = _slope_by_turn(warp_x[i], warp_y[i], slope_x[i], slope_y[i], frame)
    for cell in range(first.size - 1):
        edge = np.float32(cell - reference)
        for i in range(first[cell], first[cell + 1]):
            dt_s[i] = (edge + fraction[i]) * step_s


@njit(cache=True, nogil=True, error_model="numpy", inline="always")
def _sum_cell(px, py, sx, sy, f, frame, lanes, sums):
    """Sums over one cell of v, f v and the products of v, the slopes by the turn about x, y and z."""
    lanes[:] = 0
    g0, g1, g2, h0, h1, h2 = lanes[0], lanes[1], lanes[2], lanes[3], lanes[4], lanes[5]
    xx, xy, xz, yy, yz, zz = lanes[6], lanes[7], lanes[8], lanes[9], lanes[10], lanes[11]
    whole = f.size // LANES * LANES
    for start in range(0, whole, LANES):
        for lane in range(LANES):
            i = start + lane
            v0, v1, v2 = _slope_by_turn(px[i], py[i], sx[i], sy[i], frame)
            g0[lane] += v0
            g1[lane] += v1
            g2[lane] += v2
            h0[lane] += f[i] * v0
            h1[lane] += f[i] * v1
            h2[lane] += f[i] * v2
            xx[lane] += v0 * v0
            xy[lane] += v0 * v1
            xz[lane] += v0 * v2
            yy[lane] += v1 * v1
            yz[lane] += v1 * v2
            zz[lane] += v2 * v2
    for i in range(whole, f.size):
        v0, v1, v2 = _slope_by_turn(px[i], py[i], sx[i], sy[i], frame)
        terms = (v0, v1, v2, f[i] * v0, f[i] * v1, f[i] * v2, v0 * v0, v0 * v1, v0 * v2, v1 * v1, v1 * v2, v2 * v2)
        for k, term in enumerate(terms):
            lanes[k, i - whole] += term
    for k in range(12):
        sums[k] = 0.0
        for lane in range(LANES):
            sums[k] += lanes[k, lane]


@njit(cache=True, nogil=True, error_model="numpy", inline="always")
def _slope_by_turn(warp_x, warp_y, slope_x, slope_y, frame):
    fx, fy, cx, cy = frame
    x, y = (warp_x - cx) * (_ONE / fx), (warp_y - cy) * (_ONE / fy)
    qx, qy = fx * slope_x, fy * slope_y
    along = qx * x + qy * y
    return -y * along - qy, qx + x * along, x * qy - y * qx
