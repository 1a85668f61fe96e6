"""The velocity of a camera over time: many alignments, to and from files, between packets, and summed up."""

import csv
import io
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int64, Num
from scipy.spatial.transform import Rotation

from pauca.errors import InputError
from pauca.events.given import expect, path_of
from pauca.events.io.npz import read_arrays
from pauca.events.types import Alignment, Motion, Status
from pauca.runs import atomic_write, write_text

_AXES: dict[Motion, tuple[str, ...]] = {
    "rotation": ("wx_rad_s", "wy_rad_s", "wz_rad_s"),
    "translation": ("vx_1_s", "vy_1_s"),
}
_FAR_US = 1_000_000  # from a trajectory that is shorter than this
_INSTANT_US = 10_000  # before a recording has shown anything: nobody asks for these times alone
_ACCELERATIONS: dict[Motion, tuple[str, ...]] = {
    "rotation": ("ax_rad_s2", "ay_rad_s2", "az_rad_s2"),
    "translation": ("ax_1_s2", "ay_1_s2"),
}


@dataclass(frozen=True, eq=False)
class Trajectory:
    """Velocities in order of time, one for each packet or knot.

    Only rows that are CONVERGED or at REST are trusted: `at`, `orientation`, plots and `evaluate` pass over the others.

    Raises:
        InputError: where it holds nothing, its arrays disagree in length or shape, or times do not increase.
    """

    motion: Motion
    t_us: Int64[np.ndarray, "n"]  # the time each velocity is valid for
    velocity: Float[np.ndarray, "n k"]  # rad/s about camera x, y, z; or focal lengths per second along x, y
    covariance: Float[np.ndarray, "n k k"]
    start_us: Int64[np.ndarray, "n"]
    end_us: Int64[np.ndarray, "n"]
    n_events: Int64[np.ndarray, "n"]
    evaluations: Int64[np.ndarray, "n"]
    score: Float[np.ndarray, "n"]
    status: tuple[Status, ...]
    acceleration: Float[np.ndarray, "n k"] | None = None  # change of the velocity per second; None: not estimated

    def __post_init__(self) -> None:
        if self.motion not in _AXES:
            raise InputError(f"trajectory: motion {self.motion!r} is none; there are {' and '.join(_AXES)}")
        columns = [getattr(self, column.name) for column in fields(self) if column.name != "motion"]
        lengths = {len(column) for column in columns if column is not None}
        if lengths == {0} or len(lengths) != 1:
            raise InputError(f"trajectory: columns of lengths {sorted(lengths)}, expected one length above zero")
        n, k = len(self.t_us), len(_AXES[self.motion])
        shapes = {"velocity": (n, k), "covariance": (n, k, k), "acceleration": (n, k)}
        for name, shape in shapes.items():
            found = np.shape(getattr(self, name)) if getattr(self, name) is not None else shape
            if found != shape:
                raise InputError(f"trajectory: {name} of shape {found}, expected {shape}")
        backwards = np.flatnonzero(np.diff(self.t_us) < 0)
        if backwards.size:
            raise InputError(f"trajectory: time {self.t_us[backwards[0] + 1]} us of row {backwards[0] + 1} runs back")

    def __len__(self) -> int:
        return len(self.t_us)

    @property
    def t_s(self) -> Float[np.ndarray, "n"]:
        """Times in seconds on the recording's clock."""
        return self.t_us * 1e-6

    @property
    def trusted(self) -> np.ndarray:
        """Which rows are CONVERGED or at REST."""
        return np.array([status.trusted for status in self.status])

    def count(self, status: Status) -> int:
        """How many rows have this status."""
        return sum(found is status for found in self.status)

    @classmethod
    def from_alignments(cls, alignments: Iterable[Alignment]) -> "Trajectory":
        """Put alignments of one recording together, which may still be on their way: `align_packets`."""
        alignments = [expect(alignment, Alignment) for alignment in expect(alignments, Iterable)]
        if not alignments:
            raise InputError("no packet was aligned: the recording holds no events")

        def integers(name: str) -> np.ndarray:
            return np.array([getattr(alignment, name) for alignment in alignments], np.int64)

        return cls(
            motion=alignments[0].motion,
            velocity=np.stack([alignment.velocity for alignment in alignments]),
            acceleration=np.stack([alignment.acceleration for alignment in alignments]),
            covariance=np.stack([alignment.covariance for alignment in alignments]),
            score=np.array([alignment.score for alignment in alignments]),
            status=tuple(alignment.status for alignment in alignments),
            **{name: integers(name) for name in ("t_us", "start_us", "end_us", "n_events", "evaluations")},
        )

    def at(self, t_us: Num[np.ndarray, "*m"] | Sequence[int | float] | int | float) -> Float[np.ndarray, "*m k"]:
        """Velocity at other times: linear between trusted packets, constant beyond the ends; NaN if none is trusted.

        Args:
            t_us: one time or several, in microseconds on the recording's clock.

        Raises:
            InputError: times that are no numbers, that are seconds, or that all lie farther outside than the trajectory
                is long.
        """
        begin_us, end_us, keep = int(self.start_us.min()), int(self.end_us.max()), self.trusted
        times_us = microseconds(t_us, begin_us, end_us)
        far_us = max(end_us - begin_us, _FAR_US)
        if times_us.size and (times_us.max() < begin_us - far_us or times_us.min() > end_us + far_us):
            raise InputError(
                f"times {times_us.min():,} to {times_us.max():,} us lie far from the trajectory's, {begin_us:,} to "
                f"{end_us:,} us: are they microseconds on the recording's clock?"
            )
        if not keep.any():
            return np.full((*times_us.shape, self.velocity.shape[1]), np.nan)
        t, velocity = self.t_us[keep], self.velocity[keep]
        return np.stack([np.interp(times_us, t, component) for component in velocity.T], axis=-1)

    def orientation(self) -> Float[np.ndarray, "n 4"]:
        """Quaternions x, y, z, w that turn camera coordinates at each time into those at the first time.

        The velocity is taken to change linearly between packets (rotation over each interval by the mean velocity).
        Where no packet can be trusted, quaternions are NaN.
        """
        if self.motion != "rotation":
            raise InputError("orientation: this trajectory is a translation, which has none")
        if not self.trusted.any():
            return np.full((len(self), 4), np.nan)
        velocity = self.at(self.t_us)
        steps = (velocity[1:] + velocity[:-1]) / 2 * np.diff(self.t_s)[:, None]
        orientations = [Rotation.identity()]
        for step in steps:
            orientations.append(orientations[-1] * Rotation.from_rotvec(step))
        return np.stack([orientation.as_quat() for orientation in orientations])

    def to_csv(self, path: str | Path, force: bool = False) -> None:
        """One row a packet: time and velocity, window, acceleration, covariance, score, status.

        Raises:
            InputError: `path` exists and `force` is not set.
        """
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerows(self.rows())
        write_text(Path(path), text.getvalue(), force)

    def rows(self, header: bool = True) -> Iterator[list[Any]]:
        """What `to_csv` writes, row by row."""
        upper, axes = np.triu_indices(self.velocity.shape[1]), "xyz"
        if header:
            names = ["t_s", *_AXES[self.motion], "start_s", "end_s", "n_events", *_ACCELERATIONS[self.motion]]
            names += [f"cov_{axes[i]}{axes[j]}" for i, j in zip(*upper, strict=True)]
            yield [*names, "score", "evaluations", "status"]
        accelerations = np.zeros_like(self.velocity) if self.acceleration is None else self.acceleration
        for i in range(len(self)):
            times = [decimal_seconds(int(t_us[i])) for t_us in (self.t_us, self.start_us, self.end_us)]
            covariance = [f"{value:.6g}" for value in self.covariance[i][upper]]
            velocity = [f"{value:.9g}" for value in self.velocity[i]]
            acceleration = [f"{value:.6g}" for value in accelerations[i]]
            rest = [f"{self.score[i]:.6f}", self.evaluations[i], self.status[i].value]
            yield [times[0], *velocity, *times[1:], self.n_events[i], *acceleration, *covariance, *rest]

    @classmethod
    def from_file(cls, path: str | Path) -> "Trajectory":
        """Read what `to_npz` or `to_csv` wrote."""
        return cls.from_npz(path) if path_of(path).suffix == ".npz" else cls.from_csv(path)

    @classmethod
    def from_csv(cls, path: str | Path) -> "Trajectory":
        """Read what `to_csv` wrote."""
        path = path_of(path)
        if not path.is_file():
            raise InputError(f"{path}: no such file")
        try:
            rows = list(csv.DictReader(path.read_text(encoding="utf-8").splitlines()))
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"{path}: cannot be read as a trajectory ({error})") from None
        columns = set(rows[0]) if rows else set()
        motion: Motion | None = next((motion for motion, axes in _AXES.items() if {"t_s", *axes} <= columns), None)
        if motion is None:
            raise InputError(
                f"{path}: no trajectory; expected columns t_s,wx_rad_s,wy_rad_s,wz_rad_s or t_s,vx_1_s,vy_1_s"
            )
        try:
            return cls._from_rows(rows, motion)
        except (InputError, KeyError, TypeError, ValueError) as error:
            raise InputError(f"{path}: incomplete or damaged trajectory ({error})") from None

    @classmethod
    def _from_rows(cls, rows: list[dict[str, str]], motion: Motion) -> "Trajectory":
        def column(name: str) -> np.ndarray:
            return np.array([float(row[name]) for row in rows])

        axes = "xyz"[: len(_AXES[motion])]
        covariance = [[column(f"cov_{min(a, b)}{max(a, b)}") for a in axes] for b in axes]
        times = {f"{name}_us": _integers(column(f"{name}_s") * 1e6) for name in ("t", "start", "end")}
        accelerations = _ACCELERATIONS[motion]  # files of version 0.1 have none
        known = set(accelerations) <= set(rows[0])
        counts = {name: _integers(column(name)) for name in ("n_events", "evaluations")}
        return cls(
            motion=motion,
            velocity=np.stack([column(name) for name in _AXES[motion]], axis=1),
            acceleration=np.stack([column(name) for name in accelerations], axis=1) if known else None,
            covariance=np.moveaxis(np.array(covariance), 2, 0),
            score=column("score"),
            status=tuple(Status(row["status"]) for row in rows),
            **times,
            **counts,
        )

    def to_npz(self, path: str | Path, force: bool = False) -> None:
        """All columns, exactly; rotations with their integrated orientation.

        Raises:
            InputError: `path` exists and `force` is not set.
        """
        columns = {column.name: getattr(self, column.name) for column in fields(self)}
        if self.acceleration is None:
            del columns["acceleration"]
        columns["status"] = np.array([status.value for status in self.status])
        if self.motion == "rotation":
            columns["orientation_xyzw"] = self.orientation()
        with atomic_write(Path(path), force) as temporary:
            np.savez_compressed(temporary, **columns)

    @classmethod
    def from_npz(cls, path: str | Path) -> "Trajectory":
        """Read what `to_npz` wrote."""
        path = path_of(path)
        if not path.is_file():
            raise InputError(f"{path}: no such file")
        columns: dict[str, Any] = dict(read_arrays(path))
        if lacking := [column.name for column in fields(cls) if column.name not in {*columns, "acceleration"}]:
            what = "a recording; `pauca events align` makes a trajectory of it" if {"x", "y"} <= columns.keys() else ""
            raise InputError(f"{path}: cannot be read as a trajectory ({what or 'no ' + ', '.join(lacking)})")
        try:
            columns["motion"] = str(columns["motion"])
            columns["status"] = tuple(Status(str(status)) for status in columns["status"])
            return cls(**{column.name: columns[column.name] for column in fields(cls) if column.name in columns})
        except (InputError, KeyError, TypeError, ValueError) as error:
            raise InputError(f"{path}: incomplete or damaged trajectory ({error})") from None


def _integers(values: Float[np.ndarray, "n"]) -> Int64[np.ndarray, "n"]:
    if not (np.abs(values) < 2**62).all():
        raise ValueError("a time or a count that is no finite number")
    return np.round(values).astype(np.int64)


def decimal_seconds(t_us: int) -> str:
    """Microseconds as decimal seconds, exactly."""
    sign, t_us = "-" if t_us < 0 else "", abs(t_us)
    return f"{sign}{t_us // 1_000_000}.{t_us % 1_000_000:06d}"


def microseconds(t_us: object, begin_us: int, end_us: int) -> Num[np.ndarray, "*m"]:
    """Times that a trajectory or an attitude is asked for.

    Args:
        t_us: what was given.
        begin_us: where what is asked begins.
        end_us: where it ends.

    Raises:
        InputError: no numbers; or fractions that all lie outside, most of which would lie inside as seconds.
    """
    times = np.asarray(t_us)
    if times.size == 0:
        return times.astype(np.int64)
    if times.dtype.kind not in "iuf":
        raise InputError(f"times are numbers, microseconds on the recording's clock; got {t_us!r:.60}")
    if times.dtype.kind == "f" and (times % 1 != 0).any():
        outside = (times < max(begin_us, _INSTANT_US)) | (times > end_us)
        if outside.all() and np.mean((begin_us <= times * 1e6) & (times * 1e6 <= end_us)) > 0.5:
            raise InputError(
                f"times are microseconds, and {times.min():g} to {times.max():g} look like seconds: multiply by 1e6"
            )
    return times
