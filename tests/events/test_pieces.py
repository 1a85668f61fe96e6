"""A recording in pieces: every event in one packet, the motion of the whole, the same for any number of workers."""

import os
import subprocess
import sys

import numpy as np
import pytest

from pauca.errors import ConfigError, PaucaError
from pauca.events import AlignConfig, Aligner, Events, pieces
from pauca.events.pieces import Workers, align_in_pieces

from .scenes import CAMERA, rotating_events

CONFIG = AlignConfig(packet_events=2_000, min_events=400, border=20)


@pytest.fixture(scope="module")
def stream() -> Events:
    """A quarter of a second of one motion."""
    return rotating_events([1.0, -2.0, 3.0], points=300, per_point=80, duration_us=250_000)


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch):
    monkeypatch.setattr(pieces, "PIECE_EVENTS", 8_000)


def _parts(events: Events, size: int):
    return [events[first : first + size] for first in range(0, len(events), size)]


def _in_pieces(stream: Events, size: int, count: int, done: int = 0):
    with Workers(count) as workers:
        return list(align_in_pieces(_parts(stream, size), Aligner(CAMERA, CONFIG), workers, done))


def _same(some, others) -> bool:
    some, others = ([a for piece in found for a in piece] for found in (some, others))
    return len(some) == len(others) and all(
        (a.start_us, a.end_us, a.n_events, a.status, a.evaluations)
        == (b.start_us, b.end_us, b.n_events, b.status, b.evaluations)
        and np.array_equal(a.velocity, b.velocity)
        and np.array_equal(a.covariance, b.covariance)
        for a, b in zip(some, others, strict=True)
    )


def test_every_event_is_in_one_packet_and_the_motion_is_that_of_the_whole(stream):
    found = _in_pieces(stream, 5_000, 1)
    assert [sum(a.n_events for a in piece) for piece in found] == [8_000, 8_000, len(stream) - 16_000]
    whole = np.mean([a.velocity for a in Aligner(CAMERA, CONFIG).follow(stream)], axis=0)
    pieced = np.mean([a.velocity for piece in found for a in piece], axis=0)
    np.testing.assert_allclose(pieced, whole, atol=0.02)
    # Warm from the packets before: no more work for the first packet of a piece than for others.
    assert found[1][0].evaluations <= found[0][0].evaluations
    assert found[1][0].status.trusted


def test_the_size_of_the_parts_does_not_matter(stream):
    assert _same(_in_pieces(stream, 5_000, 1), _in_pieces(stream, 977, 1))


def test_whole_pieces_that_are_known_are_not_aligned_again(stream):
    found = _in_pieces(stream, 5_000, 1)
    assert _same(_in_pieces(stream, 5_000, 1, 8_000), found[1:])
    assert _in_pieces(stream, 5_000, 1, len(stream)) == []


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, 3])
def test_results_do_not_depend_on_the_number_of_workers(stream, count):
    assert _same(_in_pieces(stream, 5_000, count), _in_pieces(stream, 5_000, 1))


def test_work_comes_back_in_order():
    with Workers(1) as workers:
        assert list(workers.map(abs, [-3, 2, -1])) == [3, 2, 1]
    with pytest.raises(ConfigError, match="at least 1"):
        Workers(0)


@pytest.mark.slow
def test_work_of_several_processes_comes_back_in_order():
    with Workers(2) as workers:
        assert list(workers.map(abs, range(-20, 0))) == list(range(20, 0, -1))


def test_a_script_whose_work_is_not_below_its_main_is_told(tmp_path):
    (tmp_path / "script.py").write_text(
        "from pauca.events.workers import Workers\n\nwith Workers(2) as workers:\n    list(workers.map(abs, [1, 2]))\n"
    )
    words = [sys.executable, str(tmp_path / "script.py")]
    ended = subprocess.run(words, capture_output=True, text=True, timeout=100)
    assert "must do so below `if __name__ == '__main__':`" in ended.stderr.splitlines()[-1]


@pytest.mark.slow
def test_a_process_that_dies_is_said():
    with Workers(2) as workers, pytest.raises(PaucaError, match="one of 2 processes ended in the middle"):
        list(workers.map(os._exit, [1, 1, 1]))
