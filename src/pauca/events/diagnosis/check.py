"""Look through a recording for faults, chunk by chunk."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Bool

from pauca.errors import InputError
from pauca.events.diagnosis import pixels, timing
from pauca.events.diagnosis.fault import Fault
from pauca.events.diagnosis.flicker import Spectrum, flicker, spectrum_of
from pauca.events.diagnosis.rates import Rates
from pauca.events.hot_pixels import find_hot_pixels, rated
from pauca.events.io import EventStream
from pauca.events.io.order import ClockError
from pauca.events.recording import ReadReport, Recording, Remedy, recording_of
from pauca.events.statistics import Statistics
from pauca.events.types import Events

_PERIOD_SHARE = 1.2  # a silence that is shorter than so many periods of a flicker is its dark half


@dataclass(frozen=True, eq=False)
class CheckReport:
    """What a check found; `pauca.events.diagnosis.figure.check_figure` draws it."""

    name: str
    statistics: Statistics = field(repr=False)
    rates: Rates = field(repr=False)
    spectrum: Spectrum = field(repr=False)
    faults: tuple[Fault, ...]
    notes: tuple[str, ...]  # what reading repaired or remarked, no fault of the recording
    hot: Bool[np.ndarray, "height width"] = field(repr=False)
    empty: Bool[np.ndarray, "height width"] = field(repr=False)

    def as_dict(self) -> dict[str, Any]:
        """Plain numbers, strings, lists and dictionaries, as for JSON."""
        found = self.statistics
        return {
            "name": self.name,
            "size": list(found.size),
            "events": found.count,
            "start_s": found.first_us / 1e6,
            "duration_s": found.duration_us / 1e6,
            "faults": [fault.as_dict() for fault in self.faults],
            "notes": list(self.notes),
        }

    def lines(self) -> list[str]:
        """For people: a line of what was looked at, and two for each fault."""
        found = self.statistics
        told = f"{len(self.faults)} fault{'' if len(self.faults) == 1 else 's'}" if self.faults else "no fault found"
        width, height = found.size
        seconds = found.duration_us / 1e6
        lines = [f"{self.name}: {found.count:,} events of {width} x {height} pixels in {seconds:.3f} s: {told}"]
        for fault in self.faults:
            lines += [f"  {fault.kind:<20}{fault.what}", f"  {'':<20}-> {fault.remedy}"]
        return lines + [f"  note: {note}" for note in self.notes]


def check(recording: Recording | Events | EventStream) -> CheckReport:
    """Look for hot and dead pixels, flicker, a clock that jumps, gaps, dropped packets, a saturated read-out, a wrong
    size of the sensor, polarity imbalance and empty regions.

    Args:
        recording: what `read` or `open_events` gave, or events alone; of a stream, memory holds a few chunks. A stream
            whose clock steps back too far is looked at up to there.

    Raises:
        InputError: the recording holds no events, or, of a stream, what `read` would raise.
    """
    if isinstance(recording, EventStream):
        stream, chunks, size, name = recording, recording, recording.size, recording.path.name
    else:
        recording = recording_of(recording)
        stream, chunks, size, name = None, [recording.events], recording.events.size, recording.name
    found, rates, faults = Statistics(size, 10_000, timing.JUMP_US), Rates(), []
    whole = True
    try:
        for chunk in chunks:
            found.add(chunk)
            rates.add(chunk)
    except ClockError as error:
        faults, whole = [timing.step_back(error.back_us, error.place, error.at_us)], False
    if found.count == 0:
        raise InputError(f"{name or 'recording'}: holds no events")
    report = (stream or recording).report if whole else None
    spectrum = spectrum_of(rates)
    hot = find_hot_pixels(_Before(chunks, found.last_us) if not whole else chunks).on_sensor
    counts = found.counts
    empty = pixels.without_events(counts)
    faults += [
        *_of_reading(report),
        *pixels.hot(rated(hot, counts, found.duration_us), counts),
        *pixels.dead(counts, empty),
        *(swinging := flicker(spectrum, found.count)),
        *_unless_dark(timing.silences(rates, found.tick_us), swinging),
        *timing.saturation(rates, counts.size),
        *pixels.sensor_size(counts, _count(report, "pixels beyond the sensor")),
        *pixels.polarity(found.on, found.count),
        *pixels.regions(empty, counts),
    ]
    notes = [] if report is None else [str(finding) for finding in report.findings]
    if found.coarse:
        notes.append(found.coarse)
    if hot.any() and not any(fault.kind == "hot pixels" for fault in faults):
        notes.append(f"{np.count_nonzero(hot)} pixels fire all the time, too seldom to matter")
    return CheckReport(name, found, rates, spectrum, tuple(faults), tuple(notes), hot, empty)


@dataclass(eq=False)
class _Before:
    """A stream up to an event behind which it cannot be read."""

    chunks: Iterable[Events]
    last_us: int

    def __iter__(self) -> Iterator[Events]:
        for chunk in self.chunks:
            yield chunk
            if chunk.t_us[-1] >= self.last_us:
                return


def _count(report: ReadReport | None, reason: str) -> int:
    findings = report.findings if report else ()
    return sum(finding.count for finding in findings if finding.reason.startswith(reason))


def _of_reading(report: ReadReport | None) -> list[Fault]:
    """Faults that reading has met already."""
    faults = []
    for finding in report.findings if report else ():
        if finding.reason.startswith("single times"):
            faults.append(timing.wrong_times(finding.count, finding.place))
        elif finding.remedy == Remedy.LOST:
            faults.append(Fault("damage", str(finding), "copy the file again", {"count": finding.count}))
        elif "messages of events are missing" in finding.reason:
            faults.append(Fault("dropped packets", finding.reason, "record anew: nothing brings them back", {}))
    return faults


def _unless_dark(silences: list[Fault], swinging: list[Fault]) -> list[Fault]:
    """Silences, without those that are the dark halves of a flicker."""
    if not swinging:
        return silences
    longest_s = _PERIOD_SHARE / swinging[0].numbers["frequency_hz"]
    return [fault for fault in silences if fault.numbers["longest_s"] > longest_s]
