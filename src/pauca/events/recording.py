"""A recording as it comes from a file: events, camera, ground truth, and an account of what was wrong with it."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int64

from pauca.errors import InputError
from pauca.events.camera import Camera
from pauca.events.given import expect, refusal
from pauca.events.types import Events


class Remedy(StrEnum):
    """What a reader did about a finding."""

    DROPPED = "dropped"
    LOST = "lost"  # what follows damage and cannot be read; all before it is kept
    REPAIRED = "repaired"
    NOTED = "noted"  # nothing was changed or lost; strict reading accepts it


@dataclass(frozen=True)
class Finding:
    """One kind of trouble met while reading: how often, and where first."""

    remedy: Remedy
    reason: str
    count: int = 0
    place: str = ""  # first place: a line of the file or the number of an event, both counted from 1

    def __str__(self) -> str:
        first = f" (first: {self.place})" if self.place and self.count > 1 else f" ({self.place})" if self.place else ""
        counted = f"{self.count:,} " if self.count else ""
        return f"{self.remedy} {counted}{self.reason}{first}" if self.remedy != Remedy.NOTED else self.reason + first


@dataclass(frozen=True)
class ReadReport:
    """What reading a recording met and did; nothing is dropped or changed without a line here."""

    path: str
    format: str
    found: int  # events in the file, with bad lines, and lost events where their number is known
    kept: int
    findings: tuple[Finding, ...] = ()

    @property
    def clean(self) -> bool:
        """Whether every event was taken over as it was."""
        return all(finding.remedy == Remedy.NOTED for finding in self.findings)

    def count(self, remedy: Remedy) -> int:
        """How many events (or lines) met this remedy, over all reasons."""
        return sum(finding.count for finding in self.findings if finding.remedy == remedy)

    def summary(self) -> str:
        """One line for people."""
        told = "; ".join(str(finding) for finding in self.findings) or "nothing to repair"
        return f"{self.path}: {self.kept:,} of {self.found:,} events ({self.format}); {told}"

    def as_dict(self) -> dict[str, Any]:
        """The same for machines: plain numbers, strings, lists and dictionaries."""
        return {
            "path": self.path,
            "format": self.format,
            "found": self.found,
            "kept": self.kept,
            "findings": [
                {"remedy": str(f.remedy), "reason": f.reason, "count": f.count, "place": f.place} for f in self.findings
            ],
        }


@dataclass(frozen=True, eq=False)
class GroundTruth:
    """The camera's true rotation, on the clock of the events."""

    t_s: Float[np.ndarray, "n"]  # seconds, increasing
    omega_rad_s: Float[np.ndarray, "n 3"]  # about camera x, y, z (right, down, forward); linear between samples
    quat_xyzw: Float[np.ndarray, "n 4"] | None = None  # camera to world


@dataclass(frozen=True, eq=False)
class Inertial:
    """Samples of an inertial sensor, about and along its own axes, which need not be the camera's."""

    t_us: Int64[np.ndarray, "n"]  # on the clock of the events
    angular_velocity_rad_s: Float[np.ndarray, "n 3"]
    acceleration_m_s2: Float[np.ndarray, "n 3"]  # with gravity


@dataclass(frozen=True, eq=False)
class Recording:
    """Events and all that the file told about them."""

    events: Events
    camera: Camera | None = None
    name: str = ""  # file name, for messages and titles
    notes: tuple[str, ...] = ()  # the findings of the report in words, one line each
    report: ReadReport | None = None  # None for what was not read from a file
    ground_truth: GroundTruth | None = None
    inertial: Inertial | None = None
    frame_times_us: Int64[np.ndarray, "m"] | None = None  # of the camera's ordinary images, where it takes them
    no_camera: str = ""  # why the calibration in the file is not taken over, where there is one


def camera_of(recording: object, camera: Camera | None = None) -> Camera:
    """The camera that is given, or else the recording's own.

    Raises:
        InputError: neither is known, or what is given is no camera.
    """
    found = getattr(recording, "camera", None) if camera is None else camera
    if found is None:
        why = getattr(recording, "no_camera", "") or "the recording does not say its camera"
        raise InputError(f"{why}: give one, such as Camera.from_file('calib.txt')")
    return expect(found, Camera)


def recording_of(given: Recording | Events) -> Recording:
    """A recording; of events alone, one that knows nothing else.

    Raises:
        InputError: it is neither.
    """
    return Recording(given) if isinstance(given, Events) else expect(given, Recording)


def events_of(given: Events | Recording) -> Events:
    """Events, also those of a recording.

    Raises:
        InputError: it is neither.
    """
    return given.events if isinstance(given, Recording) else expect(given, Events)


def gyro_of(given: GroundTruth | Inertial) -> GroundTruth:
    """Angular velocities over time, also those of an inertial sensor, about its own axes.

    Raises:
        InputError: it is neither.
    """
    if isinstance(given, Inertial):
        return velocities_of(GroundTruth(given.t_us * 1e-6, given.angular_velocity_rad_s))
    if isinstance(given, Recording):
        raise refusal(
            given, "GroundTruth", "the gyroscope of a recording, where its file has one, is recording.inertial"
        )
    return velocities_of(given)


def velocities_of(given: GroundTruth) -> GroundTruth:
    """Angular velocities over time that can be compared with: finite, in order, a row of three for each time.

    Raises:
        InputError: they are not.
    """
    try:
        t_s, omega = (np.asarray(each, float) for each in (expect(given, GroundTruth).t_s, given.omega_rad_s))
    except (TypeError, ValueError) as error:
        raise InputError(f"velocities must be numbers ({error})") from None
    if np.ndim(t_s) != 1 or np.shape(omega) != (len(t_s), 3):
        raise InputError(
            f"velocities of shapes t_s {np.shape(t_s)}, omega_rad_s {np.shape(omega)}; expected (n,), (n, 3)"
        )
    unknown = ~(np.isfinite(t_s) & np.isfinite(omega).all(axis=1))
    if unknown.any():
        raise InputError(f"velocity {np.argmax(unknown)} of {len(t_s)} is no finite number; leave such rows out")
    backwards = np.diff(t_s) < 0
    if backwards.any():
        i = int(np.argmax(backwards)) + 1
        raise InputError(f"velocity {i}: time {t_s[i]} s follows {t_s[i - 1]} s; sort by time before")
    return replace(given, t_s=t_s, omega_rad_s=omega)


def leave_out(recording: Recording, dropped: Bool[np.ndarray, "n"], reason: str) -> Recording:
    """A recording without some of its events; its notes and its report say how many went, and why."""
    kept = recording.events.where(~dropped)
    count = len(recording.events) - len(kept)
    finding = Finding(Remedy.DROPPED, reason, count, f"event {int(np.argmax(dropped)) + 1}")
    report = recording.report
    if report:
        report = replace(report, kept=len(kept), findings=(*report.findings, finding))
    return replace(recording, events=kept, notes=(*recording.notes, *in_words([finding])), report=report)


def in_words(findings: Iterable[Finding]) -> tuple[str, ...]:
    """One line for each finding."""
    return tuple(str(finding) for finding in findings)
