"""Ranks of one training: what they tell each other, and what each says when one of them stops."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from torch import distributed as dist

from pauca.errors import ConfigError, PaucaError
from pauca.runs.processes import (
    TIMEOUT_MINUTES,
    average,
    count_ranks,
    first_then_all,
    gather,
    join_processes,
    joined,
    own_rank,
    timeout_s,
    wait_for_all,
)
from pauca.runs.watch import Watch

from .ranks import Ended, run_ranks


def test_a_process_alone_waits_for_nobody(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    wait_for_all()
    assert join_processes() == (0, 1)
    assert gather("x") == ["x"]
    assert first_then_all(lambda: 3) == 3
    with joined() as alone, Watch(lambda: "") as watch, watch.doing("a step"):
        assert alone == (0, 1)


def _tell(rank: int, folder: Path) -> None:
    with joined("cpu", 1.0) as (own, count):
        assert (own, count) == (own_rank(), count_ranks()) == (rank, 2)
        assert gather(10 * rank) == [0, 10]
        tensors = [torch.full((2, 2), float(rank)), torch.arange(3.0) * rank]
        average(tensors)
        assert torch.equal(tensors[0], torch.full((2, 2), 0.5))
        assert torch.equal(tensors[1], torch.arange(3.0) / 2)
        first_then_all(lambda: (folder / "made").write_text("") if rank == 0 else (folder / "made").read_text())
    assert not dist.is_initialized()


def test_all_learn_what_each_says_and_leave_together(tmp_path):
    assert run_ranks(_tell, 2, tmp_path, tmp_path) == [Ended(0, ""), Ended(0, "")]


def _gather_until(rank: int, end: str, seconds: float, watched: bool) -> int:
    """Exchange until rank 1 comes to its end; the other ranks print their error as the command line does."""
    try:
        with joined("cpu", seconds / 60), Watch(lambda: "step-00000004 is whole") as watch:
            if not watched:
                watch.__exit__()
            for step in range(20):
                if rank == 1 and step == 2:
                    _end(end)
                with watch.doing(f"step {step}"):
                    gather(step)
    except PaucaError as error:
        print(f"pauca: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def _end(how: str) -> None:
    if how == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "stopped":  # as on a host that no longer answers
        os.kill(os.getpid(), signal.SIGSTOP)
    if how == "hangs":
        time.sleep(600)
    if how == "fails":
        raise ConfigError("data/none: no such file")
    if how == "terminated":
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(1)


@pytest.mark.parametrize("watched", [True, False])
def test_a_killed_rank_is_said_to_have_stopped(tmp_path, watched):
    first, second = run_ranks(_gather_until, 2, tmp_path, "killed", 60.0, watched)
    assert second.code == -signal.SIGKILL
    assert first.code == 1
    assert first.said == ("pauca: rank 0 stops, because another rank has; that one says why, unless it was killed\n")


def test_a_rank_that_fails_is_named_with_its_reason_and_is_the_only_one_to_be_blamed(tmp_path):
    first, second = run_ranks(_gather_until, 2, tmp_path, "fails", 60.0, True)
    assert (first.code, second.code) == (1, 2)
    assert second.said == "pauca: data/none: no such file\n"
    assert first.said == "pauca: rank 0 stops, because rank 1 failed: data/none: no such file; step-00000004 is whole\n"


def test_a_rank_that_is_told_to_stop_says_so(tmp_path):
    first, second = run_ranks(_gather_until, 2, tmp_path, "terminated", 60.0, True)
    assert (first.code, second.code) == (1, 143)
    assert "stopped by SIGTERM" in second.said
    assert "rank 1 failed: stopped by SIGTERM" in first.said


def _wait_in_vain(rank: int) -> None:
    with joined("cpu", 1.0), Watch(lambda: "step-00000004 is whole"):
        other = gather(os.getpid())[1 - rank]
        if rank == 0:
            time.sleep(0.5)
            os.kill(other, signal.SIGTERM)
            time.sleep(30)
        gather("nothing comes, and no handler of a signal runs meanwhile")


def test_a_rank_that_is_told_to_stop_while_it_waits_says_so_too(tmp_path):
    _, second = run_ranks(_wait_in_vain, 2, tmp_path, linger_s=1.0)
    assert second.code == 1
    assert second.said.startswith("pauca: rank 1 stops, because it was told to (SIGTERM)")
    assert second.said.endswith("; step-00000004 is whole\n")


def test_a_rank_that_no_longer_answers_ends_the_others_within_the_timeout(tmp_path):
    first, _ = run_ranks(_gather_until, 2, tmp_path, "stopped", 2.0, True, linger_s=1.0)
    assert first.code == 1
    assert first.said.count("\n") == 1
    assert first.said.startswith("pauca: rank 0 stops, because ")
    assert first.said.endswith("; step-00000004 is whole\n")
    assert "2 s" in first.said or "in time" in first.said  # as gloo says how long it waited, or not


def test_a_rank_that_hangs_is_told_from_those_that_wait_for_it(tmp_path):
    first, second = run_ranks(_gather_until, 2, tmp_path, "hangs", 2.0, True)
    assert first.code == 1
    assert "step 2 takes longer than 2 s" in first.said
    assert "gather" in first.said
    assert second.code == 1  # sleeping, it is ended by its own watch when the first has left


def test_a_rank_that_hangs_is_noticed_without_a_watch_too(tmp_path):
    first, _ = run_ranks(_gather_until, 2, tmp_path, "stopped", 1.0, False, linger_s=1.0)
    waited = "(for 1.5 s|in time)"  # as gloo says how long, or not
    said = f"pauca: rank 0 stops, because another rank did not answer {waited}; it hangs or is too slow\n"
    assert re.fullmatch(said, first.said), first.said


def _leave(rank: int) -> None:
    with joined("cpu", 1.0):
        gather(torch.ones(1000))
        if rank == 0:
            time.sleep(0.3)  # a report


def test_ranks_leave_together(tmp_path):
    for attempt in range(10):
        folder = tmp_path / str(attempt)
        folder.mkdir()
        assert run_ranks(_leave, 2, folder) == [Ended(0, ""), Ended(0, "")]


def _name_own_fault(rank: int) -> int:
    with joined("cpu", 1.0):
        try:
            gather(lambda: 0)  # cannot be sent
        except Exception as error:
            print(f"{type(error).__name__}", file=sys.stderr)
    return 0


def test_an_error_of_its_own_is_not_blamed_on_others(tmp_path):
    for ended in run_ranks(_name_own_fault, 2, tmp_path):
        assert "OtherStopped" not in ended.said


def test_ranks_cannot_share_a_named_gpu(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="cuda:1: under torchrun each rank has a GPU of its own; use --device cuda"):
        join_processes("cuda:1")


def test_each_rank_sets_its_gpu_before_the_first_message(monkeypatch):
    order = []
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: order.append(("set_device", device)))
    monkeypatch.setattr(
        dist, "init_process_group", lambda backend, **named: order.append((backend, named["device_id"]))
    )
    join_processes("auto")
    gpu = torch.device("cuda", 1)
    assert order == [("set_device", gpu), ("cpu:gloo,cuda:nccl", gpu)]


def test_a_timeout_must_be_positive():
    for wrong in (0.0, -1.0, float("nan")):
        with pytest.raises(ConfigError, match="timeout"):
            join_processes(minutes=wrong)


def test_a_rank_that_finds_nobody_says_where_it_looked(monkeypatch):
    for name, value in {"WORLD_SIZE": "2", "RANK": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(PaucaError, match=r"rank 1 could not join the others at 127\.0\.0\.1:1 "):
        join_processes("cpu", minutes=0.01)
    assert timeout_s() == 60 * TIMEOUT_MINUTES  # what comes later in this process does not inherit the 0.6 s


_ENDING = """
import atexit, threading, time
from pauca.runs.processes import end_rank
atexit.register(print, "handler")
threading.Thread(target=time.sleep, args=(100,)).start()  # Python's own end waits for it
print("last words")
end_rank(3)
raise SystemExit(4)
"""


@pytest.mark.parametrize(("world", "code"), [("2", 3), ("1", 4)])
def test_one_of_several_ranks_ends_without_dismantling_python(world, code):
    words = _ENDING if world == "2" else _ENDING.replace("100", "0.1")
    environment = os.environ | {"WORLD_SIZE": world}
    result = subprocess.run([sys.executable, "-c", words], env=environment, capture_output=True, text=True, timeout=60)
    assert result.returncode == code, result.stderr
    assert result.stdout.split() == ["last", "words", "handler"]
