"""Checkpoints that are written while training goes on: copied to the CPU at once, then written by a thread.

What is written, and that it is whole or not there, is as in `pauca.runs.checkpoints`. Ranks agree by messages of a
group of their own, so that they do not come between those of the training.
"""

from __future__ import annotations

import threading
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch.distributed as dist

from pauca.errors import PaucaError
from pauca.runs.checkpoints import alone_is_fine, write_checkpoint
from pauca.runs.processes import count_ranks, first_line, peers_answer, timeout_s

_LEAVE_S = 20.0  # torchrun kills a rank 30 s after it has told it to stop, and then there is no report


class BackgroundCheckpoints:
    """Writes one checkpoint at a time; all ranks make it, enter it and call it together."""

    def __init__(self) -> None:
        self._group: Any = None
        if count_ranks() > 1:
            self._group = dist.new_group(backend="gloo", timeout=timedelta(seconds=1.5 * timeout_s()))
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None
        self._path = Path()  # of what is being written, or was the last
        self._stack = ExitStack()

    def __enter__(self) -> BackgroundCheckpoints:
        self._stack.enter_context(alone_is_fine())  # here, as which warnings are shown is one setting for all threads
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Wait for what is being written, which whoever locks the folder next may remove; not long for other ranks.

        After an error what else goes wrong here is not said: what went wrong first is what counts.
        """
        with self._stack:
            if kind is None:
                self.wait()
                if self._group is not None:
                    dist.destroy_process_group(self._group)  # each has sockets and threads of its own
                    self._group = None
            elif self._thread is not None:
                self._thread.join(None if self._group is None else min(_LEAVE_S, timeout_s()))

    def save(self, folder: Path, step: int, state: dict[str, Any], origin: dict[str, str], keep: int) -> None:
        """Begin what `save_checkpoint` does; waits until the one before is written, and for the copy.

        Raises:
            PaucaError: the one before could not be written.
        """
        self.wait()
        copied, self._path = _on_the_cpu(state), folder / f"step-{step:08d}"

        def write() -> None:
            try:
                with peers_answer():
                    write_checkpoint(folder, step, copied, origin, keep, self._group)
            except BaseException as error:
                self._error = error

        # A daemon: a rank whose peer is gone must be able to end.
        self._thread = threading.Thread(target=write, name="checkpoint", daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Raise what has gone wrong so far; waits for nothing."""
        if self._error is not None:
            error, self._error = self._error, None
            if isinstance(error, PaucaError):
                raise error
            raise PaucaError(
                f"{self._path}: could not be written ({first_line(error)}); go on from the last one with --resume (in "
                "Python resume=True)"
            ) from error

    def wait(self) -> None:
        """Until nothing is being written; raises as `check`."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        self.check()


def _on_the_cpu(state: dict[str, Any]) -> Any:
    """A copy of all tensors, of a CPU too, that no later step changes."""
    from torch.distributed.checkpoint.staging import DefaultStager, StagingOptions

    stager = DefaultStager(StagingOptions(False, False, False, False))
    try:
        return stager.stage(state)
    finally:
        stager.close()
