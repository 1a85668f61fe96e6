"""Faults of time: a clock that jumps or runs over, silences that begin and end abruptly, a read-out at its limit."""

import numpy as np

from pauca.events.diagnosis.fault import Fault
from pauca.events.diagnosis.rates import Rates

_LOST = 100  # events that a silence swallowed at the rate around it, for it to be abrupt
_BESIDE = 50  # events in the stretch before it, and after it
_LONGEST_BESIDE_US = 20_000
# Silences are dropped packets up to the first, and a clock that jumps from the second on.
_LOSS_US, JUMP_US = 20_000, 1_000_000
_SHORTEST_US = 2_000
_CLOCK_PERIODS = {"2^24 us (EVT3)": 1 << 24, "2^31 us": 1 << 31, "2^32 us": 1 << 32, "2^34 us (EVT2)": 1 << 34}

_CEILING = 0.03  # a read-out at its limit varies by so little
_FLAT = 0.015  # standard deviation of its rate over the mean, in bins of a millisecond
_PILED = 4.0  # times as many bins just below the ceiling as in the next stretch of the same width
_FLAT_BINS = 40  # in sum
_PIXEL_RATE_HZ = 50.0  # read-outs end at 60 (DVS128) to 1160 (Gen4) events a pixel and second


def silences(rates: Rates, tick_us: float) -> list[Fault]:
    """Silences that begin and end abruptly: what was lost, or skipped by the clock, which has this resolution."""
    total = rates.total
    starts, ends = _runs(total == 0)
    sums = np.concatenate([[0], np.cumsum(total)])
    found: dict[str, list[tuple[int, int, float]]] = {"dropped packets": [], "gaps": [], "clock jumps": []}
    longest = max(1, _LONGEST_BESIDE_US // rates.bin_us)
    for start, end in zip(starts, ends, strict=True):
        length = end - start
        beside = min(max(length, 4), longest)
        before, after = sums[start] - sums[max(0, start - beside)], sums[min(len(total), end + beside)] - sums[end]
        expected = min(before, after) * length / beside
        long_us = length * rates.bin_us
        if min(before, after) < _BESIDE or expected < _LOST or long_us < max(_SHORTEST_US, 3 * tick_us):
            continue
        kind = "dropped packets" if long_us < _LOSS_US else "gaps" if long_us < JUMP_US else "clock jumps"
        found[kind].append((int(start), int(length), float(expected)))
    return [fault for kind, places in found.items() if places for fault in [_silence(kind, places, rates)]]


def _silence(kind: str, places: list[tuple[int, int, float]], rates: Rates) -> Fault:
    longest = max(places, key=lambda place: place[1])
    seconds, at_s = longest[1] * rates.bin_us * 1e-6, rates.time_s(longest[0])
    lost, together = sum(place[2] for place in places), sum(place[1] for place in places) * rates.bin_us * 1e-6
    numbers = {
        "count": len(places),
        "longest_s": round(seconds, 6),
        "longest_at_s": round(at_s, 6),
        "together_s": round(together, 6),
        "events_lost": round(lost),
        "at_s": [round(rates.time_s(place[0]), 6) for place in places[:100]],
    }
    s = "s" if len(places) > 1 else ""
    if kind == "clock jumps":
        what = (
            f"the clock jumps ahead {len(places)} time{s}, most by {seconds:,.3f} s at {at_s:.3f} s{_period(seconds)}"
        )
        return Fault(kind, what, "cut the recording there, or subtract the jump from what follows", numbers)
    what = (
        f"{len(places)} silence{s} of up to {1e3 * seconds:.1f} ms (the longest at {at_s:.3f} s) in the middle of "
        f"activity: about {lost:,.0f} events are missing"
    )
    remedy = (
        "read the camera faster: another USB port, a faster disk, fewer events (biases, filters, region of interest)"
        if kind == "dropped packets"
        else "estimates across them are worth nothing: cut the recording there"
    )
    return Fault(kind, what, remedy, numbers)


def _period(seconds: float) -> str:
    """The period of a known clock that a jump is near to."""
    near = [name for name, period in _CLOCK_PERIODS.items() if abs(seconds - period * 1e-6) < 0.005 * period * 1e-6]
    return f", which is {near[0]}: a clock that ran over" if near else ""


def step_back(back_us: int, place: str, at_us: int) -> Fault:
    """A clock that jumps back too far to be read on."""
    seconds = back_us / 1e6
    return Fault(
        "clock jumps",
        f"the clock steps back by {seconds:,.3f} s at {place}{_period(seconds)}; what follows was not looked at",
        "cut the recording there, or sort its events (--sort) if it is merged from several",
        {"count": 1, "back_s": round(seconds, 6), "place": place, "to_s": round(at_us / 1e6, 6)},
    )


def wrong_times(count: int, place: str) -> Fault:
    """Single times far from both neighbors."""
    return Fault(
        "clock jumps",
        f"{count} single times lie far from both neighbors (first: {place}), and were left out",
        "copy the file again: bits were flipped",
        {"count": count, "place": place},
    )


def saturation(rates: Rates, pixels: int) -> list[Fault]:
    """A rate that comes to the same highest value again and again, and stays there without a ripple."""
    per_ms = max(1, round(1000 / rates.bin_us))
    total = rates.total[:-1]
    total = total[: len(total) // per_ms * per_ms].reshape(-1, per_ms).sum(axis=1)
    bin_s = per_ms * rates.bin_us * 1e-6
    if len(total) < _FLAT_BINS:
        return []
    ceiling = float(np.sort(total)[-max(1, len(total) // 1000) :][0])
    if ceiling / bin_s / pixels < _PIXEL_RATE_HZ:
        return []
    top = np.count_nonzero(total > (1 - _CEILING) * ceiling)
    below = np.count_nonzero((total > (1 - 2 * _CEILING) * ceiling) & (total <= (1 - _CEILING) * ceiling))
    starts, ends = _runs(total > (1 - _CEILING) * ceiling)
    long = [(a, b) for a, b in zip(starts, ends, strict=True) if b - a >= 5]
    flat = np.concatenate([total[a:b] for a, b in long]) if long else np.zeros(0)
    if len(flat) < _FLAT_BINS or top < _PILED * max(below, 1) or flat.std() > _FLAT * flat.mean():
        return []
    rate, together = float(flat.mean()) / bin_s, len(flat) * bin_s
    return [
        Fault(
            "saturated read-out",
            f"the rate stays at {rate / 1e6:.2f} million events/s for {together:.2f} s in {len(long)} stretches, its "
            "highest value: events waited or were lost",
            "let fewer events through: higher thresholds, an event rate controller, or a smaller region of interest",
            {"rate_hz": round(rate), "seconds": round(together, 4), "stretches": len(long)},
        )
    ]


def _runs(where: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """First and behind last index of each run of true values."""
    edges = np.diff(np.concatenate([[0], where.astype(np.int8), [0]]))
    return np.flatnonzero(edges == 1), np.flatnonzero(edges == -1)
