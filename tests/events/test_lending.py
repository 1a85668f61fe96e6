"""Events that another process sees without a copy through a pipe."""

import os
from pathlib import Path

import numpy as np
import pytest

from pauca.events import Events, lending
from pauca.events.lending import Lender, map_lent, taken
from pauca.events.shared import SharedEvents
from pauca.events.workers import Workers

from .scenes import rotating_events, whole_pixels

COLUMNS = ("t_us", "x", "y", "p")


def _descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def _equal(found: Events, expected: Events) -> bool:
    same = all(np.array_equal(getattr(found, name), getattr(expected, name)) for name in COLUMNS)
    return same and found.size == expected.size and found.x.dtype == expected.x.dtype


def _counted(piece: tuple[str, Events | SharedEvents]) -> tuple[str, int, int, int]:
    name, events = piece
    events = taken(events)
    return name, len(events), int(events.t_us.sum()), os.getpid()


@pytest.mark.skipif(not lending._CAN_LEND, reason="needs memory files of Linux")
@pytest.mark.parametrize("undistorted", [True, False])
def test_lent_events_are_the_parts_joined_and_are_given_back(undistorted):
    stream = rotating_events([1.0, -2.0, 3.0])
    stream = stream if undistorted else whole_pixels(stream)
    before, lender = _descriptors(), Lender()
    for count in (len(stream), len(stream) - 7):  # the second time into the same memory
        lent = lender.lend([stream[:100], stream[100:100], stream[100:count]])
        assert isinstance(lent, SharedEvents)
        found = taken(lent)
        assert _equal(found, stream[:count])
        found.x[0] = 1  # kernels are compiled for arrays that can be written to
        del found
        lender.take_back()
        assert _descriptors() == before + 1
    lender.close()
    assert _descriptors() == before


def test_where_nothing_can_be_lent_events_are_sent(monkeypatch):
    monkeypatch.setattr(lending, "_CAN_LEND", False)
    stream, lender = rotating_events([1.0, -2.0, 3.0]), Lender()
    sent = lender.lend([stream[:100], stream[100:]])
    assert isinstance(sent, Events)
    assert _equal(taken(sent), stream)
    lender.take_back()
    lender.close()


@pytest.mark.skipif(not lending._CAN_LEND, reason="needs memory files of Linux")
def test_memory_is_written_again_only_when_its_own_events_are_done_with():
    stream, lender = rotating_events([1.0, -2.0, 3.0]), Lender()
    sent = [lender.lend([stream[:0]]), lender.lend([stream[:50], whole_pixels(stream)[50:]])]
    lent = lender.lend([stream])
    assert [type(each) for each in (*sent, lent)] == [Events, Events, SharedEvents]
    found = taken(lent)
    for _ in sent:
        lender.take_back()
    lender.lend([stream[7:]])
    assert _equal(found, stream)
    lender.close()


@pytest.mark.slow
def test_work_in_other_processes_sees_lent_events():
    stream = rotating_events([1.0, -2.0, 3.0])
    parts = [stream[first : first + 1000] for first in range(0, len(stream), 1000)]
    before = _descriptors()
    with Workers(2) as workers:
        pieces = (([part], lambda events, i=i: (str(i), events)) for i, part in enumerate(parts))
        found = list(map_lent(workers, _counted, pieces))
        assert [row[:3] for row in found] == [(str(i), len(p), int(p.t_us.sum())) for i, p in enumerate(parts)]
        assert os.getpid() not in {row[3] for row in found}
    assert _descriptors() <= before + 2
