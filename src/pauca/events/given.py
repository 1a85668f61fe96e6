"""What is given in the place of something else is refused in one line, with the remedy."""

from collections.abc import Iterable
from os import PathLike
from pathlib import Path
from typing import TypeVar

import numpy as np

from pauca.errors import InputError

T = TypeVar("T")

_REMEDIES = {
    ("Recording", "path"): "read it first: events.read(path)",
    ("Recording", "EventStream"): "stream.recording() reads all of it",
    ("Recording", "ndarray"): "Recording(as_events(array, size)) takes it over",
    ("Recording", "Iterable"): "Recording(joined(parts)) puts the parts of events together",
    ("Events", "path"): "read it first: events.read(path).events",
    ("Events", "EventStream"): "go through its parts, or read all of it: stream.recording().events",
    ("Events", "ndarray"): "as_events(array, size) takes it over",
    ("Events", "Iterable"): "joined(parts) puts the parts of events together",
    ("Events", "object"): "a structured array with fields t, x, y, p, or an EventStore of dv-processing, is one, too",
    ("Trajectory", "path"): "read it first: Trajectory.from_file(path)",
    ("Trajectory", "Alignment"): "Trajectory.from_alignments([alignment]) is one",
    ("Trajectory", "Iterable"): "Trajectory.from_alignments(alignments) is one",
    ("GroundTruth", "path"): "read it first: read_ground_truth(path)",
    ("GroundTruth", "Recording"): "that of a recording, where its file has it, is recording.ground_truth",
    ("GroundTruth", "Trajectory"): "GroundTruth(trajectory.t_s, trajectory.velocity) is one",
    ("GroundTruth", "Inertial"): "GroundTruth(inertial.t_us * 1e-6, inertial.angular_velocity_rad_s) is one, if its "
    "axes are the camera's; fit_gyro finds them",
    ("Camera", "path"): "read it first: Camera.from_file(path)",
    ("Camera", "Recording"): "that of a recording, where its file has it, is recording.camera",
    ("Camera", "Iterable"): "Camera.pinhole(size) is one without distortion",
    ("Iterable", "Alignment"): "put it into a list",
    ("Iterable", "Trajectory"): "align_packets gives alignments one by one, align their trajectory",
    ("Iterable", "path"): "read it first: events.read(path)",
    ("Sequence", "Events"): "joined([events, more_events]) puts them together",
    ("path", "Recording"): "write(path, recording) writes a recording to a file",
    ("path", "Events"): "write(path, events) writes events to a file",
}
"""What to do with what came, by what is expected."""


def expect(given: object, kind: type[T]) -> T:
    """What is given, if it is of the kind that is expected.

    Raises:
        InputError: it is something else; the message says what, and what to do.
    """
    if isinstance(given, kind):
        return given
    raise refusal(given, kind.__name__)


def path_of(given: str | PathLike[str]) -> Path:
    """A path.

    Raises:
        InputError: it is something else.
    """
    if not isinstance(given, str | PathLike) or isinstance(given, bytes):
        raise refusal(given, "path")
    return Path(given)


def refusal(given: object, expected: str, remedy: str = "") -> InputError:
    """One line about something that is not what was expected."""
    kinds = [kind.__name__ for kind in type(given).__mro__]
    if isinstance(given, str | PathLike):
        kinds = ["path"]
    elif isinstance(given, Iterable) and not isinstance(given, np.ndarray):
        kinds.append("Iterable")
    remedy = remedy or next((_REMEDIES[expected, kind] for kind in kinds if (expected, kind) in _REMEDIES), "")
    if not remedy and expected.endswith("Config") and isinstance(given, dict):
        remedy = f"{expected}(**values) is one"
    wanted = _NAMES.get(expected, _with_article(expected))
    return InputError(f"expected {wanted}, got {_named(given)}" + (f"; {remedy}" if remedy else ""))


_NAMES = {"Events": "Events", "Sequence": "a list", "Iterable": "a list, or what else can be gone through"}


def _named(given: object) -> str:
    if given is None:
        return "None"
    if isinstance(given, str | PathLike):
        return f"the path {given}" if isinstance(given, PathLike) else f"the text {given!r}"
    if isinstance(given, np.ndarray):
        return f"an array of {given.dtype} of shape {given.shape}"
    name = type(given).__name__
    return _NAMES.get(name, _with_article(name))


def _with_article(word: str) -> str:
    return f"{'an' if word[0] in 'AEIOUaeiou' else 'a'} {word}"
