"""Events go from one process to another as they are."""

import os
from pathlib import Path

import numpy as np

from pauca.events.shared import SharedEvents, new_file
from pauca.events.workers import Workers

from .scenes import rotating_events, whole_pixels

EVENTS = whole_pixels(rotating_events([1.0, -2.0, 3.0], points=20, per_point=30))


def test_another_process_finds_the_same_events():
    windows = [EVENTS[:101], EVENTS[101:]]
    shared = SharedEvents.of([[EVENTS[:40], EVENTS[40:101]], [EVENTS[101:]]], new_file())
    with Workers(2) as workers:
        (found,) = workers.map(SharedEvents.windows, [shared])
    for got, expected in zip(found, windows, strict=True):
        assert (len(got), got.size, got.x.dtype.name) == (len(expected), expected.size, "uint16")
        for name in ("t_us", "x", "y", "p"):
            assert getattr(got, name).tobytes() == getattr(expected, name).tobytes()
    os.close(shared.file)


def test_windows_stay_when_the_file_is_closed_and_no_file_is_left_open():
    before = len(list(Path("/proc/self/fd").iterdir()))
    shared = SharedEvents.of([[EVENTS]], new_file())
    (window,) = shared.windows()
    os.close(shared.file)
    np.testing.assert_array_equal(window.t_us, EVENTS.t_us)
    np.testing.assert_array_equal(window.p, EVENTS.p)
    del window
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_a_file_is_written_anew():
    longer = SharedEvents.of([[EVENTS]], new_file())
    shorter = SharedEvents.of([[EVENTS[7:90]]], longer.file)
    assert shorter.file == longer.file
    (window,) = shorter.windows()
    np.testing.assert_array_equal(window.t_us, EVENTS.t_us[7:90])
    np.testing.assert_array_equal(window.y, EVENTS.y[7:90])
    os.close(shorter.file)
