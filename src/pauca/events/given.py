"""What is given in the place of something else is refused in one line, with the remedy."""

from collections.abc import Iterable
from dataclasses import fields, is_dataclass
from functools import cache
from numbers import Integral, Real
from os import PathLike
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import numpy as np

from pauca.errors import ConfigError, InputError

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
    ("GyroPrior", "GroundTruth"): "GyroPrior.of_camera(readings) is one, on the camera's clock and axes",
    ("GyroPrior", "Inertial"): "GyroPrior.from_fit(fit_gyro(trajectory, readings), readings) is one",
    ("GyroPrior", "path"): "GyroPrior.of_camera(read_ground_truth(path)) is one, on the camera's clock and axes",
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


def check_kinds(config: Any) -> None:
    """Refuse what is of another kind than the annotations of a dataclass name, for its `__post_init__`.

    Raises:
        ConfigError: the message names the field, and what it may be.
    """
    for name, parts in _kinds(type(config)).items():
        given = getattr(config, name)
        if not any(_is_of(given, part) for part in parts):
            wanted = " or ".join(_in_words(part) for part in parts if part is not NoneType)
            raise ConfigError(f"{type(config).__name__}: {name} must be {wanted}, got {_named(given)}")


@cache
def _kinds(config: type) -> dict[str, tuple[Any, ...]]:
    """What each field that is given may be."""
    hints, given = get_type_hints(config), [each.name for each in fields(config) if each.init]
    unions = (Union, UnionType)
    return {name: get_args(hints[name]) if get_origin(hints[name]) in unions else (hints[name],) for name in given}


def _is_of(given: Any, kind: Any) -> bool:
    if get_origin(kind) is Literal:
        return isinstance(given, str)  # which of the words, `check_choices` tells
    if get_origin(kind) is tuple:
        parts = get_args(kind)
        listed = isinstance(given, tuple | list) or (isinstance(given, np.ndarray) and given.ndim == 1)
        return listed and len(given) == len(parts) and all(map(_is_of, given, parts))
    if kind in (int, float):
        number = isinstance(given, Real) and not isinstance(given, bool)
        return number and (kind is float or isinstance(given, Integral) or float(given).is_integer())
    if kind is bool:
        return isinstance(given, bool | np.bool_)
    if kind is Path:
        return isinstance(given, str | PathLike)
    known = kind in (str, NoneType) or is_dataclass(kind)
    return not (known and isinstance(kind, type)) or isinstance(given, kind)


def _in_words(kind: Any) -> str:
    if get_origin(kind) is Literal:
        return " or ".join(map(repr, get_args(kind)))
    if kind == tuple[int, int]:
        return "(width, height)"
    if get_origin(kind) is tuple:
        return f"({', '.join(_in_words(part) for part in get_args(kind))})"
    plain = {int: "a whole number", float: "a number", bool: "True or False", str: "a text", Path: "a path"}
    return plain[kind] if kind in plain else _with_article(kind.__name__)


def number_of(name: str, given: Any) -> Any:
    """A number.

    Raises:
        InputError: it is something else.
    """
    if not _is_of(given, float):
        raise InputError(f"{name} must be a number, got {_named(given)}")
    return given


def size_of(given: Any) -> tuple[int, int]:
    """Width and height of a sensor.

    Raises:
        InputError: it is something else.
    """
    try:
        size = tuple(int(side) for side in given)
    except (TypeError, ValueError):
        size = ()
    if len(size) != 2 or min(size) < 1 or tuple(given) != size:
        raise InputError(f"size {given!r:.60} is no (width, height) in pixels")
    return size


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
    if isinstance(given, bool | Real):
        return str(given)
    name = type(given).__name__
    return _NAMES.get(name, _with_article(name))


def _with_article(word: str) -> str:
    return f"{'an' if word[0] in 'AEIOUaeiou' else 'a'} {word}"
