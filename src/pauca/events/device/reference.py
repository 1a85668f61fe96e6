"""What each kernel has to give, written with torch; also what runs where there is no GPU, in tests."""

import torch
from jaxtyping import Float32, Float64, Int32, Int64
from torch import Tensor

from pauca.events.device import parts
from pauca.events.device.batch import BLOCK, UNIT, Batch, Plane, Stored
from pauca.events.score import PAD

_NEAREST = 0.05  # as of `kernels.warp`


def vote(stored: Stored, batch: Batch, plane: Plane) -> tuple[Int64[Tensor, "r 2 h w"], Int32[Tensor, "r"]]:
    """Images of warped events in units of UNIT, and how many events of each are inside."""
    height, width = plane.size
    images = torch.zeros(len(batch.where), 2 * height * width, dtype=torch.int64, device=stored.words.device)
    inside = torch.zeros(len(batch.where), dtype=torch.int32, device=stored.words.device)
    for r, (at, motion) in enumerate(zip(batch.where, batch.motion, strict=True)):
        x, y, s, p = _events(stored, at)
        place = _Place(*_warped(x, y, s, motion, plane), p, plane)
        inside[r] = place.inside.sum()
        weights = torch.stack([v * h for v in place.down for h in place.right])
        units = (weights * (1 / UNIT)).long() * place.inside
        images[r].index_add_(0, place.pixels().flatten(), units.flatten())
    return images.view(-1, 2, height, width), inside


def score_images(
    images: Int64[Tensor, "r 2 h w"], plane: Plane
) -> tuple[Float64[Tensor, "r"], Float32[Tensor, "r 2 h w"]]:
    """Summed score of the blurred images above that of empty ones, and its slope by each blurred pixel."""
    counts = images.float() * UNIT
    for axis in (3, 2):
        counts = _blurred(counts, plane.taps, axis)
    bits = (counts + plane.offset).view(torch.int32)
    entry = plane.table[((bits >> 16) - plane.first_exponent).long()]
    fraction = (bits & 0xFFFF).float() * 2.0**-16
    frame = torch.zeros(counts.shape[2:], device=counts.device)
    frame[PAD:-PAD, PAD:-PAD] = 1
    values = (entry[..., 0] + fraction * entry[..., 1]) * frame
    slopes = (entry[..., 2] + fraction * entry[..., 3]) * frame
    return values.double().sum((1, 2, 3)), slopes


def gather(
    stored: Stored, batch: Batch, plane: Plane, slopes: Float32[Tensor, "r 2 h w"], each: bool = False
) -> tuple[Float64[Tensor, "r m"], Float32[Tensor, "r 6 n"] | None]:
    """Moments of the events' slopes, see `Plane.moments`; and, if asked, the slopes, bearings and times themselves."""
    k, device = plane.warp.parameters, stored.words.device
    moments = torch.empty(len(batch.where), plane.moments, dtype=torch.float64, device=device)
    rows = torch.zeros(len(batch.where), 6, batch.most_blocks * BLOCK, device=device) if each else None
    for axis in (3, 2):
        slopes = _blurred(slopes, plane.taps, axis)
    for r, (at, motion) in enumerate(zip(batch.where, batch.motion, strict=True)):
        x, y, s, p = _events(stored, at)
        u, v = _warped(x, y, s, motion, plane)
        place = _Place(u, v, p, plane)
        near = slopes[r].flatten()[place.pixels()].view(len(place.down), len(place.right), -1)
        along_x = torch.einsum("in,jn,ijn->n", place.down, place.right_slope, near) * place.inside
        along_y = torch.einsum("in,jn,ijn->n", place.down_slope, place.right, near) * place.inside
        by_motion = _chained(x, y, s, motion, plane, u, v, along_x, along_y)
        moments[r] = _moments(by_motion, s)
        if rows is not None:
            rows[r, :k, : len(x)] = by_motion
            rows[r, 3:, : len(x)] = torch.stack([x, y, s])
    return moments, rows


def sums_over_parts(rows: Float32[Tensor, "r 6 n"], batch: Batch, plane: Plane) -> Float64[Tensor, "r m"]:
    """Of each event's slopes, see `parts.sums_over_parts`: the spans of a packet, then its regions."""
    return torch.cat(parts.sums_over_parts(rows, batch.where[:, 1], plane.warp.parameters), dim=1).flatten(1)


def _events(stored: Stored, at: Int32[Tensor, "3"]) -> tuple[Tensor, ...]:
    """Bearings x, y, seconds and polarity of the events of one request."""
    first, n, t_ref = at.tolist()
    words, times = stored.words[first : first + n], stored.times[first : first + n]
    bearings = stored.bearings[(words >> 15) & 0x7FFF, words & 0x7FFF]
    seconds = ((times - t_ref).double() / 1e6).float()
    return bearings[:, 0], bearings[:, 1], seconds, (words >> 30) & 1


def _turn(s: Tensor, motion: Float32[Tensor, "6"]) -> tuple[Tensor, ...]:
    """What velocity and acceleration add up to at times s."""
    h = 0.5 * s * s
    return tuple(s * motion[i] + h * motion[3 + i] for i in range(3))


def _warped(x: Tensor, y: Tensor, s: Tensor, motion: Tensor, plane: Plane) -> tuple[Tensor, Tensor]:
    """As the kernels of `pauca.events.kernels.warp`."""
    fx, fy, cx, cy = plane.intrinsics
    rx, ry, rz = _turn(s, motion)
    if plane.warp.motion == "translation":
        return fx * (x - rx) + cx, fy * (y - ry) + cy
    ux, uy, uz = ry - rz * y, rz * x - rx, rx * y - ry * x
    if plane.warp.exact:
        a2 = rx * rx + ry * ry + rz * rz
        sine = 1 - a2 * (1 / 6 - a2 * (1 / 120 - a2 / 5040))
        cosine = 0.5 - a2 * (1 / 24 - a2 * (1 / 720 - a2 / 40320))
        px = x + sine * ux + cosine * (ry * uz - rz * uy)
        py = y + sine * uy + cosine * (rz * ux - rx * uz)
        pz = 1 + sine * uz + cosine * (rx * uy - ry * ux)
    else:
        px, py, pz = x + ux, y + uy, 1 + uz
    seen = pz > _NEAREST
    return torch.where(seen, fx * px / pz + cx, -1.0), torch.where(seen, fy * py / pz + cy, -1.0)


def _chained(
    x: Tensor, y: Tensor, s: Tensor, motion: Tensor, plane: Plane, u: Tensor, v: Tensor, dx: Tensor, dy: Tensor
) -> Float32[Tensor, "k n"]:
    """As the kernels of `pauca.events.kernels.chain`."""
    fx, fy, cx, cy = plane.intrinsics
    if plane.warp.motion == "translation":
        return torch.stack([-fx * dx, -fy * dy])
    rx, ry, rz = _turn(s, motion)
    px, py = (u - cx) / fx, (v - cy) / fy
    if not plane.warp.exact:
        depth = 1 + rx * y - ry * x
        qx, qy = fx * dx / depth, fy * dy / depth
        qz = -(px * qx + py * qy)
        return torch.stack([y * qz - qy, qx - x * qz, x * qy - y * qx])
    a2 = rx * rx + ry * ry + rz * rz
    b, c = 0.5 - a2 * (1 / 24 - a2 / 720), 1 / 6 - a2 * (1 / 120 - a2 / 5040)
    qx, qy = fx * dx, fy * dy
    along = qx * px + qy * py
    vx, vy, vz = -py * along - qy, qx + px * along, px * qy - py * qx
    ux, uy, uz = ry * vz - rz * vy, rz * vx - rx * vz, rx * vy - ry * vx
    return torch.stack(
        [
            vx - b * ux + c * (ry * uz - rz * uy),
            vy - b * uy + c * (rz * ux - rx * uz),
            vz - b * uz + c * (rx * uy - ry * ux),
        ]
    )


class _Place:
    """Pixels around warped events, with shares and their derivatives along both axes."""

    def __init__(self, u: Tensor, v: Tensor, p: Tensor, plane: Plane) -> None:
        self._p, (self._height, self._width) = p, plane.size
        spline = plane.vote == "quadratic"
        low, far = (0.5, 1.5) if spline else (0.0, 1.0)
        x_end, y_end = self._width - 2 * PAD - far, self._height - 2 * PAD - far
        self.inside = (u >= low) & (v >= low) & (u < x_end) & (v < y_end)
        u, v = torch.where(self.inside, u, low), torch.where(self.inside, v, low)
        self._column, self._row = (u + low).to(torch.int32), (v + low).to(torch.int32)
        shares = _spline if spline else _linear
        self.right, self.right_slope = shares(u - self._column)
        self.down, self.down_slope = shares(v - self._row)
        self._before = 1 if spline else 0

    def pixels(self) -> Tensor:
        """Indices in the two images of a request, row by row."""
        n = len(self.right)
        top = (self._p * self._height + self._row + PAD - self._before) * self._width
        corner = top + self._column + PAD - self._before
        return torch.stack([corner + i * self._width + j for i in range(n) for j in range(n)]).long()


def _linear(a: Tensor) -> tuple[Tensor, Tensor]:
    one = torch.ones_like(a)
    return torch.stack([1 - a, a]), torch.stack([-one, one])


def _spline(a: Tensor) -> tuple[Tensor, Tensor]:
    left, right = 0.5 - a, 0.5 + a
    return torch.stack([0.5 * left * left, 0.75 - a * a, 0.5 * right * right]), torch.stack([-left, -2 * a, right])


def _blurred(images: Tensor, taps: tuple[float, float, float], axis: int) -> Tensor:
    total = taps[0] * images
    for distance, tap in enumerate(taps[1:], 1):
        if tap:
            total = total + tap * (images.roll(distance, axis) + images.roll(-distance, axis))
    return total


def _moments(u: Float32[Tensor, "k n"], s: Float32[Tensor, "n"]) -> Float64[Tensor, "m"]:
    k, h = len(u), 0.5 * s
    su = s * u
    sums = [*su, *(h * su)]
    products = [su[a] * su[b] for a in range(k) for b in range(a + 1)]
    for _ in range(3):
        sums += products
        products = [h * product for product in products]
    return torch.stack(sums).double().sum(1)
