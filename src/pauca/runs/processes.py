"""The ranks of one training, which torchrun has started: they join, agree, and leave together.

A rank is one process. Every function also works in a process that is alone, where it does nothing. Values that the
ranks tell each other travel by gloo, also where tensors of GPUs travel by NCCL: so they wait for no queued work.
"""

from __future__ import annotations

import atexit
import os
import re
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import torch
import torch.distributed as dist
from torch.distributed.distributed_c10d import PrefixStore, Store

from pauca.errors import ConfigError, PaucaError
from pauca.runs.devices import resolve_device
from pauca.runs.lock import lock_folder

if TYPE_CHECKING:
    from types import FrameType

Value = TypeVar("Value")

TIMEOUT_MINUTES = 30.0
# What a training notices in TIMEOUT_MINUTES it says in a line of its own. torch notices only later, and aborts.
_LATER = 1.5
_timeout_minutes = TIMEOUT_MINUTES

# What gloo, NCCL and the store say when the process at the other end is no more.
_GONE = (
    "closed by peer", "reset by peer", "broken pipe", "connection refused", "remote process", "remoteerror",
    "connection was closed", "recv, got 0", "failed to recv", "socket timeout", "connection closed", "connectfull",
)  # fmt: skip


class OtherStopped(PaucaError):
    """Another rank has stopped, or does not answer."""


class Stopped(PaucaError):
    """This process was told to stop, by a signal."""

    exit_code = 128 + signal.SIGTERM


def join_processes(device: str = "auto", minutes: float = TIMEOUT_MINUTES) -> tuple[int, int]:
    """Join the ranks that torchrun has started, if it has; returns this process's rank and their number.

    Where the process group is there already, it stays as it is.

    Args:
        device: name of the device that will compute, as in a config. Each rank takes the GPU of its LOCAL_RANK, before
            the first message: a rank without one would take GPU 0, and two ranks on one GPU cannot talk by NCCL.
        minutes: how long a rank may keep the others waiting.

    Raises:
        DeviceError: this rank has no GPU of its own.
        ConfigError: one GPU is named for all ranks, or `minutes` is not positive.
        PaucaError: the other ranks do not come, or this one does not reach them.
    """
    global _timeout_minutes
    if not 0 < minutes < 60 * 24 * 365:
        raise ConfigError(
            f"timeout {minutes}: give the minutes that a rank may keep the others waiting, above 0 and below a year"
        )
    if not dist.is_initialized() and int(os.environ.get("WORLD_SIZE", "1")) > 1:
        if device.startswith("cuda:"):
            raise ConfigError(
                f"device {device}: under torchrun each rank has a GPU of its own; use --device cuda (in Python "
                'device="cuda")'
            )
        place = resolve_device(device)  # sets the device, too
        on_gpu = place.type == "cuda"
        try:
            dist.init_process_group(
                "cpu:gloo,cuda:nccl" if on_gpu else "gloo",
                timeout=timedelta(minutes=minutes * _LATER),
                device_id=place if on_gpu else None,
            )
        except (RuntimeError, ValueError) as error:
            where = ":".join(os.environ.get(name, "?") for name in ("MASTER_ADDR", "MASTER_PORT"))
            raise PaucaError(
                f"rank {os.environ.get('RANK', '?')} could not join the others at {where} ({first_line(error)}); start "
                "all ranks with torchrun, and see what the others say"
            ) from error
        _timeout_minutes = minutes
    return own_rank(), count_ranks()


@contextmanager
def joined(device: str = "auto", minutes: float = TIMEOUT_MINUTES) -> Iterator[tuple[int, int]]:
    """`join_processes` for a whole command: all ranks leave together, and one that fails tells the others why.

    What only the first rank does at the end (writing a report) belongs inside: the others wait for it, also when all
    fail.
    """
    ours = not dist.is_initialized()
    rank, count = join_processes(device, minutes)
    try:
        yield rank, count
        wait_for_all()
    except BaseException as error:
        tell_failure(error)
        _wait_for_the_first()
        raise
    if ours and count > 1:
        dist.destroy_process_group()


def end_rank(code: int) -> None:
    """End this process now if it is one of several ranks, else do nothing.

    Python's own end is not safe for them: a thread of gloo that lets go of its last tensor while the interpreter is
    being dismantled aborts the process (torch 2.13, issue 190489; one of 36 trainings on a busy machine).
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return
    atexit._run_exitfuncs()
    with suppress(OSError, ValueError):
        sys.stdout.flush()
    with suppress(OSError, ValueError):
        sys.stderr.flush()
    os._exit(code)


def own_rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def count_ranks() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def timeout_s() -> float:
    """Seconds that a rank may keep the others waiting."""
    return 60 * _timeout_minutes


def gather(value: Value, group: dist.ProcessGroup | None = None) -> list[Value]:
    """What each rank gives, in all of them, which all must call this; by messages of another group if it is given.

    Raises:
        OtherStopped: another rank has stopped, or does not come within the process group's timeout.
        PaucaError: this rank cannot send its value, or receive the others'.
    """
    if not dist.is_initialized():
        return [value]
    values: list[Value] = [value] * dist.get_world_size()
    try:
        dist.all_gather_object(values, value, group=group)
    except RuntimeError as error:
        raise explain(error) or PaucaError(f"rank {own_rank()}: {first_line(error)}") from error
    return values


def wait_for_all(group: dist.ProcessGroup | None = None) -> None:
    """Go on when all ranks have come here; arguments and errors as of `gather`."""
    gather(None, group)


def first_then_all(work: Callable[[], Value]) -> Value:
    """Let the first rank do `work`, and then the others, which find what it has left on the disk."""
    if own_rank() > 0:
        wait_for_all()
    value = work()
    if own_rank() == 0:
        wait_for_all()
    return value


@contextmanager
def first_locks(path: Path) -> Iterator[None]:
    """Keep a folder to the ranks of this training: the first holds the lock for all."""
    with lock_folder(path) if own_rank() == 0 else nullcontext():
        yield


def average(tensors: list[torch.Tensor]) -> None:
    """Replace tensors of one type by their mean over all ranks, in one message."""
    if count_ranks() == 1 or not tensors:
        return
    flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
    with peers_answer():
        dist.all_reduce(flat)
    flat /= count_ranks()
    for tensor, mean in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
        tensor.copy_(mean.view_as(tensor))


@contextmanager
def peers_answer() -> Iterator[None]:
    """Around messages between ranks: say which rank has stopped and why, where theirs says which socket.

    Raises:
        OtherStopped: in the place of what gloo or NCCL raises for it; any other error stays as it is.
    """
    try:
        yield
    except RuntimeError as error:
        reason = explain(error)
        if reason is None:
            raise
        raise reason from error


def explain(error: BaseException) -> OtherStopped | None:
    """What an error of gloo or NCCL means: another rank stopped, or is late; None if it is this rank's own."""
    text = str(error).lower()
    mine = f"rank {own_rank()} stops, because"
    if any(words in text for words in _GONE):
        failed = told_failure(wait_s=2.0)  # one that fails says so first, and then leaves
        return OtherStopped(f"{mine} {failed or 'another rank has; that one says why, unless it was killed'}")
    if "timed out" in text or "timeout" in text:
        failed = told_failure()
        waited = re.search(r"(\d+) ?m(illi)?s(ec)?", text)
        span = f"for {duration(int(waited[1]) / 1000)}" if waited else "in time"
        return OtherStopped(f"{mine} {failed or f'another rank did not answer {span}; it hangs or is too slow'}")
    return None


def tell_failure(error: BaseException) -> None:
    """Leave word for the other ranks of why this one stops; the first such word stays."""
    store = shared_store()
    if store is None:
        return
    with suppress(RuntimeError):
        if not isinstance(error, OtherStopped):
            store.compare_set("failed", "", f"rank {own_rank()} failed: {first_line(error)}")
        store.set(f"left/{own_rank()}", "")


def told_failure(store: Store | None = None, wait_s: float = 0.0) -> str:
    """The word of the rank that has failed first, if one has left any."""
    store = store or shared_store()
    if store is None:
        return ""
    with suppress(RuntimeError):
        if _comes(store, "failed", wait_s):
            return store.get("failed").decode(errors="replace")
    return ""


def _wait_for_the_first() -> None:
    """Where all ranks fail, torchrun ends those that are left as soon as one has: the first may be writing a report."""
    store = shared_store()
    if store is not None and own_rank() > 0:
        with suppress(RuntimeError):
            _comes(store, "left/0", min(30.0, timeout_s()))


def _comes(store: Store, word: str, wait_s: float) -> bool:
    """Whether a word is left within a time; the store's own waiting prints a page when it ends in vain."""
    until = time.monotonic() + wait_s
    while not (there := store.check([word])) and time.monotonic() < until:
        time.sleep(0.05)
    return there


def shared_store() -> Store | None:
    """Where ranks leave words for each other, even when one of them no longer answers; None in a process alone."""
    if count_ranks() == 1:
        return None
    # torch has no public name for the store that it met the other ranks in. A clone has a connection of its own.
    return PrefixStore("pauca", dist.distributed_c10d._get_default_store().clone())  # type: ignore[attr-defined]


def first_line(error: BaseException) -> str:
    """An error as one line."""
    text = str(error).strip()
    return text.splitlines()[0].strip() if text else type(error).__name__


def duration(seconds: float) -> str:
    """A time in words: seconds below two minutes, else minutes."""
    return f"{seconds:.3g} s" if seconds < 120 else f"{seconds / 60:.3g} minutes"


def stop_by_signal(number: int, frame: FrameType | None) -> None:
    """A handler of SIGTERM: torchrun sends it when another rank has stopped, a scheduler when time is up."""
    failed = told_failure()
    because = f"because {failed}" if failed else "as torchrun and schedulers send it"
    raise Stopped(f"stopped by {signal.Signals(number).name}, {because}")
