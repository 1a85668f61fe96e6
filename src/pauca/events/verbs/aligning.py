"""One recording on its way to a folder of results: read, aligned, written; what is interrupted can be taken up."""

from __future__ import annotations

import csv
import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pauca import events
from pauca.errors import InputError
from pauca.events import pieces
from pauca.events.alignment import Memory
from pauca.events.coverage import contradicted, not_read, why_contradicted
from pauca.events.focal import telling_packets, widened
from pauca.events.hot_pixels import HotPixels, check_something_left, find_hot_pixels
from pauca.events.journal import Journal, Next, memory_of
from pauca.events.passes import Clean, after, windows_of
from pauca.events.types import Alignment
from pauca.events.verbs.calibrated import calibrated
from pauca.events.verbs.files import facts
from pauca.events.verbs.prior import PriorOptions
from pauca.events.whole import can_refine, compile_kernels, refine_stream
from pauca.runs import Progress, check_can_write, lock_folder, save_figure, write_text

JOURNAL = "align.jsonl"
RESULTS = ("trajectory.csv", "trajectory.npz", "velocity.png")
MADE_FROM = "made_from.json"
"""Beside the results: of which files, with which options."""
_FIRST = 1000  # events that compile the kernels


@dataclass
class AlignRun:
    """One recording on its way to an output folder."""

    path: Path
    out: Path
    config: events.AlignConfig
    reading: events.ReadConfig
    images: int
    resume: bool
    force: bool
    quiet: bool
    camera: Path | None
    camera_name: str | None
    without_hot: bool
    without_noise: bool
    workers: int | None  # None: in one piece
    prior: PriorOptions

    @property
    def finished(self) -> bool:
        """Whether all results are there, and nothing was interrupted."""
        return all((self.out / name).exists() for name in RESULTS) and not (self.out / JOURNAL).exists()

    def check_made_from(self) -> None:
        """Refuse results that are there of other files or other options; those of before version 0.2 do not say it.

        Raises:
            InputError: the message names the first that differs.
        """
        path, now = self.out / MADE_FROM, self._made_from()
        if not path.exists():
            return
        remedy = "align it anew (--force in the place of --resume), or into another folder (--out)"
        try:
            before = json.loads(path.read_text(encoding="utf-8"))
            files, options = dict(before["files"]), dict(before["options"])
        except (OSError, ValueError, KeyError, TypeError):
            raise InputError(f"{path}: damaged, so that nobody knows what its results are of; {remedy}") from None
        for name, known in now["files"].items():
            if files.get(name) != known:
                raise InputError(f"{self.out}: was made from another {name}, or it has changed since; {remedy}")
        for name, value in now["options"].items():
            if options.get(name, value) != value:  # what an earlier version did not know was not asked
                raise InputError(f"{self.out}: was made with {name} {options[name]}, not {value}; {remedy}")

    def _made_from(self) -> dict[str, Any]:
        """What results depend on, in plain values."""
        options = {
            **vars(self.config),
            **vars(self.reading),
            "camera_name": self.camera_name,
            "remove_hot_pixels": self.without_hot,
            "remove_noise": self.without_noise,
            "pieces": None if self.workers is None else pieces.PIECE_EVENTS,
        }
        files = {"recording": facts(self.path), "calibration": facts(self.camera), "gyroscope": self.prior.about()}
        return {"files": files, "options": {name: str(value) for name, value in options.items()}}

    def align(self) -> None:
        """Read, align, and write everything."""
        self.check_targets()
        journal_path, started = self.out / JOURNAL, time.perf_counter()
        stream = events.open_events(self.path, self.reading)
        calibration = calibrated(stream, self.camera, self.camera_name)
        hot = self._hot_pixels(stream) if self.without_hot else None
        reading_s = time.perf_counter() - started
        made_from = self._made_from()
        about = {
            "recording": made_from["files"]["recording"],
            "setting": str(self.config),
            "camera": str(calibration),
            "way of reading": asdict(self.reading),
            "number of hot pixels": 0 if hot is None else len(hot),
            "choice about noise": self.without_noise,
            "prior": made_from["files"]["gyroscope"],
            "division into pieces": None if self.workers is None else pieces.PIECE_EVENTS,
        }
        journal = Journal(journal_path, about)
        known, told = journal.read() if self.resume else ([], [])
        aligner = events.Aligner(calibration, self.config, prior := self.prior.read())
        if prior is not None and hot is not None:
            prior.check_read(hot.first_us, hot.last_us)
        compile_kernels(next(iter(stream))[:_FIRST], calibration, self.config)
        if told and self.workers is None:
            aligner.memory = memory_of(known[-1], told, aligner.pixels)
        self.out.mkdir(parents=True, exist_ok=True)
        clean, started = Clean(stream, hot, self.without_noise), time.perf_counter()
        with lock_folder(self.out), pieces.Workers(self.workers or 1) as workers:
            total = None if hot is None else hot.kept
            alignments = known + self._packets(clean, aligner, workers, journal, known, told, total)
            trajectory = events.Trajectory.from_alignments(alignments)
            if can_refine(trajectory, self.config):
                trajectory = self._refine(clean, trajectory, calibration, workers)
            seconds, noise = time.perf_counter() - started, clean.noise
            chosen = _spread(alignments, self.images)
            doubted = contradicted(prior, alignments)
            focal, windows = self._again(clean, alignments, chosen | doubted, calibration)
            alone = [events.Aligner(calibration, self.config).align(windows[i]) for i in doubted]
            trajectory = widened(trajectory, focal)
            trajectory.to_csv(self.out / "trajectory.csv", force=True)  # the rows so far were this run's
            trajectory.to_npz(self.out / "trajectory.npz", self.force or self.resume)
            self._draw(trajectory, chosen, windows, stream.ground_truth, events.Aligner(calibration, self.config))
            write_text(self.out / MADE_FROM, json.dumps(made_from, indent=1) + "\n", force=True)
            journal_path.unlink()
        if not self.quiet:
            new = alignments[len(known) :]
            n, duration_s = sum(each.n_events for each in new), sum(each.end_us - each.start_us for each in new) / 1e6
            if noise:
                print(f"dropped {noise:,} events of background noise")
            print(_summary(trajectory, self.config, n, duration_s, seconds, reading_s))
            if prior is not None and (lacking := not_read(prior, alignments)):
                print(lacking)
            if prior is not None and alone:
                print(why_contradicted(prior, alone))
            elif 2 * trajectory.count(events.Status.DISPUTED) > len(trajectory):
                print(
                    "most are disputed: parts of the image tell other motions. Is the calibration this camera's "
                    f"(--camera), and its motion a {self.config.motion} (--motion) before a scene at rest?"
                )
            if focal is not None and focal.doubtful:
                print(focal.in_words())
            print(f"wrote {', '.join(RESULTS)}{' and images' if chosen else ''} to {self.out}")

    def check_targets(self) -> None:
        """Refuse to replace results that are there already.

        Raises:
            InputError: one is there, and this run neither goes on nor replaces it.
        """
        if not self.resume:
            interrupted = (self.out / JOURNAL).exists()
            for name in RESULTS:
                self._check_target(self.out / name, interrupted)

    def _check_target(self, path: Path, interrupted: bool) -> None:
        try:
            check_can_write(path, self.force)
        except InputError as error:
            if interrupted and path.exists():
                raise InputError(f"{error}, or go on with the run that was interrupted (--resume)") from None
            raise

    def _hot_pixels(self, stream: events.EventStream) -> HotPixels:
        hot = find_hot_pixels(stream)
        check_something_left(hot, stream.path.name)
        if not self.quiet:
            if stream.report is not None and stream.report.clean:  # what was repaired has been logged
                print(stream.report.summary())
            print(f"dropped {hot.dropped:,} events of {len(hot)} hot pixels" if len(hot) else "no hot pixels")
        return hot

    def _packets(
        self,
        clean: Clean,
        aligner: events.Aligner,
        workers: pieces.Workers,
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
            aligned = _in_one(clean, aligner, done) if self.workers is None else _shared(clean, aligner, workers, done)
            for alignment, memory in aligned:
                lines.add(alignment, memory)
                found.append(alignment)
                table.add(alignment)
                progress.advance(alignment.n_events, note=str(alignment.status))
        return found

    def _refine(
        self, clean: Clean, packets: events.Trajectory, camera: events.Camera, workers: pieces.Workers
    ) -> events.Trajectory:
        total = int(packets.n_events.sum())
        with Progress("refine", total=total, unit="events", quiet=self.quiet) as progress:
            return refine_stream(clean, packets, camera, self.config, progress.advance, workers=workers)

    def _again(
        self, clean: Clean, alignments: list[Alignment], chosen: dict[int, Alignment], camera: events.Camera
    ) -> tuple[events.FocalLength | None, dict[int, events.Events]]:
        """One more pass: what some packets say about the focal length, and the events of those to draw."""
        telling = telling_packets(alignments, camera.fx) if self.config.asks_focal_length else {}
        windows: dict[int, events.Events] = {}

        def asked() -> Iterator[tuple[events.Events, Alignment]]:
            for i, window in windows_of(clean, telling | chosen):
                if i in chosen:
                    windows[i] = window
                if i in telling:
                    yield window, telling[i]

        return events.ask_focal_length(asked(), camera, self.config), windows

    def _draw(
        self,
        trajectory: events.Trajectory,
        chosen: dict[int, Alignment],
        windows: dict[int, events.Events],
        truth: events.GroundTruth | None,
        aligner: events.Aligner,
    ) -> None:
        from pauca.events import plots

        for stale in self.out.glob("aligned_*.png"):  # of an earlier run, which --force replaces
            stale.unlink()
        name = self.path.name
        figure = plots.velocity_figure(trajectory, truth, name)
        save_figure(figure, self.out / "velocity.png", self.force or self.resume)
        for i, window in ((i, windows[i]) for i in chosen):
            title = f"{name}: packet {i}, {chosen[i].start_us / 1e6:.3f} to {chosen[i].end_us / 1e6:.3f} s"
            before, after = aligner.images(window), aligner.images(window, chosen[i])
            save_figure(plots.warped_figure(before, after, title), self.out / f"aligned_{i:05d}.png", True)


def _in_one(clean: Clean, aligner: events.Aligner, done: int) -> Iterator[tuple[Alignment, Memory | None]]:
    """Packets, and with the last of those that were cut together what the next one starts from."""
    for alignment in aligner.follow(after(clean, done), whole=done == 0):
        yield alignment, aligner.memory if aligner.memory.last is alignment else None


def _shared(
    clean: Clean, aligner: events.Aligner, workers: pieces.Workers, done: int
) -> Iterator[tuple[Alignment, Memory | None]]:
    """Packets of pieces; with the last of a piece a mark that the work can be taken up there."""
    for found in pieces.align_in_pieces(clean, aligner, workers, done):
        for alignment in found:
            yield alignment, Memory(alignment, None, None) if alignment is found[-1] else None


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


def _summary(
    trajectory: events.Trajectory,
    config: events.AlignConfig,
    n: int,
    duration_s: float,
    seconds: float,
    reading_s: float,
) -> str:
    kind = "knot" if config.between_knots and len(trajectory) > 1 else "packet"
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
