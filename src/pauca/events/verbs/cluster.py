"""Recordings over the workers of a Dask cluster, whose machines come and go."""

from __future__ import annotations

import logging
import re
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from contextlib import contextmanager, suppress
from dataclasses import replace

from pauca.errors import ConfigError, PaucaError
from pauca.events.verbs.aligning import JOURNAL, AlignRun

_JOIN_S = 30.0  # until the first worker must have joined
_ASK_S = 10.0  # between looks whether any is left
_one_at_a_time = threading.Lock()

Align = Callable[[AlignRun], tuple[str, float]]


def align_on_worker(align: Align, run: AlignRun) -> tuple[str, float]:
    """Align in a thread of a worker, one recording at a time.

    A worker has as many threads as its machine has cores, unless it is told otherwise, and standard output, which
    `align` collects, is one for all of them: what was printed for two recordings came back mixed.

    Dask gives what a lost worker had begun to another one. That goes on from what is there: before this call nothing
    was (`AlignRun.check_targets`), unless it was to be replaced.
    """
    with _one_at_a_time:
        if not run.force:
            begun = (run.out / JOURNAL).exists()
            run = replace(run, resume=begun, force=not begun)
        return align(run)


@contextmanager
def cluster(address: str) -> Iterator[Executor]:
    """The workers of the scheduler at an address.

    Raises:
        ConfigError: the address is none.
        PaucaError: distributed is not installed, no scheduler answers, or it has no workers.
    """
    if not re.fullmatch(r"([a-z]+://)?[^/\s]+:\d+", address):
        raise ConfigError(f"--dask {address}: no address of a scheduler; expected one such as tcp://HOST:8786")
    try:
        from distributed import Client  # pyright: ignore[reportMissingImports]
    except ModuleNotFoundError as error:
        raise PaucaError("--dask needs distributed: pip install 'pauca[dask]'") from error
    with _without_tracebacks():
        try:
            client = Client(address, timeout="10s", set_as_default=False)
        except (OSError, ValueError) as error:
            raise PaucaError(f"{address}: no Dask scheduler answers there ({str(error)[:120]})") from None
        with client, client.get_executor(pure=False) as executor:
            try:
                client.wait_for_workers(1, timeout=_JOIN_S)
            except TimeoutError:
                raise PaucaError(
                    f"{address}: the scheduler has no workers; start some: dask worker {address}"
                ) from None
            over = threading.Event()
            threading.Thread(target=_tell_when_alone, args=(client.nthreads, address, over), daemon=True).start()
            try:
                yield executor
            finally:
                over.set()


def reason(error: BaseException) -> str:
    """Why a worker brought no result, in words."""
    if type(error).__name__ == "KilledWorker":
        return (
            "every worker that took it ended in the middle, for want of memory perhaps; what it found is kept: --resume"
        )
    if type(error).__name__ == "CancelledError":
        return "the scheduler of Dask is gone; start it and its workers, and go on with --resume"
    if isinstance(error, ModuleNotFoundError):
        return f"a worker cannot run it ({error}); install pauca where the workers are, in the same version"
    return f"unexpected error on a worker: {type(error).__name__}: {error}"


def _tell_when_alone(workers: Callable[[], object], address: str, over: threading.Event) -> None:
    """One line each time the last worker is gone; the work waits for another one."""
    told = False
    while not over.wait(_ASK_S):
        alone = False
        with suppress(Exception):  # a scheduler that is gone is told by what it fails to bring
            alone = not workers()
        if alone and not told and not over.is_set():
            print(f"pauca: {address}: no worker is left; waiting for one", file=sys.stderr, flush=True)
        told = alone


@contextmanager
def _without_tracebacks() -> Iterator[None]:
    """What goes wrong is said in one line, without the traceback that distributed logs beside it."""
    levels = {name: logging.getLogger(name).level for name in ("distributed", "distributed.client")}
    for name in levels:
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
