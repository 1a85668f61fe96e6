"""Durations and rates that no recording has: a wrong unit of time, or damage."""

from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import numpy as np

from pauca.errors import InputError
from pauca.events.io.source import MICROSECONDS, TimeUnit

# No camera in the list of known sensors delivers more than 1.07 billion events/s, nor, moving, fewer than hundreds.
_RATES_PER_S = (20.0, 2e9)
# Their fastest read-outs, spread over the sensor, are 130 (DAVIS346) to 1160 (Gen4) events a pixel and second.
_PIXEL_RATE_PER_S = 2500.0
_LONGEST_S = 7 * 86_400.0
_YEAR_2200_US = 7.26e15  # since 1970
_ENOUGH_FOR_A_RATE = 1000

_FEW = 100  # events


@dataclass
class Clock:
    """What the times of events tell about their unit; `add` takes them in, block by block and in order."""

    count: int = 0
    first_us: int = 0
    last_us: int = 0
    whole_ms: bool = True  # all times are whole milliseconds
    whole_s: bool = True

    def add(self, t_us: np.ndarray) -> "Clock":
        if len(t_us) == 0:
            return self
        if self.count == 0:
            self.first_us = int(t_us[0])
        self.count, self.last_us = self.count + len(t_us), int(t_us[-1])
        if self.whole_ms:  # the first few tell of nearly every recording
            self.whole_ms = not (t_us[:_FEW] % 1000).any() and not (t_us % 1000).any()
        if self.whole_s:
            self.whole_s = self.whole_ms and not (t_us % 1_000_000).any()
        return self

    @property
    def duration_us(self) -> int:
        return self.last_us - self.first_us


def check_plausible(clock: Clock, size: tuple[int, int], unit: TimeUnit, certain: bool, path: Path) -> None:
    """Refuse a duration or a rate that no recording has, and say which unit of time would make sense.

    Args:
        clock: of the times as read; they are in microseconds by now.
        size: width and height of the sensor.
        unit: the unit that the file's numbers were taken to have.
        certain: whether the user or the file said so. A slow recording is then believed, unless all its times are
            whole seconds or milliseconds, and so is one that is fast for the number of its pixels.
        path: the file, for the message.
    """
    n, duration_s = clock.count, clock.duration_us / 1e6
    slowest, fastest = _RATES_PER_S
    if not certain:
        fastest = min(fastest, _PIXEL_RATE_PER_S * size[0] * size[1])
    if _plausible(n, duration_s, fastest):
        if not certain and (strange := _strange_clock(clock, unit, fastest)):
            raise InputError(f"{path}: {strange} (time_unit, --time-unit)")
        return
    slow = n < duration_s * slowest and duration_s <= _LONGEST_S
    coarse = {"s": clock.whole_s, "ms": clock.whole_ms, "us": False, "ns": False}[unit]
    if slow and certain and not coarse:
        return
    scales = {other: MICROSECONDS[other] / MICROSECONDS[unit] for other in get_args(TimeUnit)}
    fitting = [
        f"in {other} it would be {_in_words(n, duration_s * scale)}"
        for other, scale in scales.items()
        if other != unit and _plausible(n, duration_s * scale, fastest)
    ]
    remedy = (
        f"{', '.join(fitting)}: give the unit of its times (time_unit, --time-unit)" if fitting else "check the file"
    )
    raise InputError(
        f"{path}: its times, taken as {unit}, make {_in_words(n, duration_s)}, which no camera records; {remedy}"
    )


def _strange_clock(clock: Clock, unit: TimeUnit, fastest: float) -> str:
    """What the look of the times, taken as `unit`, tells against it; empty where nothing does."""
    if unit == "us" and clock.last_us > _YEAR_2200_US:
        year = 1970 + clock.last_us / 31_556_952e6
        return f"its times, taken as microseconds, lie in the year {year:,.0f}; say what they are, probably ns"
    if clock.count < _ENOUGH_FOR_A_RATE or clock.duration_us == 0 or not clock.whole_ms:
        return ""
    if unit == "s":
        return (
            f"its times, taken as seconds, are all whole milliseconds over {clock.duration_us / 1e6:,.0f} s, where a "
            "camera tells microseconds; say what they are: probably ms, or s if its clock is as coarse"
        )
    if unit == "us" and _plausible(clock.count, clock.duration_us / 1e9, fastest):  # those of a driver for ROS
        return (
            f"its times, taken as microseconds, are all whole thousands over {clock.duration_us / 1e6:,.3g} s; say "
            "what they are: ns, or us if its clock tells milliseconds"
        )
    return ""


def _plausible(n: int, duration_s: float, fastest: float) -> bool:
    slowest = _RATES_PER_S[0]
    return duration_s <= _LONGEST_S and (n < _ENOUGH_FOR_A_RATE or duration_s * slowest <= n <= duration_s * fastest)


def _in_words(n: int, duration_s: float) -> str:
    rate = f"{n / duration_s:.3g} events/s" if duration_s else "all at one moment"
    return f"{n:,} events in {duration_s:.4g} s ({rate})"
