"""Several recordings in one call: one after the other, over processes, or over the workers of a Dask cluster."""

from __future__ import annotations

import csv
import io
import multiprocessing
import os
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import BrokenExecutor, Executor, Future, ProcessPoolExecutor, as_completed
from contextlib import contextmanager, nullcontext, redirect_stderr, redirect_stdout
from dataclasses import dataclass, field, replace
from pathlib import Path

from pauca.errors import ConfigError, PaucaError
from pauca.events.verbs.aligning import JOURNAL, AlignRun
from pauca.events.verbs.cluster import Align, align_on_worker, cluster, reason
from pauca.interrupts import begin_worker, interrupts_raise, interrupts_wait
from pauca.runs import write_text

ACCOUNT = "recordings.csv"
"""Beside the folders of several recordings: what became of each."""

_ENDED = "a process ended in the middle of its work, for want of memory perhaps; try fewer --jobs, and --resume"


@dataclass(frozen=True)
class AtOnce:
    """Several recordings at a time."""

    jobs: int = 1
    """How many recordings are aligned at a time, each by a process of its own."""
    dask: str | None = None
    """Address of the scheduler of a Dask cluster, such as tcp://HOST:8786, whose workers align a recording each; they
    need pauca and the same files under the same names (pip install 'pauca[dask]')."""

    def check(self, single: bool, workers: int | None = None) -> None:
        """Refuse what means nothing.

        Args:
            single: whether there is one recording alone.
            workers: processes that share a recording.

        Raises:
            ConfigError: fewer than one job, jobs or processes beside a cluster, or a single recording.
        """
        if self.jobs < 1:
            raise ConfigError(f"--jobs must be at least 1, got {self.jobs}")
        if self.jobs > 1 and self.dask is not None:
            raise ConfigError("--jobs are processes here and --dask those of a cluster: choose one")
        if self.dask is not None and (workers or 1) > 1:  # as a rule a worker of Dask may start no processes
            raise ConfigError("--workers are processes here: a worker of --dask is one, so start more of those")
        if single and (self.jobs > 1 or self.dask is not None):
            raise ConfigError("--jobs and --dask are for several recordings; processes share a single one by --workers")


def align_many(runs: dict[Path, AlignRun], account: Path, at_once: AtOnce) -> None:
    """Align each; what fails is one line on standard error, and the others go on.

    Raises:
        PaucaError: at the end, where some failed; or the cluster cannot be reached.
    """
    told = _Account(account, list(runs))
    waiting: dict[Path, AlignRun] = {}
    for path, run in runs.items():
        if run.resume and run.finished:
            try:
                run.check_made_from()
            except PaucaError as error:
                told.fail(path, error)
            else:
                told.add(path, "done before", None)
                if not run.quiet:
                    print(f"{path}: done before, in {run.out}")
        else:
            waiting[path] = replace(run, resume=run.resume and (run.out / JOURNAL).exists())
    with _engine(at_once) as engine:
        if engine is None:
            for path, run in waiting.items():
                started = time.perf_counter()
                try:
                    run.align()
                except PaucaError as error:
                    told.fail(path, error, time.perf_counter() - started)
                else:
                    told.add(path, "done", time.perf_counter() - started)
        else:
            _share(engine, waiting, told, _align_there if at_once.dask is not None else _align)
    if told.failed:
        rest = "; the others are done" if told.failed < len(runs) else ""
        raise PaucaError(f"{told.failed} of {len(runs)} recordings failed{rest}")


def _share(engine: Executor, runs: dict[Path, AlignRun], told: _Account, align: Align) -> None:
    """Have an engine align each, and tell what became of them as they end."""
    futures: dict[Future[tuple[str, float]], Path] = {}
    with interrupts_wait():  # processes start here
        for path, run in runs.items():
            try:
                run.check_targets()
            except PaucaError as error:
                told.fail(path, error)
            else:
                futures[engine.submit(align, _absolute(_begun_anew(run)))] = path
    for future in as_completed(futures):
        path = futures[future]
        try:
            said, seconds = future.result()
        except PaucaError as error:
            told.fail(path, error)
        except BrokenExecutor:
            told.fail(path, PaucaError(f"{path}: {_ENDED}"))
        except BaseException as error:  # that of a task that asyncio cancels is no Exception
            if align is _align or isinstance(error, KeyboardInterrupt | SystemExit):
                raise
            told.fail(path, PaucaError(f"{path}: {reason(error)}"))
        else:
            print(said, end="", flush=True)
            told.add(path, "done", seconds)


def _begun_anew(run: AlignRun) -> AlignRun:
    """A run whose targets were checked: without --resume, a journal of before, without results, is no beginning of it.

    A worker of a cluster would go on with it, and fail where its settings were others.
    """
    return replace(run, force=run.force or (not run.resume and (run.out / JOURNAL).exists()))


def _align_there(run: AlignRun) -> tuple[str, float]:
    """Align on a worker of a cluster."""
    return align_on_worker(_align, run)


def _align(run: AlignRun) -> tuple[str, float]:
    """Align in another process: what would have been printed, and the seconds that it took."""
    started, said = time.perf_counter(), io.StringIO()
    # A worker of Dask runs this in a thread.
    mine = multiprocessing.parent_process() is not None and threading.current_thread() is threading.main_thread()
    try:
        with interrupts_raise() if mine else nullcontext(), redirect_stdout(said), redirect_stderr(_Lines()):
            run.align()
    except KeyboardInterrupt:  # Ctrl-C reaches every process: this one must not begin what waits in its pipe
        if mine:
            sys.stderr.flush()
            os._exit(130)
        raise
    return said.getvalue(), time.perf_counter() - started


class _Lines(io.StringIO):
    """Standard error that several processes share. It is no terminal, so that they draw no bars over one another."""

    def write(self, text: str, /) -> int:
        print(text, end="", file=sys.__stderr__, flush=True)
        return len(text)


def _absolute(run: AlignRun) -> AlignRun:
    """For a process that may have another folder."""
    camera, prior = run.camera and run.camera.absolute(), run.prior
    prior = replace(
        prior,
        gyro_prior=prior.gyro_prior and prior.gyro_prior.absolute(),
        gyro_fit=prior.gyro_fit and prior.gyro_fit.absolute(),
    )
    return replace(run, path=run.path.absolute(), out=run.out.absolute(), camera=camera, prior=prior)


@contextmanager
def _engine(at_once: AtOnce) -> Iterator[Executor | None]:
    """Who does the work; None for this process."""
    if at_once.dask is not None:
        with cluster(at_once.dask) as executor:
            yield executor
    elif at_once.jobs > 1:
        context = multiprocessing.get_context("spawn")
        executor = ProcessPoolExecutor(at_once.jobs, context, initializer=begin_worker)
        try:
            yield executor
        finally:  # after Ctrl-C no further recording begins
            executor.shutdown(cancel_futures=True)
    else:
        yield None


@dataclass
class _Account:
    """What became of each recording, in a table that is whole after each."""

    path: Path
    recordings: list[Path]
    failed: int = 0
    _rows: dict[Path, list[str]] = field(default_factory=dict)

    def add(self, recording: Path, status: str, seconds: float | None, message: str = "") -> None:
        """Count one more, and write the table; seconds are None where nobody knows how long it was at work."""
        took = "" if seconds is None else f"{seconds:.1f}"
        self._rows[recording] = [str(recording), status, took, message]
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["recording", "status", "seconds", "message"])
        writer.writerows(self._rows.get(each, [str(each), "waiting", "", ""]) for each in self.recordings)
        write_text(self.path, text.getvalue(), force=True)

    def fail(self, recording: Path, error: PaucaError, seconds: float | None = None) -> None:
        """One that failed, and why."""
        message = " ".join(str(error).split())
        print(f"pauca: {message}", file=sys.stderr, flush=True)
        self.failed += 1
        self.add(recording, "failed", seconds, message)
