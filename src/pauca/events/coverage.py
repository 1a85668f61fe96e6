"""Whether a trajectory, or a gyroscope's log, is of the time of a recording: files are mixed up, and clocks differ."""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from pauca.errors import InputError
from pauca.events.gyro_prior import GyroPrior, in_seconds
from pauca.events.rate_units import doubt_of_unit
from pauca.events.trajectory import Trajectory
from pauca.events.types import Alignment, Events, Status

_ASKED = 24  # packets
_ALL = 0.99  # of a recording's time: packets end a little before the last event
_REMEDY = (
    "are its axes, its clock and its unit (--gyro-unit) the camera's? `pauca events gyro` finds axes and clock "
    "(--gyro-fit)"
)


def span_of(trajectory: Trajectory) -> tuple[int, int]:
    """First and last microsecond of a trajectory's packets."""
    return int(trajectory.start_us.min()), int(trajectory.end_us.max())


def covered(trajectory: Trajectory, first_us: int, last_us: int) -> str:
    """What a trajectory leaves out of a recording's time, in words; empty where that is nothing to speak of.

    Args:
        trajectory: what is to go with the recording.
        first_us: of the recording's events.
        last_us: of the recording's events.

    Raises:
        InputError: it lies at another time altogether.
    """
    begin_us, end_us = span_of(trajectory)
    shared_us = min(end_us, last_us) - max(begin_us, first_us)
    if shared_us < 0:
        raise InputError(
            f"the trajectory lies at {in_seconds(begin_us, end_us)}, and the events at "
            f"{in_seconds(first_us, last_us)}: it is of another recording, or on another clock"
        )
    if shared_us >= _ALL * (last_us - first_us):
        return ""
    return (
        f"the trajectory covers {in_seconds(begin_us, end_us)} of events at {in_seconds(first_us, last_us)}: "
        "what lies outside is left out"
    )


def with_events(windows: Iterable[Events], trajectory: Trajectory) -> Iterator[Events]:
    """The windows that a trajectory cuts a recording into.

    Raises:
        InputError: at their end, if no event was in any of them.
    """
    any_events = False
    for window in windows:
        any_events = any_events or len(window) > 0
        yield window
    if not any_events:
        raise nothing_there(trajectory)


def nothing_there(trajectory: Trajectory) -> InputError:
    """No event lies at a trajectory's time."""
    return InputError(
        f"no event lies at the trajectory's time, {in_seconds(*span_of(trajectory))}: it is of another recording, or "
        "on another clock"
    )


def not_read(prior: GyroPrior, alignments: Sequence[Alignment]) -> str:
    """In how many packets a gyroscope was not read throughout, in words; empty where it was in all."""
    lacking = [each for each in alignments if not prior.reads(each.start_us, each.end_us)]
    if not lacking:
        return ""
    begin_us, end_us = int(prior.t_us[0]), int(prior.t_us[-1])
    within = any(begin_us < each.start_us and each.end_us < end_us for each in lacking)
    return (
        f"the gyroscope was read at {in_seconds(begin_us, end_us)}{', with gaps' if within else ''}: {len(lacking)} of "
        f"{len(alignments)} packets are estimated without it"
    )


def contradicted(prior: GyroPrior | None, alignments: Sequence[Alignment]) -> dict[int, Alignment]:
    """Some packets, by number, where a gyroscope contradicts the events of more than half of them."""
    disputed = [i for i, each in enumerate(alignments) if each.status is Status.DISPUTED]
    if prior is None or 2 * len(disputed) <= len(alignments):
        return {}
    spread = np.linspace(0, len(disputed) - 1, min(len(disputed), _ASKED)).astype(int)
    return {disputed[i]: alignments[disputed[i]] for i in spread.tolist()}


def why_contradicted(prior: GyroPrior, alone: Iterable[Alignment]) -> str:
    """What is wrong with a gyroscope that contradicts most packets, in words.

    Args:
        prior: its readings.
        alone: some of these packets, aligned without it.
    """
    sure = [each for each in alone if each.status is Status.CONVERGED]
    shown = np.stack(
        [np.interp([each.t_us for each in sure], prior.t_us, axis) for axis in prior.omega_rad_s.T], axis=1
    )
    seen = np.array([each.velocity for each in sure]).reshape(-1, 3)
    told = doubt_of_unit([(shown, seen)], "--gyro-unit deg/s")
    if not told and sure:  # a steady motion does not tell the unit
        it, they = (np.degrees(np.median(np.linalg.norm(each, axis=1))) for each in (shown, seen))
        told = f"it turns by {it:,.1f} deg/s where they turn by {they:,.1f}; {_REMEDY}"
    return f"the gyroscope contradicts the events of most packets, which are disputed: {told or _REMEDY}"
