"""Trainings that are killed at a named moment."""

import multiprocessing
import os
import pkgutil
import signal
from collections.abc import Callable
from typing import Any

import torch

# When to kill a training of six steps with a checkpoint after every second: what is called, which call, before or
# after it; and the last step whose checkpoint survives.
CHECKPOINT_MOMENTS = {
    "before a checkpoint's first byte": ("torch.distributed.checkpoint.state_dict_saver.save", 2, False, 2),
    "before its metadata": ("torch.distributed.checkpoint.FileSystemWriter.finish", 2, False, 2),
    "before its seal": ("pauca.runs.checkpoints._seal", 2, False, 2),
    "before its name": ("pauca.runs.checkpoints._replace", 2, False, 2),
    "after its name": ("pauca.runs.checkpoints._replace", 2, True, 4),
    "before the old one goes": ("pauca.runs.checkpoints._remove", 1, False, 6),
}


def kill_at(target: str, call: int, after: bool) -> None:
    """From now on this process is killed before (or after) the so many-th call of what `target` names."""
    owner, name = target.rsplit(".", 1)
    holder = pkgutil.resolve_name(owner)
    setattr(holder, name, _killed_at(call, getattr(holder, name), after))


def _killed_at(call: int, function: Callable[..., Any], after: bool) -> Callable[..., Any]:
    calls = iter(range(1, 1000))

    def wrapped(*arguments: Any, **named: Any) -> Any:
        number = next(calls)
        if number == call and not after:
            os.kill(os.getpid(), signal.SIGKILL)
        result = function(*arguments, **named)
        if number == call:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    return wrapped


def in_another_process(work: Callable[..., None], *arguments: Any) -> int | None:
    """Its exit code; minus the signal that killed it."""
    process = multiprocessing.get_context("fork").Process(target=_alone, args=(work, arguments))
    process.start()
    process.join(60)
    return process.exitcode


def _alone(work: Callable[..., None], arguments: tuple) -> None:
    torch.set_num_threads(1)
    work(*arguments)
