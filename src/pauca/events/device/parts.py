"""Sums of slopes over parts of packets, many packets at once: what `consistency.sums_over_parts` gives for each."""

import torch
from jaxtyping import Float32, Float64, Int32
from torch import Tensor

from pauca.events.consistency import COLUMNS, ROWS, SPANS

_BITS = 60  # of a sum
_LEAST = 1e-60  # a sum below is taken for zero


def sums_over_parts(
    rows: Float32[Tensor, "r 6 n"], events: Int32[Tensor, "r"], k: int
) -> tuple[Float64[Tensor, "r spans 9"], Float64[Tensor, "r regions 9"]]:
    """Sums over eighths in time and twelfths of the sensor.

    Args:
        rows: three slopes of each event, its bearing x, y and time in seconds, as `gather` gives them.
        events: how many events each packet has; what follows in its rows is left out.
        k: how many slopes there are, two or three; then the third ones are zero.
    """
    u = rows[:, :3].double()
    x, y, s = rows[:, 3:].double().unbind(1)
    i, n = torch.arange(rows.shape[2], device=rows.device), events.long()[:, None]
    there = i < n
    if k == 2:
        u[:, 2] = 0
    span = (((i + 1) * SPANS - 1) // n).clamp(max=SPANS - 1)
    region = _slot(y, there, ROWS) * COLUMNS + _slot(x, there, COLUMNS)
    return _summed(u, span, there, SPANS), _summed(u * s[:, None], region, there, ROWS * COLUMNS)


def _slot(values: Float64[Tensor, "r n"], there: Tensor, slots: int) -> Tensor:
    """Which of as many equal parts of their range the values are in."""
    low = values.masked_fill(~there, torch.inf).amin(1, keepdim=True)
    high = values.masked_fill(~there, -torch.inf).amax(1, keepdim=True)
    return ((values - low) * (slots / (high - low).clamp(min=1e-9))).long().clamp(0, slots - 1)


def _summed(u: Float64[Tensor, "r 3 n"], part: Tensor, there: Tensor, parts: int) -> Float64[Tensor, "r parts 9"]:
    u0, u1, u2 = u.unbind(1)
    values = torch.stack([u0, u1, u2, u0 * u0, u1 * u0, u1 * u1, u2 * u0, u2 * u1, u2 * u2], dim=2) * there[..., None]
    # As integers, so that no bit depends on the order of the sum, nor on the packets beside.
    most = values.abs().amax(1, keepdim=True) * there.sum(1)[:, None, None]
    unit = torch.exp2(_BITS - most.clamp(min=_LEAST).log2().ceil())
    sums = torch.zeros(len(u), parts, 9, dtype=torch.int64, device=u.device)
    sums.scatter_add_(1, part[..., None].expand(values.shape), (values * unit).round().long())
    return sums / unit
