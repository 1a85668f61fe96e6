"""A stream that comes in parts: packets are those of the whole stream, and come as soon as they can."""

import numpy as np
import pytest

from pauca.errors import InputError
from pauca.events import AlignConfig, Aligner, Events

from .scenes import CAMERA, rotating_events

CONFIG = AlignConfig(packet_events=4_000, min_events=400, border=20)


@pytest.fixture(scope="module")
def stop_and_go() -> Events:
    """A motion, noise of a camera at rest, and a motion again: packets end by count, by displacement and by rest."""
    moving = [rotating_events([1.0, -2.0, 3.0], seed=seed, duration_us=60_000) for seed in (0, 1)]
    rng = np.random.default_rng(2)
    t_us = np.sort(rng.integers(0, 900_000, 3_000))
    x, y = rng.integers(0, 64, t_us.size), rng.integers(0, 48, t_us.size)
    noise = Events(
        t_us, x.astype(np.float32), y.astype(np.float32), rng.integers(0, 2, t_us.size).astype(np.uint8), (64, 48)
    )
    parts, begin_us = [moving[0], noise, moving[1]], 0
    columns = {name: np.concatenate([getattr(part, name) for part in parts]) for name in ("x", "y", "p")}
    times = []
    for part in parts:
        times.append(part.t_us - part.t_us[0] + begin_us)
        begin_us = int(times[-1][-1]) + 1
    return Events(np.concatenate(times), size=(64, 48), **columns)


def _parts(events: Events, size: int):
    return (events[first : first + size] for first in range(0, len(events), size))


def _same(one, other) -> bool:
    return (one.start_us, one.end_us, one.n_events, one.status) == (
        other.start_us, other.end_us, other.n_events, other.status
    ) and np.array_equal(one.velocity, other.velocity)  # fmt: skip


@pytest.mark.parametrize("size", [700, 5_000])
def test_parts_of_a_stream_give_the_packets_of_the_whole(stop_and_go, size):
    whole = list(Aligner(CAMERA, CONFIG).follow(stop_and_go))
    assert sum(a.n_events for a in whole) == len(stop_and_go)
    parts = list(Aligner(CAMERA, CONFIG).follow(_parts(stop_and_go, size)))
    assert len(parts) == len(whole) > 5
    assert all(_same(one, other) for one, other in zip(parts, whole, strict=True))


def test_pushed_events_give_the_packets_of_the_whole_but_for_the_last(stop_and_go):
    whole = list(Aligner(CAMERA, CONFIG).follow(stop_and_go))
    aligner, pushed = Aligner(CAMERA, CONFIG), []
    for part in _parts(stop_and_go, 97):
        found = aligner.push(part)
        assert all(a.end_us <= part.t_us[-1] for a in found)
        pushed += found
    assert len(pushed) >= len(whole) - 2
    assert all(_same(one, other) for one, other in zip(pushed, whole[: len(pushed) - 1], strict=False))
    left = aligner.flush()
    assert sum(a.n_events for a in pushed + left) == len(stop_and_go)
    assert aligner.flush() == []


@pytest.mark.parametrize("deadline_s", [0.005, 0.1])
def test_no_event_waits_longer_than_the_deadline(stop_and_go, deadline_s):
    aligner, gathered, done_us = Aligner(CAMERA, CONFIG), 0, -1
    for part in _parts(stop_and_go, 97):
        for alignment in aligner.push(part, deadline_s):
            gathered += alignment.n_events
            done_us = alignment.end_us
        waiting = stop_and_go.t_us[(stop_and_go.t_us > done_us) & (stop_and_go.t_us <= part.t_us[-1])]
        assert len(waiting) == 0 or part.t_us[-1] - waiting[0] < deadline_s * 1e6
    assert gathered + sum(a.n_events for a in aligner.flush()) == len(stop_and_go)


def test_without_a_deadline_only_rest_is_waited_for(stop_and_go):
    aligner, late = Aligner(CAMERA, CONFIG), []
    for part in _parts(stop_and_go, 97):
        late += [(part.t_us[-1] - a.start_us) * 1e-6 for a in aligner.push(part)]
    assert max(late) < 2 * CONFIG.slowest_s


def test_events_older_than_those_before_are_refused():
    window = rotating_events([1.0, -2.0, 3.0])
    aligner = Aligner(CAMERA, CONFIG)
    aligner.push(window[2000:2100])
    with pytest.raises(InputError, match="before the end of those pushed last"):
        aligner.push(window[:100])
    with pytest.raises(InputError, match="deadline_s 0"):
        aligner.push(window[2100:2200], deadline_s=0)


def test_pushing_nothing_gives_nothing():
    aligner = Aligner(CAMERA, CONFIG)
    assert aligner.push(rotating_events([1.0, -2.0, 3.0])[:0]) == []
    assert aligner.flush() == []


def test_events_that_two_threads_push_at_once_are_refused_and_not_mixed(stop_and_go):
    aligner = Aligner(CAMERA, CONFIG)
    found = aligner.push(stop_and_go[:500])
    with aligner._alone(pushing=True):
        with pytest.raises(InputError, match="another thread"):
            aligner.push(stop_and_go[500:600])
        with pytest.raises(InputError, match="another thread"):
            aligner.flush()
    found += aligner.push(stop_and_go[500:1000]) + aligner.flush()
    assert sum(a.n_events for a in found) == 1000
