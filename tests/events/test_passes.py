"""A recording in parts gives what the whole gives; parts of time hold every event once."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pauca import events
from pauca.errors import InputError
from pauca.events import Camera, PanoramaConfig, passes
from pauca.events.passes import pieces_between
from pauca.events.video import VideoConfig, frames
from pauca.events.windows import joined

from .scenes import random_events


@pytest.fixture(scope="module")
def pan(tmp_path_factory):
    """A camera that turns and comes back, and the file that holds it."""
    config = events.SimulateConfig(movement="constant", peak_deg_s=400.0, duration_s=1.05, noise_hz=0.2, seed=1)
    recording = events.simulate(config, camera=Camera.pinhole((96, 72)))
    path = tmp_path_factory.mktemp("pan") / "pan.npz"
    events.write(path, recording)
    return recording, path


@pytest.fixture(scope="module")
def trajectory(pan):
    return events.align(pan[0])


def test_a_stream_is_aligned_as_the_whole_is(pan, trajectory):
    _, path = pan
    streamed = events.align(events.open_events(path, chunk_events=20_001))
    np.testing.assert_array_equal(streamed.velocity, trajectory.velocity)
    np.testing.assert_array_equal(streamed.n_events, trajectory.n_events)
    assert streamed.status == trajectory.status


def test_a_panorama_of_parts_is_that_of_the_whole(pan, trajectory):
    recording, path = pan
    whole = events.panorama(recording, trajectory)
    parts = events.panorama(events.open_events(path, chunk_events=20_001), trajectory)
    assert len(whole.closures) > 0
    np.testing.assert_array_equal(parts.images, whole.images)
    np.testing.assert_array_equal(parts.attitude.turned, whole.attitude.turned)


def test_a_video_of_parts_is_that_of_the_whole(pan, trajectory):
    recording, path = pan
    whole = list(frames(recording, trajectory, config=VideoConfig(fps=10.0)))
    parts = list(frames(events.open_events(path, chunk_events=20_001), trajectory, config=VideoConfig(fps=10.0)))
    assert len(whole) == len(parts) == 11
    np.testing.assert_array_equal(whole, parts)


def test_a_panorama_of_another_time_is_refused(pan, trajectory):
    later = replace(
        trajectory,
        **{name: getattr(trajectory, name) + 10_000_000 for name in ("t_us", "start_us", "end_us")},
    )
    with pytest.raises(InputError, match="no event lies at the trajectory's time"):
        events.panorama(pan[0], later, config=PanoramaConfig(pixels_per_degree=1.0))


@given(
    times=st.lists(st.integers(0, 50), max_size=40).map(sorted),
    edges=st.lists(st.integers(0, 60), min_size=2, max_size=8, unique=True).map(sorted),
    size=st.integers(1, 9),
)
def test_pieces_hold_the_events_between_their_edges(times, edges, size):
    whole = random_events(times)
    parts = [whole[first : first + size] for first in range(0, max(1, len(whole)), size)]
    pieces = list(pieces_between(parts, np.array(edges)))
    assert len(pieces) == len(edges) - 1
    for piece, start, end in zip(pieces, edges, edges[1:], strict=False):
        assert piece.t_us.tolist() == [t for t in times if start <= t < end]


def test_what_lies_before_the_first_edge_is_not_kept(monkeypatch):
    held = []

    def counted(parts):
        held.append(sum(map(len, parts)))
        return joined(parts)

    monkeypatch.setattr(passes, "joined", counted)
    parts = (random_events(list(range(first, first + 10))) for first in range(0, 1000, 10))
    (piece,) = pieces_between(parts, np.array([995, 998]))
    assert piece.t_us.tolist() == [995, 996, 997]
    assert max(held) <= 20


def test_no_parts_at_all_are_no_events():
    with pytest.raises(InputError, match="no events"):
        list(pieces_between(iter(()), np.array([0, 1])))
    with pytest.raises(InputError, match="no events"):
        events.panorama(random_events([]), _still(), Camera.pinhole((64, 48)))


def _still():
    from .mosaic.test_attitude import trajectory as path

    return path(np.zeros((3, 3)))
