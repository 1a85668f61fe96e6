"""The inner loops of the event simulator: looking at a panorama, drawing it, and crossing thresholds."""

import math

import numpy as np
from numba import njit


@njit(cache=True, nogil=True, error_model="numpy")
def _aim(side, rotation, bearings, texel, across, down):
    """Where each pixel looks: the texel of the cube, and the share of the next one across and down.

    No branches and no gathers, so that the compiler vectorizes it: 1.4 ns a pixel, not 8 as in one
    loop with `_fetch`.
    """
    r00, r01, r02 = rotation[0, 0], rotation[0, 1], rotation[0, 2]
    r10, r11, r12 = rotation[1, 0], rotation[1, 1], rotation[1, 2]
    r20, r21, r22 = rotation[2, 0], rotation[2, 1], rotation[2, 2]
    side = np.int32(side)
    middle, half = np.float32(0.5 * (side - 1)), np.float32(0.5 * (side - 2))
    for k in range(bearings.shape[1]):
        bx, by, bz = bearings[0, k], bearings[1, k], bearings[2, k]
        x = r00 * bx + r01 * by + r02 * bz
        y = r10 * bx + r11 * by + r12 * bz
        z = r20 * bx + r21 * by + r22 * bz
        along_z = (abs(z) >= abs(x)) & (abs(z) >= abs(y))
        along_x = abs(x) >= abs(y)
        axis = z if along_z else (x if along_x else y)
        u = y if along_x & (not along_z) else x
        v = y if along_z else z
        face = np.int32(4) if along_z else (np.int32(0) if along_x else np.int32(2))
        face += np.int32(1) if axis < 0 else np.int32(0)
        scale = half / abs(axis)
        column, row = u * scale + middle, v * scale + middle
        j, i = np.int32(column), np.int32(row)
        across[k], down[k] = column - np.float32(j), row - np.float32(i)
        texel[k] = (face * side + i) * side + j


@njit(cache=True, nogil=True, error_model="numpy")
def _fetch(texels, side, texel, across, down, brightness):
    """Bilinear interpolation. Unsigned indices spare numba's test for negative ones."""
    below, right = np.uintp(side), np.uintp(1)
    for k in range(texel.size):
        i = np.uintp(texel[k])
        upper = texels[i] + across[k] * (texels[i + right] - texels[i])
        i += below
        lower = texels[i] + across[k] * (texels[i + right] - texels[i])
        brightness[k] = upper + down[k] * (lower - upper)


@njit(cache=True, nogil=True)
def look(faces, rotation, bearings, brightness):
    """Brightness (n,) that each pixel sees: `rotation` (3, 3) turns bearings (3, n), camera to world; all float32."""
    n, side = bearings.shape[1], faces.shape[1]
    texel, across, down = np.empty(n, np.int32), np.empty(n, np.float32), np.empty(n, np.float32)
    _aim(side, rotation, bearings, texel, across, down)
    _fetch(faces.reshape(-1), side, texel, across, down, brightness)


@njit(cache=True, nogil=True, error_model="numpy")
def expose(
    faces, rotations, times_us, refractory_us, bearings, thresholds, start, old, reference, ready_us, t_us, pixel, on
):
    """Turn the camera through its steps and write an event whenever a pixel has changed by its threshold.

    Brightness is linear in time within a step. After an event a pixel is blind for the refractory period; it then
    measures change from the brightness at the end of that period, as the circuit does when its reset is released.

    Args:
        faces: (6, n + 2, n + 2) float32, log intensity.
        rotations: (steps + 1, 3, 3) float32, camera to world at `times_us` (steps + 1,) float64.
        bearings: (3, pixels) float32.
        thresholds: (2, pixels) float32, for OFF and ON, positive.
        start: (2,) int64, the step and the pixel to go on at; replaced by where the output was full.
        old, reference, ready_us: (pixels,) state: brightness at the last step, brightness at the last event, and
            the time at which the pixel sees again.
        t_us, pixel, on: output, float64, int32 and uint8.

    Returns:
        How many events were written. All is done when start[0] is the number of steps.
    """
    n, pixels = 0, bearings.shape[1]
    seen = np.empty(pixels, np.float32)
    for step in range(start[0], len(times_us) - 1):
        look(faces, rotations[step + 1], bearings, seen)
        t_old, t_new = times_us[step], times_us[step + 1]
        for k in range(start[1], pixels):
            new, level = seen[k], reference[k]
            quiet = new - level < thresholds[1, k] and level - new < thresholds[0, k]
            if quiet and ready_us[k] <= t_old:
                old[k] = new
                continue
            change = abs(new - old[k]) + abs(old[k] - level)
            if n + int(change / min(thresholds[0, k], thresholds[1, k])) + 2 > len(t_us):
                start[0], start[1] = step, k
                return n
            slope = (new - old[k]) / (t_new - t_old)
            if ready_us[k] > t_old:
                if ready_us[k] >= t_new:
                    old[k] = new
                    continue
                level = old[k] + slope * (ready_us[k] - t_old)
            rising = slope > 0
            threshold = thresholds[1, k] if rising else -thresholds[0, k]
            while (new - level >= threshold) if rising else (slope < 0 and new - level <= threshold):
                level += threshold
                t = t_old + (level - old[k]) / slope
                t_us[n], pixel[n], on[n] = t, k, rising
                n += 1
                if refractory_us > 0:
                    ready_us[k] = t + refractory_us
                    if ready_us[k] >= t_new:
                        break
                    level = old[k] + slope * (ready_us[k] - t_old)
            reference[k] = level
            old[k] = new
        start[1] = 0
    start[0] = len(times_us) - 1
    return n


@njit(cache=True, nogil=True)
def _direction(face, u, v):
    if face < 2:
        return 1.0 - 2.0 * (face % 2), u, v
    if face < 4:
        return u, 1.0 - 2.0 * (face % 2), v
    return u, v, 1.0 - 2.0 * (face % 2)


@njit(cache=True, nogil=True)
def directions(n):
    """Unit vectors (6, n + 2, n + 2, 3) through the texels of a cube whose faces have n x n, and a border."""
    out = np.empty((6, n + 2, n + 2, 3), np.float32)
    for face in range(6):
        for i in range(n + 2):
            for j in range(n + 2):
                x, y, z = _direction(face, (j - 0.5) * 2 / n - 1, (i - 0.5) * 2 / n - 1)
                norm = math.sqrt(x * x + y * y + z * z)
                out[face, i, j, 0], out[face, i, j, 1], out[face, i, j, 2] = x / norm, y / norm, z / norm
    return out


@njit(cache=True, nogil=True)
def add_lattice_noise(out, points, frame, frequency, amplitude, table):
    """Add smooth noise: random values on a lattice turned by `frame`, `frequency` cells a radian, interpolated.

    Args:
        out: (n,) float32, added to.
        points: (n, 3) float32 unit vectors.
        frame: (3, 3), so that the lattices of several octaves have no axis in common.
        table: (size, size, size) random values, repeated in space; size is a power of two.
    """
    mask = table.shape[0] - 1
    for k in range(points.shape[0]):
        q = np.empty(3)
        cell = np.empty(3, np.int64)
        for a in range(3):
            s = frequency * (frame[a, 0] * points[k, 0] + frame[a, 1] * points[k, 1] + frame[a, 2] * points[k, 2] + 4.0)
            cell[a] = int(s)
            f = s - cell[a]
            q[a] = f * f * (3 - 2 * f)
        value = 0.0
        for corner in range(8):
            dx, dy, dz = corner & 1, (corner >> 1) & 1, corner >> 2
            weight = (q[0] if dx else 1 - q[0]) * (q[1] if dy else 1 - q[1]) * (q[2] if dz else 1 - q[2])
            value += weight * table[(cell[0] + dx) & mask, (cell[1] + dy) & mask, (cell[2] + dz) & mask]
        out[k] += amplitude * value


@njit(cache=True, nogil=True)
def draw_polygon(out, points, center, right, corners, edge, level):
    """Paint a polygon on the sphere, over what is there.

    Args:
        out: (n,) float32 brightness, changed where the polygon covers it.
        points: (n, 3) float32 unit vectors.
        center, right: unit vectors to its middle and, at a right angle, to its own right.
        corners: (m, 2) vertices, anticlockwise, convex, on the tangent plane at the center.
        edge: width of the soft rim, in the same unit.
        level: its brightness.
    """
    down = np.cross(center, right)
    radius = 0.0
    for m in range(len(corners)):
        radius = max(radius, math.hypot(corners[m, 0], corners[m, 1]))
    nearest = math.cos(math.atan(radius + edge))
    for k in range(points.shape[0]):
        x, y, z = points[k, 0], points[k, 1], points[k, 2]
        depth = center[0] * x + center[1] * y + center[2] * z
        if depth < nearest:
            continue
        u = (right[0] * x + right[1] * y + right[2] * z) / depth
        v = (down[0] * x + down[1] * y + down[2] * z) / depth
        inside = 1e9
        for m in range(len(corners)):
            ax, ay = corners[m, 0], corners[m, 1]
            bx, by = corners[(m + 1) % len(corners), 0] - ax, corners[(m + 1) % len(corners), 1] - ay
            inside = min(inside, (bx * (v - ay) - by * (u - ax)) / math.hypot(bx, by))
        cover = min(max(inside / edge + 0.5, 0.0), 1.0)
        out[k] += cover * (level - out[k])
