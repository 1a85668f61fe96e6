import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pauca import events
from pauca.events import AlignConfig, Events
from pauca.events.windows import Flow, joined

SIZE = (64, 48)


def _stream(t_us):
    x = np.zeros(len(t_us), np.uint16)
    return Events(np.asarray(t_us, np.int64), x, x, np.zeros(len(t_us), np.uint8), SIZE)


def test_packets_end_by_count_by_time_and_wait_for_enough():
    stream = _stream([*(np.arange(3000) * 10), *(30_000 + np.arange(1000) * 200)])  # 100 then 5 events a millisecond
    config = AlignConfig(packet_events=1500, min_events=100, packet_s=0.01)
    lengths = [len(window) for window in events.cut_windows(stream, config)]
    assert lengths == [1000] * 3 + [100] * 10  # by time; then 10 ms hold but 50 events, so it waits for 100
    impatient = AlignConfig(packet_events=1500, min_events=100, packet_s=0.01, longest_s=0.015)
    assert [len(window) for window in events.cut_windows(stream, impatient)][3:6] == [75, 75, 75]


def test_the_papers_packets_hold_as_many_events_as_it_says():
    stream = _stream(np.arange(70_000))
    assert [len(window) for window in events.cut_windows(stream, AlignConfig.paper())] == [30_000, 30_000, 10_000]


@given(gaps=st.lists(st.integers(0, 30_000), min_size=1, max_size=400), fewest=st.integers(1, 60))
@settings(deadline=None, max_examples=50)
def test_every_event_is_in_one_window(gaps, fewest):
    stream = _stream(np.cumsum(gaps))
    windows = list(events.cut_windows(stream, AlignConfig(packet_events=80, min_events=fewest)))
    assert all(len(window) for window in windows)
    np.testing.assert_array_equal(np.concatenate([window.t_us for window in windows]), stream.t_us)


def test_a_small_remainder_joins_the_last_packet():
    config = AlignConfig(packet_events=500, min_events=200)
    assert [len(window) for window in events.cut_windows(_stream(np.arange(1050)), config)] == [500, 550]
    assert [len(window) for window in events.cut_windows(_stream(np.arange(1150)), config)] == [500, 650]
    assert [len(window) for window in events.cut_windows(_stream(np.arange(1300)), config)] == [500, 500, 300]


def test_packets_grow_with_the_sensor():
    small, large = (AlignConfig().cut(size) for size in ((240, 180), (1280, 720)))
    assert (small.most, small.fewest) == (30_000, 10_000)
    assert large.most == pytest.approx(30_000 * 1280 * 720 / (240 * 180), abs=1)


def test_packets_fit_the_displacement():
    t_us = np.arange(0, 800_000, 10)  # 100 a millisecond
    cut = AlignConfig(packet_events=40_000, min_events=1000).cut(SIZE)
    assert cut.end(t_us) == 2000  # 20 ms
    assert cut.end(t_us, flow=Flow(50.0)) == 8000  # 80 ms for four pixels
    assert cut.end(t_us, flow=Flow(1.0)) == 30_000  # no longer than `slowest_s`
    assert cut.end(t_us, flow=Flow(0.0, 5000.0)) == 4000  # at a reversal the acceleration moves the image
    assert cut.end(t_us, flow=Flow(4800.0)) == 500  # 24 pixels in 5 ms
    assert cut.end(t_us, flow=Flow(1e6)) == 200  # but never fewer than a fifth of the fewest


def test_a_sliding_window_ends_with_the_stream():
    t_us = np.arange(0, 100_000, 10)
    cut = AlignConfig(packet_events=40_000, min_events=1000).cut(SIZE)
    assert cut.start(t_us) == len(t_us) - 2000
    assert cut.start(t_us[:700]) == 0
    assert cut.start(t_us[:2900]) == 0  # the few that are left before it join it
    assert cut.start(t_us[:2900], alone=True) == 900
    assert cut.start(t_us[:700], alone=True) == 0


def test_joined_windows_follow_each_other():
    stream = _stream(np.arange(100))
    again = joined([stream[:30], stream[30:31], stream[31:]])
    np.testing.assert_array_equal(again.t_us, stream.t_us)
    assert again.size == SIZE
