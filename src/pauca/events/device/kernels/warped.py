"""What kernels over events have in common: an event's bearing and time, and where a motion puts it."""

# Triton gives its functions other signatures than they have in Python.
# pyright: reportCallIssue=false, reportArgumentType=false, reportOperatorIssue=false
# pyright: reportAttributeAccessIssue=false, reportIndexIssue=false, reportGeneralTypeIssues=false

import triton
import triton.language as tl

from pauca.events.device.batch import Plane

EXACT, FIRST_ORDER, TRANSLATION = 0, 1, 2


def kind_of(plane: Plane) -> int:
    """The number by which kernels know a warp."""
    if plane.warp.motion == "translation":
        return TRANSLATION
    return EXACT if plane.warp.exact else FIRST_ORDER


@triton.jit
def load_events(words, times, bearings, where, request, i, sensor_width):
    """Bearings, seconds, polarity and existence of events number i of a request."""
    first = tl.load(where + 3 * request).to(tl.int64)
    there = i < tl.load(where + 3 * request + 1)
    word = tl.load(words + first + i, there, other=0)
    pixel = ((word >> 15) & 0x7FFF) * sensor_width + (word & 0x7FFF)
    x, y = tl.load(bearings + 2 * pixel), tl.load(bearings + 2 * pixel + 1)
    t_ref = tl.load(where + 3 * request + 2)
    since = tl.load(times + first + i, there, other=t_ref) - t_ref  # of none: 0, for years overflow in `turn`
    return x, y, (since.to(tl.float64) / 1000000.0).to(tl.float32), (word >> 30) & 1, there


@triton.jit
def turn(motion, request, s):
    """What velocity and acceleration add up to at times s."""
    at = motion + 6 * request
    h = 0.5 * s * s
    rx = s * tl.load(at) + h * tl.load(at + 3)
    ry = s * tl.load(at + 1) + h * tl.load(at + 4)
    rz = s * tl.load(at + 2) + h * tl.load(at + 5)
    return rx, ry, rz


@triton.jit
def warp(x, y, rx, ry, rz, fx, fy, cx, cy, KIND: tl.constexpr):
    """Pixels of the frame, -1 for what turned out of the camera's view; as the kernels of `pauca.events.kernels.warp`.

    KIND: 0 exact rotation, 1 rotation to first order, 2 translation.
    """
    if KIND == 2:
        u, v = fx * (x - rx) + cx, fy * (y - ry) + cy
    else:
        ux, uy, uz = ry - rz * y, rz * x - rx, rx * y - ry * x
        if KIND == 0:
            a2 = rx * rx + ry * ry + rz * rz
            sine = 1.0 - a2 * (1.0 / 6 - a2 * (1.0 / 120 - a2 * (1.0 / 5040)))
            cosine = 0.5 - a2 * (1.0 / 24 - a2 * (1.0 / 720 - a2 * (1.0 / 40320)))
            px = x + sine * ux + cosine * (ry * uz - rz * uy)
            py = y + sine * uy + cosine * (rz * ux - rx * uz)
            pz = 1.0 + sine * uz + cosine * (rx * uy - ry * ux)
        else:
            px, py, pz = x + ux, y + uy, 1.0 + uz
        seen = pz > 0.05
        safe = tl.where(seen, pz, 1.0)
        u, v = tl.where(seen, fx * px / safe + cx, -1.0), tl.where(seen, fy * py / safe + cy, -1.0)
    return u, v


@triton.jit
def place(u, v, there, height, width, pad, SPLINE: tl.constexpr):
    """Whether an event is inside the frame, the first pixel that it shares in the image, and its place from there."""
    if SPLINE:
        low, before = 0.5, 1
    else:
        low, before = 0.0, 0
    far = 1.0 + low
    inside = there & (u >= low) & (v >= low) & (u < width - 2 * pad - far) & (v < height - 2 * pad - far)
    u, v = tl.where(inside, u, low), tl.where(inside, v, low)
    column, row = (u + low).to(tl.int32), (v + low).to(tl.int32)
    first = (row + pad - before) * width + column + pad - before
    return inside, first, u - column.to(tl.float32), v - row.to(tl.float32)


@triton.jit
def share(a, I: tl.constexpr, SPLINE: tl.constexpr):  # noqa: E741 - an index
    """Share of pixel I of those around an event; zero beyond them."""
    if SPLINE:
        if I == 0:
            w = 0.5 * (0.5 - a) * (0.5 - a)
        elif I == 1:
            w = 0.75 - a * a
        elif I == 2:
            w = 0.5 * (0.5 + a) * (0.5 + a)
        else:
            w = 0.0 * a
    else:
        if I == 0:
            w = 1.0 - a
        elif I == 1:
            w = a
        else:
            w = 0.0 * a
    return w


@triton.jit
def share_slope(a, I: tl.constexpr, SPLINE: tl.constexpr):  # noqa: E741 - an index
    """Derivative of `share` by the event's place."""
    if SPLINE:
        if I == 0:
            w = a - 0.5
        elif I == 1:
            w = -2.0 * a
        elif I == 2:
            w = a + 0.5
        else:
            w = 0.0 * a
    else:
        if I == 0:
            w = 0.0 * a - 1.0
        elif I == 1:
            w = 0.0 * a + 1.0
        else:
            w = 0.0 * a
    return w
