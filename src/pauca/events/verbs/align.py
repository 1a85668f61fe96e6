"""`pauca events align`: the velocity of the camera over recordings, chunk by chunk."""

from __future__ import annotations

import csv
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from tyro.conf import Positional, arg

from pauca import events
from pauca.errors import ConfigError, InputError
from pauca.events.hot_pixels import HotPixels, find_hot_pixels
from pauca.events.journal import Journal, Next, memory_of
from pauca.events.passes import Clean, after, windows_of
from pauca.events.types import Alignment
from pauca.events.verbs.calibrated import calibrated
from pauca.events.verbs.files import expanded, for_each, stem
from pauca.events.whole import refine_stream
from pauca.runs import Progress, check_can_write, lock_folder, save_figure

JOURNAL = "align.jsonl"
_RESULTS = ("trajectory.csv", "trajectory.npz", "velocity.png")
_FIRST = 1000  # events that compile the kernels


@dataclass(frozen=True)
class Cutting:
    """Where packets end, instead of what the preset says."""

    packet_events: int | None = None
    """Most events in one packet; default: 0.69 for each pixel of the sensor (30,000 on a DAVIS 240C). With the paper's
    preset, exactly so many."""
    min_events: int | None = None
    """A packet waits for so many events; default: a third of the most."""
    packet_s: float | None = None
    """Seconds after which a packet ends if it holds enough events and the image has moved enough; default 0.02."""
    least_pixels: float | None = None
    """A packet waits until the image is expected to have moved by so many pixels; default 4."""
    most_pixels: float | None = None
    """A packet ends when the image is expected to have moved by so many pixels; default 24."""
    longest_s: float | None = None
    """Seconds after which a packet of a moving camera ends in any case; default 0.1."""
    slowest_s: float | None = None
    """Seconds that a packet may last where the camera rests or moves slowly; default 0.3."""
    border: int | None = None
    """Pixels around the sensor in which warped events still count; default 60."""


def align(
    recordings: Positional[Annotated[tuple[Path, ...], arg(metavar="RECORDING [RECORDING ...]")]],
    camera: Path | None = None,
    camera_name: str | None = None,
    motion: events.Motion = "rotation",
    objective: events.Objective = "st-ppp",
    estimator: events.Estimator | None = None,
    preset: Literal["default", "paper"] = "default",
    cutting: Cutting = Cutting(),
    out: Path | None = None,
    images: int = 3,
    reading: events.ReadConfig = events.ReadConfig(),  # noqa: B008 - frozen
    remove_hot_pixels: bool = True,
    remove_noise: bool = True,
    resume: bool = False,
    force: bool = False,
    quiet: bool = False,
) -> None:
    """Estimate the velocity of the camera over a recording; write a table, a plot and sharp images.

    Writes trajectory.csv, trajectory.npz, velocity.png and aligned_*.png to the output folder. Rows of trajectory.csv
    are there as soon as they are found; what an interrupted run has found is kept, and --resume goes on.

    Args:
        recordings: events as text (plain or .gz), NPZ, HDF5, Prophesee RAW or DAT, AEDAT, ROS bag, or Event Stream; or
            folders of them.
        camera: calibration file (UZH calib.txt, YAML of ROS, Kalibr, DSEC or OpenCV, XML of DV), for recordings without
            their own.
        camera_name: which camera, where the calibration file holds several; default: cam0.
        motion: rotation of the camera, or translation parallel to the image.
        objective: st-ppp, the likelihood of the spatio-temporal Poisson point process, or contrast of the image.
        estimator: packets, a velocity for each packet, or trajectory, a velocity that is linear between knots; default:
            what the preset says.
        preset: default, or the paper's protocol (30,000 events, first-order warp to the first event).
        cutting: where packets end, instead of what the preset says.
        out: output folder; default: the recording's name, in runs/events. Of several recordings, the folder of their
            folders.
        images: how many packets to draw before and after alignment, spread over the recording; 0 for none.
        reading: how the file is read.
        remove_hot_pixels: leave out the events of pixels that fire all the time, and say how many there are, unless
            --no-remove-hot-pixels is given.
        remove_noise: leave out events that no neighboring pixel confirms, and say how many there are, where the image
            shows much background noise, unless --no-remove-noise or the paper's preset is given.
        resume: go on with a run that was interrupted, from its last packet.
        force: replace results that are there already.
        quiet: print only errors.
    """
    config = _align_config(motion, objective, estimator, preset, cutting)
    if images < 0:
        raise ConfigError(f"--images must not be negative, got {images}")
    if resume and force:
        raise ConfigError("--resume goes on with a run and --force begins it anew: choose one")
    paths = expanded(recordings)
    single = len(paths) == 1 and recordings[0] == paths[0]
    folders = _folders(paths, out, single)

    def one(path: Path) -> None:
        _Run(path, folders[path], config, reading, images, resume, force, quiet).align(
            camera, camera_name, remove_hot_pixels, remove_noise and preset != "paper"
        )

    for_each(paths, one)


@dataclass
class _Run:
    """One recording on its way to an output folder."""

    path: Path
    out: Path
    config: events.AlignConfig
    reading: events.ReadConfig
    images: int
    resume: bool
    force: bool
    quiet: bool

    def align(self, camera: Path | None, camera_name: str | None, without_hot: bool, quiet_pixels: bool) -> None:
        """Read, align, and write everything."""
        journal_path = self.out / JOURNAL
        if not self.resume:
            for name in _RESULTS:
                self._check_target(self.out / name, journal_path.exists())
        started = time.perf_counter()
        stream = events.open_events(self.path, self.reading)
        calibration = calibrated(stream.path.name, stream.size, stream.camera, camera, camera_name)
        hot = self._hot_pixels(stream) if without_hot else None
        reading_s = time.perf_counter() - started
        about = {
            "recording": [self.path.name, self.path.stat().st_size, self.path.stat().st_mtime_ns],
            "setting": str(self.config),
            "camera": str(calibration),
            "way of reading": asdict(self.reading),
            "number of hot pixels": 0 if hot is None else len(hot),
            "choice about noise": quiet_pixels,
        }
        journal = Journal(journal_path, about)
        known, told = journal.read() if self.resume else ([], [])
        aligner = events.Aligner(calibration, self.config)
        # Compiling the kernels, once after installation, is no part of the speed that is reported.
        events.Aligner(calibration, self.config).align(next(iter(stream))[:_FIRST])
        if told:
            aligner.memory = memory_of(known[-1], told, aligner.pixels)
        self.out.mkdir(parents=True, exist_ok=True)
        clean, started = Clean(stream, hot, quiet_pixels), time.perf_counter()
        with lock_folder(self.out):
            alignments = known + self._packets(clean, aligner, journal, known, told, None if hot is None else hot.kept)
            trajectory = events.Trajectory.from_alignments(alignments)
            if self.config.between_knots:
                trajectory = self._refine(clean, trajectory, calibration)
            seconds, noise = time.perf_counter() - started, clean.noise
            trajectory.to_csv(self.out / "trajectory.csv", force=True)  # the rows so far were this run's
            trajectory.to_npz(self.out / "trajectory.npz", self.force or self.resume)
            chosen = _spread(alignments, self.images)
            self._draw(trajectory, chosen, clean, events.Aligner(calibration, self.config))
            journal_path.unlink()
        if not self.quiet:
            new = alignments[len(known) :]
            n, duration_s = sum(each.n_events for each in new), sum(each.end_us - each.start_us for each in new) / 1e6
            if noise:
                print(f"dropped {noise:,} events of background noise")
            print(_summary(trajectory, self.config, n, duration_s, seconds, reading_s))
            print(f"wrote {', '.join(_RESULTS)}{' and images' if chosen else ''} to {self.out}")

    def _check_target(self, path: Path, interrupted: bool) -> None:
        try:
            check_can_write(path, self.force)
        except InputError as error:
            if interrupted and path.exists():
                raise InputError(f"{error}, or go on with the run that was interrupted (--resume)") from None
            raise

    def _hot_pixels(self, stream: events.EventStream) -> HotPixels:
        hot = find_hot_pixels(stream)
        if not self.quiet:
            if stream.report is not None and stream.report.clean:  # what was repaired has been logged
                print(stream.report.summary())
            print(f"dropped {hot.dropped:,} events of {len(hot)} hot pixels" if len(hot) else "no hot pixels")
        return hot

    def _packets(
        self,
        clean: Clean,
        aligner: events.Aligner,
        journal: Journal,
        known: list[Alignment],
        told: list[Next],
        total: int | None,
    ) -> list[Alignment]:
        """Align what is not known yet; each packet is a row of the table and a line of the journal at once."""
        found: list[Alignment] = []
        done = sum(alignment.n_events for alignment in known)
        left = None if total is None else total - done
        with (
            _told_what_is_kept(self.out, known, found),
            _Table(self.out / "trajectory.csv", known) as table,
            journal.writing(known, told) as lines,
            Progress(f"align {self.path.name}", total=left, unit="events", quiet=self.quiet) as progress,
        ):
            for alignment in aligner.follow(after(clean, done)):
                last = aligner.memory.last is alignment  # of the packets that were cut together
                lines.add(alignment, aligner.memory if last else None)
                found.append(alignment)
                table.add(alignment)
                progress.advance(alignment.n_events, note=str(alignment.status))
        return found

    def _refine(self, clean: Clean, packets: events.Trajectory, camera: events.Camera) -> events.Trajectory:
        total = int(packets.n_events.sum())
        with Progress("refine", total=total, unit="events", quiet=self.quiet) as progress:
            return refine_stream(clean, packets, camera, self.config, progress.advance)

    def _draw(
        self, trajectory: events.Trajectory, chosen: dict[int, Alignment], clean: Clean, aligner: events.Aligner
    ) -> None:
        from pauca.events import plots

        for stale in self.out.glob("aligned_*.png"):  # of an earlier run, which --force replaces
            stale.unlink()
        name = self.path.name
        figure = plots.velocity_figure(trajectory, clean.stream.ground_truth, name)
        save_figure(figure, self.out / "velocity.png", self.force or self.resume)
        for i, window in windows_of(clean, chosen):
            title = f"{name}: packet {i}, {chosen[i].start_us / 1e6:.3f} to {chosen[i].end_us / 1e6:.3f} s"
            before, after = aligner.images(window), aligner.images(window, chosen[i])
            save_figure(plots.warped_figure(before, after, title), self.out / f"aligned_{i:05d}.png", True)


class _Table:
    """trajectory.csv while it grows; a row is there when `add` returns."""

    def __init__(self, path: Path, known: list[Alignment]) -> None:
        self._file = path.open("w", encoding="utf-8", newline="")
        self._writer = csv.writer(self._file, lineterminator="\n")
        self._begun = False
        for alignment in known:
            self.add(alignment)

    def add(self, alignment: Alignment) -> None:
        self._writer.writerows(events.Trajectory.from_alignments([alignment]).rows(header=not self._begun))
        self._begun = True
        self._file.flush()

    def __enter__(self) -> _Table:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()


@contextmanager
def _told_what_is_kept(out: Path, known: list[Alignment], found: list[Alignment]) -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        print(f"pauca: {len(known) + len(found)} packets are kept in {out}; go on with --resume", file=sys.stderr)
        raise


def _folders(paths: list[Path], out: Path | None, single: bool) -> dict[Path, Path]:
    """The output folder of each recording."""
    root = out or Path("runs/events")
    folders = {path: out if single and out is not None else root / stem(path) for path in paths}
    if len(set(folders.values())) < len(paths):  # events.txt in many folders
        folders = {path: root / f"{path.absolute().parent.name}-{stem(path)}" for path in paths}
    if len(set(folders.values())) < len(paths):
        raise ConfigError("two of the recordings have one name, and their results would, too; align them one by one")
    return folders


def _align_config(
    motion: events.Motion,
    objective: events.Objective,
    estimator: events.Estimator | None,
    preset: str,
    cutting: Cutting,
) -> events.AlignConfig:
    config = events.AlignConfig.paper() if preset == "paper" else events.AlignConfig()
    changes: dict[str, Any] = {name: value for name, value in vars(cutting).items() if value is not None}
    if preset == "paper" and "packet_events" in changes:
        changes = {"min_events": changes["packet_events"], **changes}
    if estimator is not None:
        changes["estimator"] = estimator
    # Hot pixels and noise are left out, and counted, before the recording is cut.
    changes |= {"remove_hot_pixels": False, "remove_noise": False}
    return replace(config, motion=motion, objective=objective, **changes)


def _summary(
    trajectory: events.Trajectory,
    config: events.AlignConfig,
    n: int,
    duration_s: float,
    seconds: float,
    reading_s: float,
) -> str:
    kind = "knot" if config.between_knots else "packet"
    packets = f"{len(trajectory)} {kind}{'' if len(trajectory) == 1 else 's'}"
    counts = ", ".join(f"{trajectory.count(status)} {status}" for status in events.Status)
    return (
        f"{packets} ({counts}), {n:,} events in {seconds:.2f} s (reading {reading_s:.2f} s): "
        f"{n / seconds / 1e6:.2f} million events/s, {duration_s / seconds:.2f} times real time"
    )


def _spread(alignments: list[events.Alignment], count: int) -> dict[int, events.Alignment]:
    """The packets in the middles of `count` equal parts, by number: they show more than the first ones would."""
    middles = (np.arange(count) + 0.5) / max(count, 1) * len(alignments)
    return {i: alignments[i] for i in np.unique(middles.astype(int)).tolist()}
