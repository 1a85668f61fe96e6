"""Checks and repairs that every format shares: from the columns of a file to events that can be trusted.

What is small and unmistakable is repaired, counted and reported; what is large or could mean two things is refused.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from jaxtyping import Bool, Int64, Shaped

from pauca.errors import InputError
from pauca.events.camera import Camera
from pauca.events.lens import LensModel
from pauca.events.recording import Finding, GroundTruth, Inertial, ReadReport, Recording, Remedy, in_words
from pauca.events.types import Events

TimeUnit = Literal["s", "ms", "us", "ns"]

MICROSECONDS: dict[TimeUnit, float] = {"s": 1e6, "ms": 1e3, "us": 1.0, "ns": 1e-3}
"""Microseconds in each unit of time."""

SMALL_JUMP_US = 10_000
"""Times may step back by this much, as merged or multi-threaded drivers write them; more means two recordings in
one file, a clock that was reset, or damage."""

MAX_DROPPED_SHARE = 0.1
"""Above this share (and above 10 events) the file or the options are wrong, rather than some events."""

# No camera in the list of known sensors delivers more than 1.07 billion events/s, nor, moving, fewer than hundreds.
_RATES_PER_S = (20.0, 2e9)
# Their fastest read-outs, spread over the sensor, are 130 (DAVIS346) to 1160 (Gen4) events a pixel and second.
_PIXEL_RATE_PER_S = 2500.0
_LONGEST_S = 7 * 86_400.0
_YEAR_2200_US = 7.26e15  # since 1970
_ENOUGH_FOR_A_RATE = 1000

# DVS128, DAVIS240, ATIS, GenX320, QVGA, DAVIS346, VGA (DVXplorer, Gen3, DSEC), HD (Gen4), by area.
_KNOWN_SENSORS = ((128, 128), (240, 180), (304, 240), (320, 240), (346, 260), (320, 320), (640, 480), (1280, 720))


@dataclass
class RawColumns:
    """What a format's reader found, as it was stored; `repair` turns it into a recording."""

    format: str
    t: np.ndarray  # in `unit`; any type of number, and, before `repair`, of any shape
    x: np.ndarray
    y: np.ndarray
    p: np.ndarray
    unit: TimeUnit
    unit_is_certain: bool  # said by the user or by the file, not guessed from the look of the numbers
    said_unit: TimeUnit | None = None  # the unit in the file, where the reader has converted `t` already
    size: tuple[int, int] | None = None
    calibration: tuple[float, ...] | None = None  # fx fy cx cy k1 k2 p1 p2 k3
    lens: LensModel = "radtan"  # what the coefficients of the calibration belong to
    ground_truth: GroundTruth | None = None
    inertial: Inertial | None = None
    frame_times_us: np.ndarray | None = None
    camera: Camera | None = None  # where the file holds a whole one, instead of `calibration`
    findings: list[Finding] = field(default_factory=list)
    first_line: int | None = None  # line of the first event, where each further line is one event


def repair(raw: RawColumns, path: Path, size: tuple[int, int] | None, strict: bool, sort: bool = False) -> Recording:
    """Check the columns, repair what is small, and report it.

    Args:
        raw: the columns of the file.
        path: the file, for messages.
        size: width and height that the user gave; None to take them from the file, or to guess.
        strict: refuse instead of repairing.
        sort: put events in order of time, however far they are out of it.

    Raises:
        InputError: where the columns do not fit together, too much would be dropped, times jump back far, or the
            rate of events is one that no camera has; with `strict`, wherever anything had to be repaired.
    """
    _check_shapes(raw, path)
    findings = list(raw.findings)
    found = len(raw.t) + sum(finding.count for finding in findings if finding.remedy != Remedy.NOTED)
    t_us, no_time = _microseconds(raw.t, raw.unit)
    on, no_polarity = _polarity(raw.p, findings)
    x, y, no_pixel = _pixels(raw.x, raw.y)
    size = _sensor_size(raw, size, x[~no_pixel], y[~no_pixel], path, findings)
    undistorted = x.dtype == np.float32
    if not undistorted:
        no_pixel = (x < 0) | (y < 0) | (x >= size[0]) | (y >= size[1])
    kept = np.ones(len(t_us), bool)
    _drop(kept, no_time, "times that are no finite numbers", raw, findings)
    beyond = "pixels that are no finite numbers" if undistorted else f"pixels beyond the sensor ({size[0]} x {size[1]})"
    _drop(kept, no_pixel, beyond, raw, findings)
    _drop(kept, no_polarity, "polarities other than 0/1 or -1/1", raw, findings)
    _check_share(found, findings, path)
    index = _in_order(t_us, kept, raw, path, findings, sort)
    _check_share(found, findings, path)

    pixel = np.float32 if undistorted else np.uint16
    x, y = x[index].astype(pixel, copy=False), y[index].astype(pixel, copy=False)
    events = Events(t_us[index], x, y, on[index].view(np.uint8), size)
    check_plausible(events, raw.said_unit or raw.unit, raw.unit_is_certain, path)
    camera = _camera(raw, size, undistorted, path, findings)
    report = ReadReport(str(path), raw.format, found, len(events), tuple(findings))
    if strict and not report.clean:
        raise InputError(f"{report.summary()}; refused, because strict reading was asked for")
    return Recording(
        events,
        raw.camera or camera,
        path.name,
        in_words(findings),
        report,
        raw.ground_truth,
        raw.inertial,
        raw.frame_times_us,
    )


def _check_shapes(raw: RawColumns, path: Path) -> None:
    columns = {"t": raw.t, "x": raw.x, "y": raw.y, "p": raw.p}
    for name, column in columns.items():
        if column.ndim != 1 or column.dtype.kind not in "biuf":
            raise InputError(
                f"{path}: {name} is {column.dtype} of shape {column.shape}, expected one number for each event"
            )
    lengths = {name: len(column) for name, column in columns.items()}
    if len(set(lengths.values())) > 1:
        told = ", ".join(f"{name} {length:,}" for name, length in lengths.items())
        raise InputError(f"{path}: columns of different length ({told}), so which belong together is unknown")
    if lengths["t"] == 0:
        lines = f" ({raw.findings[0]})" if raw.findings else ""
        raise InputError(f"{path}: holds no events{lines}")


def _microseconds(t: np.ndarray, unit: TimeUnit) -> tuple[Int64[np.ndarray, "n"], Bool[np.ndarray, "n"]]:
    """Times as int64 microseconds, rounded to the nearest, and where that is impossible."""
    factor = MICROSECONDS[unit]
    limit = 2**62 / max(factor, 1.0)
    if t.dtype.kind == "f":
        impossible = ~(np.abs(t) < limit)
        scaled = np.rint(np.where(impossible, 0.0, t).astype(np.float64) * factor)
        return scaled.astype(np.int64), impossible
    impossible = (
        (t > np.asarray(limit).astype(np.uint64)) if t.dtype.kind == "u" else np.abs(t.astype(np.int64)) > limit
    )
    integers = t.astype(np.int64)
    if unit == "ns":
        return (integers + 500) // 1000, impossible
    return np.where(impossible, 0, integers) * int(factor) if unit != "us" else integers, impossible


def _polarity(p: np.ndarray, findings: list[Finding]) -> tuple[Bool[np.ndarray, "n"], Bool[np.ndarray, "n"]]:
    """Whether each event is ON, and where that cannot be told. OFF is 0, or -1 where that is more frequent."""
    on = p == 1
    off = p == 0
    minus = p == -1 if p.dtype.kind in "if" else np.zeros(0, bool)
    if np.count_nonzero(minus) > np.count_nonzero(off):
        off = minus
        findings.append(Finding(Remedy.NOTED, "polarity -1/1 read as 0/1"))
    return on, ~(on | off)


def _pixels(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray, Bool[np.ndarray, "n"]]:
    """Pixels as integers where all of them are whole, else as float32; and where they are no finite numbers."""
    if x.dtype.kind != "f" and y.dtype.kind != "f":
        return x, y, np.zeros(len(x), bool)
    x, y = x.astype(np.float32, copy=False), y.astype(np.float32, copy=False)
    lost = ~(np.isfinite(x) & np.isfinite(y))
    if lost.any():
        x, y = np.where(lost, -1, x), np.where(lost, -1, y)
    if np.array_equal(x, np.rint(x)) and np.array_equal(y, np.rint(y)):
        return _as_integers(x), _as_integers(y), lost
    return x, y, lost


def _as_integers(pixels: np.ndarray) -> np.ndarray:
    return np.clip(pixels, -1, np.float32(2**30)).astype(np.int32)


def _sensor_size(
    raw: RawColumns,
    given: tuple[int, int] | None,
    x: np.ndarray,
    y: np.ndarray,
    path: Path,
    findings: list[Finding],
) -> tuple[int, int]:
    if given and raw.size and tuple(given) != tuple(raw.size):
        raise InputError(
            f"{path}: says that its sensor has {raw.size[0]} x {raw.size[1]} pixels, but size {tuple(given)} was given"
        )
    size = given or raw.size
    if size is None:
        size = guess_size(x, y)
        findings.append(Finding(Remedy.NOTED, f"sensor size {size[0]} x {size[1]} guessed from the pixels seen"))
    return int(size[0]), int(size[1])


def guess_size(x: Shaped[np.ndarray, "n"], y: Shaped[np.ndarray, "n"]) -> tuple[int, int]:
    """The smallest known sensor that holds the pixels, but for one in ten thousand, which may be damaged."""
    if len(x) == 0:
        return _KNOWN_SENSORS[0]
    allowed = len(x) // 10_000
    for width, height in _KNOWN_SENSORS:
        if np.count_nonzero((x >= width) | (y >= height)) <= allowed:
            return width, height
    last = len(x) - 1 - allowed
    return int(np.partition(x, last)[last]) + 1, int(np.partition(y, last)[last]) + 1


def _place(raw: RawColumns, index: int) -> str:
    return f"event {index + 1}" if raw.first_line is None else f"line {raw.first_line + index}"


def _drop(kept: np.ndarray, bad: np.ndarray, reason: str, raw: RawColumns, findings: list[Finding]) -> None:
    """Take bad events out of `kept`; each counts for the first reason that meets it."""
    if not bad.any():
        return
    new = bad & kept
    if count := int(np.count_nonzero(new)):
        findings.append(Finding(Remedy.DROPPED, reason, count, _place(raw, int(np.argmax(new)))))
        kept &= ~new


def _check_share(found: int, findings: list[Finding], path: Path) -> None:
    found -= sum(finding.count for finding in findings if finding.remedy == Remedy.LOST)
    dropped = [finding for finding in findings if finding.remedy == Remedy.DROPPED]
    total = sum(finding.count for finding in dropped)
    if total == found or total > max(10, MAX_DROPPED_SHARE * found):
        told = "; ".join(str(finding) for finding in dropped)
        raise InputError(
            f"{path}: {total:,} of {found:,} events are unusable, too many to go on ({told}); "
            "check the format, the order of the columns and the size of the sensor"
        )


def _in_order(
    t_us: np.ndarray, kept: np.ndarray, raw: RawColumns, path: Path, findings: list[Finding], sort: bool
) -> np.ndarray | slice:
    """Indices of the kept events in order of time, less those whose time alone is wrong; with `sort`, of all."""
    index = np.flatnonzero(kept)
    t = t_us if len(index) == len(t_us) else t_us[index]
    step = np.diff(t)
    if not (step < 0).any():
        return slice(None) if len(index) == len(t_us) else index
    spikes = np.empty(0, np.int64) if sort else _spikes(t, np.flatnonzero(step < -SMALL_JUMP_US))
    if spikes.size:
        bad = np.zeros(len(t_us), bool)
        bad[index[spikes]] = True
        _drop(kept, bad, "single times far from both neighbors", raw, findings)
        index, t = np.delete(index, spikes), np.delete(t, spikes)
        step = np.diff(t)
    back = np.flatnonzero(step < 0)
    if back.size == 0:
        return index
    worst = int(np.argmin(step))
    if -step[worst] > SMALL_JUMP_US and not sort:
        raise InputError(
            f"{path}: {_place(raw, int(index[worst + 1]))}: time steps back by {-step[worst] / 1e6:g} s, too far for a "
            "recording in one piece; cut the file there, or sort its events (sort, --sort) if it is merged from several"
        )
    reason = f"times out of order, by up to {-step[worst]:,} us: sorted"
    findings.append(Finding(Remedy.REPAIRED, reason, back.size, _place(raw, int(index[back[0] + 1]))))
    return index[np.argsort(t, kind="stable")]


def _spikes(t: np.ndarray, before_jump: np.ndarray) -> np.ndarray:
    """Events whose time alone is wrong, as a flipped bit leaves them, at the jumps back after `before_jump`."""
    spikes = []
    for i in before_jump:
        if i + 2 < len(t) and t[i + 2] >= t[i] - SMALL_JUMP_US:
            spikes.append(i + 1)
        elif i == 0 or t[i - 1] <= t[i + 1] + SMALL_JUMP_US:
            spikes.append(i)
        elif i + 2 == len(t):
            spikes.append(i + 1)
    return np.unique(np.asarray(spikes, np.int64))


def check_plausible(events: Events, unit: TimeUnit, certain: bool, path: Path) -> None:
    """Refuse a duration or a rate that no recording has, and say which unit of time would make sense.

    Args:
        events: as read; their times are in microseconds by now.
        unit: the unit that the file's numbers were taken to have.
        certain: whether the user or the file said so. A slow recording is then believed, unless all its times are
            whole seconds or milliseconds, and so is one that is fast for the number of its pixels.
        path: the file, for the message.
    """
    n, duration_s = len(events), events.duration_us / 1e6
    slowest, fastest = _RATES_PER_S
    if not certain:
        fastest = min(fastest, _PIXEL_RATE_PER_S * events.size[0] * events.size[1])
    if _plausible(n, duration_s, fastest):
        if not certain and (strange := _strange_clock(events, unit)):
            raise InputError(f"{path}: {strange} (time_unit, --time-unit)")
        return
    slow = n < duration_s * slowest and duration_s <= _LONGEST_S
    if slow and certain and (unit in ("us", "ns") or (events.t_us % int(MICROSECONDS[unit])).any()):
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


def _strange_clock(events: Events, unit: TimeUnit) -> str:
    """What the look of the times, taken as `unit`, tells against it; empty where nothing does."""
    t_us = events.t_us
    if unit == "us" and int(t_us[-1]) > _YEAR_2200_US:
        year = 1970 + int(t_us[-1]) / 31_556_952e6
        return f"its times, taken as microseconds, lie in the year {year:,.0f}; say what they are, probably ns"
    coarse = len(events) >= _ENOUGH_FOR_A_RATE and events.duration_us > 0 and not (t_us % 1000).any()
    if unit == "s" and coarse:
        return (
            f"its times, taken as seconds, are all whole milliseconds over {events.duration_us / 1e6:,.0f} s, where a "
            "camera tells microseconds; say what they are: probably ms, or s if its clock is as coarse"
        )
    return ""


def _plausible(n: int, duration_s: float, fastest: float) -> bool:
    slowest = _RATES_PER_S[0]
    return duration_s <= _LONGEST_S and (n < _ENOUGH_FOR_A_RATE or duration_s * slowest <= n <= duration_s * fastest)


def _in_words(n: int, duration_s: float) -> str:
    rate = f"{n / duration_s:.3g} events/s" if duration_s else "all at one moment"
    return f"{n:,} events in {duration_s:.4g} s ({rate})"


def _camera(
    raw: RawColumns, size: tuple[int, int], undistorted: bool, path: Path, findings: list[Finding]
) -> Camera | None:
    if raw.calibration is None:
        return None
    intrinsics, distortion = raw.calibration[:4], raw.calibration[4:]
    if undistorted and any(distortion):
        findings.append(Finding(Remedy.NOTED, "pixels have fractions: taken as undistorted, the distortion is ignored"))
        distortion = ()
    try:
        return Camera(size, *intrinsics, *distortion, lens=raw.lens)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
