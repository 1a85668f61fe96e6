"""Processes of one training: what they tell each other, and what they say when one of them stops."""

import os

import pytest

from pauca.moe.training.processes import OtherStopped, count_processes, gather, join_processes, own_rank, wait_for_all


def test_a_process_alone_waits_for_nobody(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    wait_for_all()
    assert join_processes() == (0, 1)
    assert gather("x") == ["x"]


def _tell(rank: int) -> tuple[tuple[int, int], list[int]]:
    wait_for_all()
    return (own_rank(), count_processes()), gather(10 * rank)


def test_all_learn_what_each_says(together):
    assert together(_tell, 2) == [((0, 2), [0, 10]), ((1, 2), [0, 10])]


def _left_alone(rank: int) -> str:
    if rank == 1:
        os._exit(0)  # as a process ends that was refused its input
    with pytest.raises(OtherStopped) as found:
        wait_for_all()
    return str(found.value)


def test_one_left_alone_says_so(together):
    (message,) = together(_left_alone, 2, only=0)
    assert message == "process 0 stops, because another one has; that one's own message says why"
