"""What a recording is like, before anything is computed from it: rates, balance, hot pixels, gaps, problems."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from pauca.errors import InputError
from pauca.events.hot_pixels import HotPixel, find_hot_pixels, rated
from pauca.events.io import EventStream
from pauca.events.recording import Recording, in_words, recording_of
from pauca.events.statistics import Statistics
from pauca.events.types import Events

RATE_BIN_US = 10_000
"""The peak rate is that of the busiest bin; 10 ms average over read-out bursts and still show fast motion."""

_GAP_FACTOR = 100.0  # times the mean interval of bins of events, see `_gaps`
_SHORTEST_GAP_US = 20_000


@dataclass(frozen=True)
class Gap:
    """A stretch without any event."""

    start_us: int
    duration_us: int


@dataclass(frozen=True)
class Info:
    """A recording in numbers; `table` says them in words."""

    name: str
    size: tuple[int, int]
    count: int
    start_us: int
    duration_s: float
    mean_rate_hz: float  # events a second
    peak_rate_hz: float  # in the busiest 10 ms
    on_share: float  # share of ON events, 0 to 1
    active_pixels: int  # pixels with at least one event
    hot_pixels: tuple[HotPixel, ...]  # hottest first
    gaps: tuple[Gap, ...]  # longest first
    same_time_share: float  # share of events at the very microsecond of the event before
    camera: str
    ground_truth: str
    problems: tuple[str, ...]  # what a user should look at, in words; empty where all is well

    def table(self) -> list[tuple[str, str]]:
        """Rows of name and value, for people."""
        width, height = self.size
        pixels = width * height
        hot = ", ".join(f"({p.x}, {p.y}) {p.rate_hz:,.0f} Hz" for p in self.hot_pixels[:5])
        more = f" and {len(self.hot_pixels) - 5} more" if len(self.hot_pixels) > 5 else ""
        gaps = ", ".join(f"{gap.duration_us / 1e3:,.0f} ms at {gap.start_us / 1e6:.3f} s" for gap in self.gaps[:3])
        return [
            ("recording", self.name),
            ("sensor", f"{width} x {height} pixels"),
            ("events", f"{self.count:,}"),
            ("time", f"{self.start_us / 1e6:.6f} to {self.start_us / 1e6 + self.duration_s:.6f} s"),
            ("duration", f"{self.duration_s:.3f} s"),
            ("mean rate", f"{self.mean_rate_hz:,.0f} events/s"),
            ("peak rate", f"{self.peak_rate_hz:,.0f} events/s (busiest {RATE_BIN_US // 1000} ms)"),
            ("ON events", f"{100 * self.on_share:.1f} %"),
            ("active pixels", f"{self.active_pixels:,} of {pixels:,} ({100 * self.active_pixels / pixels:.1f} %)"),
            ("hot pixels", f"{len(self.hot_pixels)}: {hot}{more}" if hot else "none"),
            ("gaps", f"{len(self.gaps)}: {gaps}" if gaps else "none"),
            ("equal times", f"{100 * self.same_time_share:.1f} % of the events"),
            ("camera", self.camera),
            ("ground truth", self.ground_truth),
            ("problems", "none" if not self.problems else self.problems[0]),
            *(("", problem) for problem in self.problems[1:]),
        ]

    def as_dict(self) -> dict[str, Any]:
        """Plain numbers, strings, lists and dictionaries, as for JSON."""
        return {
            **{name: value for name, value in vars(self).items() if name not in ("hot_pixels", "gaps")},
            "size": list(self.size),
            "problems": list(self.problems),
            "hot_pixels": [vars(pixel) for pixel in self.hot_pixels],
            "gaps": [vars(gap) for gap in self.gaps],
        }


def info(recording: Recording | Events | EventStream) -> Info:
    """Describe a recording, and say what is wrong with it.

    Args:
        recording: what `read` or `open_events` gave, or events alone; of a stream, memory holds a few chunks.

    Raises:
        InputError: the recording holds no events, or, of a stream, what `read` would raise.
    """
    if isinstance(recording, EventStream):
        chunks, size, name, notes = recording, recording.size, recording.path.name, ()
    else:
        recording = recording_of(recording)
        chunks, size, name, notes = [recording.events], recording.events.size, recording.name, recording.notes
    found = Statistics(size, RATE_BIN_US, _SHORTEST_GAP_US + 1)
    for chunk in chunks:
        found.add(chunk)
    if found.count == 0:
        raise InputError(f"{name or 'recording'}: holds no events")
    hot = rated(find_hot_pixels(chunks).on_sensor, found.counts, found.duration_us)
    gaps = _gaps(found)
    camera, truth = recording.camera, recording.ground_truth
    return Info(
        name=name,
        size=found.size,
        count=found.count,
        start_us=found.first_us,
        duration_s=found.duration_us / 1e6,
        mean_rate_hz=found.count / max(found.duration_us / 1e6, 1e-6),
        peak_rate_hz=found.peak_rate_hz,
        on_share=found.on / found.count,
        active_pixels=int(np.count_nonzero(found.counts)),
        hot_pixels=hot,
        gaps=gaps,
        same_time_share=found.same_time / found.count,
        camera=f"fx {camera.fx:.1f}, fy {camera.fy:.1f}, cx {camera.cx:.1f}, cy {camera.cy:.1f}"
        if camera
        else "unknown",
        ground_truth=f"{len(truth.t_s):,} samples" if truth else "none",
        problems=(*(in_words(recording.report.findings) if recording.report else notes), *_problems(found, hot, gaps)),
    )


def _gaps(found: Statistics) -> tuple[Gap, ...]:
    """Silences longer than 20 ms and than a hundred mean intervals: dropped packets, or a camera at rest."""
    shortest = _GAP_FACTOR * found.duration_us / found.count
    longest_first = sorted((gap for gap in found.gaps if gap[1] > shortest), key=lambda gap: -gap[1])
    return tuple(Gap(*gap) for gap in longest_first)


def _problems(found: Statistics, hot: tuple[HotPixel, ...], gaps: tuple[Gap, ...]) -> list[str]:
    problems, on_share, counts = [], found.on / found.count, found.counts
    if on_share in (0.0, 1.0):
        problems.append(f"all events are {'ON' if on_share else 'OFF'}: polarity is missing or was lost")
    elif not 0.1 <= on_share <= 0.9:
        problems.append(f"{100 * on_share:.0f} % of the events are ON: check the sensor's biases")
    if hot:
        share = sum(counts[p.y, p.x] for p in hot) / found.count
        problems.append(
            f"{len(hot)} hot pixel{'s' if len(hot) > 1 else ''} make {100 * share:.1f} % of the events: "
            "`pauca events align` leaves them out"
        )
    if gaps:
        silent = sum(gap.duration_us for gap in gaps) / max(found.duration_us, 1)
        problems.append(
            f"{len(gaps)} gaps without any event, {100 * silent:.0f} % of the time: lost data or a camera at rest"
        )
    seen = np.nonzero(counts.any(axis=0))[0].max() + 1, np.nonzero(counts.any(axis=1))[0].max() + 1
    if seen[0] * seen[1] < 0.5 * counts.size and found.count > 10 * counts.size:
        problems.append(f"all events lie within {seen[0]} x {seen[1]} pixels: is the sensor's size right?")
    if found.coarse:
        problems.append(f"{found.coarse}, and velocities over short windows suffer")
    return problems
