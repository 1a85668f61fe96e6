"""How many threads a process computes with, and how they wait for each other."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, MutableMapping
from pathlib import Path

# Operations of a step, forward and backward, that are worth a thread: one of about 5 billion (few-shot, Conv-4, 16
# pixels) took 0.29 s with one thread and 0.24 s with two, on two idle cores.
_WORTH_A_THREAD = 10e9

_CHOSEN_HERE = "PAUCA_CHOSE_THREADS"  # beside OMP_NUM_THREADS where it is not the user's word
_QUOTAS = (Path("/sys/fs/cgroup/cpu.max"), Path("/sys/fs/cgroup/cpu/cpu.cfs_quota_us"))


def share_processors(environment: MutableMapping[str, str] = os.environ) -> None:
    """Let this process's threads wait asleep, and be no more than the cores that it may use.

    torch's threads wait for each other by spinning. For the small tensors of a CPU training they mostly wait, so on a
    machine with other work they take the time that the threads they wait for would need: 60 steps of a small few-shot
    training beside three busy processes on two cores took 18 s of processor time asleep and 36 s spinning. Inside a
    container, torch counts the machine's cores and not the share that the container is given.

    What the user has set stays. It has an effect only before torch is first imported; the command line calls it, a
    program that imports torch itself sets `OMP_WAIT_POLICY=passive`.
    """
    if "torch" in sys.modules:
        return
    environment.setdefault("OMP_WAIT_POLICY", "passive")
    if usable_cores() < _visible_cores() and "OMP_NUM_THREADS" not in environment:
        environment.update({"OMP_NUM_THREADS": str(usable_cores()), _CHOSEN_HERE: "1"})


def fit_threads(operations: int | float, environment: Mapping[str, str] = os.environ) -> None:
    """Let torch compute a training's steps, of so many operations each, with no more threads than they keep busy.

    Small tensors do not divide: on a machine of 64 cores, most threads of a small training would only wait. What the
    user has set (`OMP_NUM_THREADS`) stays.
    """
    import torch

    if "OMP_NUM_THREADS" not in environment or _CHOSEN_HERE in environment:
        torch.set_num_threads(max(1, min(torch.get_num_threads(), int(operations / _WORTH_A_THREAD))))


def usable_cores() -> int:
    """Cores that this process may use: those that it is bound to, and no more than its container's share of time."""
    return min(_visible_cores(), _quota(_QUOTAS) or sys.maxsize)


def _visible_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _quota(files: tuple[Path, Path]) -> int | None:
    """Cores' worth of time that Linux gives to this process's control group (version 2 or 1), rounded up."""
    unified, legacy = files
    try:
        quota, period = unified.read_text().split()
    except (OSError, ValueError):
        try:
            quota, period = legacy.read_text(), legacy.with_name("cpu.cfs_period_us").read_text()
        except OSError:
            return None
    if quota.strip() in ("max", "-1"):
        return None
    return max(1, -(-int(quota) // int(period)))
