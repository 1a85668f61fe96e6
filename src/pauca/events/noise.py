"""Background noise: events that nothing in the scene makes, how they are told from the scene's, and taken out."""

from collections.abc import Iterable, Iterator
from itertools import pairwise

import numpy as np
from jaxtyping import Bool, Int64, UInt8
from scipy.ndimage import binary_dilation

from pauca.events.hot_pixels import pixel_indices
from pauca.events.kernels.support import count_blocks, count_supported, find_supported
from pauca.events.recording import Recording, events_of, leave_out, recording_of
from pauca.events.types import Events
from pauca.events.windows import joined

_WITHIN_US = 1_000  # an edge makes neighboring pixels fire; with 3 ms on shapes in 10 Hz, errors are 1.3 times as large
_AROUND = 8  # pixels that can support an event, each before and after it
_WINDOW_US = 50_000
_BLOCK = 8  # pixels
_QUIET_SHARE = 0.1  # of the blocks of a window: in these, nothing but noise is expected
_LEAST_HZ = (
    2.5  # a pixel, of the quietest blocks (noise of 5 Hz); less does no harm, and slow motion makes as few events
)
_MOST_SUPPORTED = 0.5  # beyond, noise supports itself
# Supported events of quiet blocks, over what is expected of noise: noise of 5 to 30 Hz a pixel .65 to 1.1 times, seldom
# more by 0.03; quiet blocks of textures at 40 deg/s and more, that fire as often, 1.6 to 3.1 times.
_FACTOR, _MARGIN = 1.2, 0.03
_STRUCTURED, _FILTERED = 0.05, 0.9  # shares of supported events


def noise_mask(events: Events | Recording) -> Bool[np.ndarray, "n"]:
    """Which events are background noise, as far as it can be told: True for noise.

    An event counts as noise if no neighboring pixel fires within a millisecond, in windows of 50 ms in which the
    quietest tenth of the image shows noise and nothing else: at least 2.5 Hz a pixel (noise of about 5 Hz), with
    neighbors no more often than events that know nothing of each other. Where every part of the image sees a moving
    texture, nothing is.
    """
    events = events_of(events)
    duration_us = int(events.t_us[-1] - events.t_us[0]) + 1 if len(events) else 0
    edges_us = _edges(int(events.t_us[0]) if len(events) else 0, 0, duration_us)
    return _mask(events, edges_us)


def _edges(first_us: int, done: int, duration_us: int) -> Int64[np.ndarray, "n"]:
    """Where the windows of a recording begin, but for those that are done, and where the last one ends."""
    edges_us = first_us + np.arange(done, max(1, round(duration_us / _WINDOW_US)) + 1) * _WINDOW_US
    edges_us[-1] = first_us + duration_us
    return edges_us


def _mask(events: Events, edges_us: Int64[np.ndarray, "k"]) -> Bool[np.ndarray, "n"]:
    """Which events of some windows are noise; others stand by as neighbors."""
    noise = np.zeros(len(events), bool)
    width, height = events.size
    if len(events) == 0 or (width // _BLOCK) * (height // _BLOCK) * _QUIET_SHARE < 1:
        return noise
    everywhere = np.ones((height, width), bool)
    places = np.searchsorted(events.t_us, edges_us).tolist()
    for first, end in pairwise(places):
        if end > first and _is_noisy(events, first, end):
            noise[first:end] = _supported(events, first, end, everywhere) == 0
    return noise


def _supported(
    events: Events, first: int, end: int, asked: Bool[np.ndarray, "height width"]
) -> UInt8[np.ndarray, "window"]:
    """Which events of a window have a neighbor in time and space, in the window or beside it; of some pixels."""
    around = events.between(int(events.t_us[first]) - _WITHIN_US, int(events.t_us[end - 1]) + _WITHIN_US + 1)
    before = first - int(np.searchsorted(events.t_us, events.t_us[first] - _WITHIN_US))
    supported = np.empty(len(around), np.uint8)
    find_supported(around.t_us, *pixel_indices(around), asked, _WITHIN_US, supported)
    return supported[before : before + end - first]


def without_noise(chunks: Iterable[Events], dropped: list[int]) -> Iterator[Events]:
    """The chunks of a recording without what `noise_mask` finds in all of it, in memory for a few chunks.

    Args:
        chunks: the events in order.
        dropped: receives how many went, part by part.
    """
    waiting: Events | None = None  # from a millisecond before the next window on
    first_us, done = 0, 0
    for chunk in chunks:
        if len(chunk) == 0:
            continue
        first_us = first_us if waiting is not None else int(chunk.t_us[0])
        waiting = chunk if waiting is None else joined([waiting, chunk])
        # The last window may be longer or shorter by half: one is whole when the next one's middle is passed.
        whole = (int(waiting.t_us[-1]) - first_us - _WINDOW_US // 2 - 1) // _WINDOW_US
        if whole > done:
            edges_us = first_us + np.arange(done, whole + 1) * _WINDOW_US
            yield _kept(waiting, edges_us, dropped)
            waiting, done = waiting[int(np.searchsorted(waiting.t_us, edges_us[-1] - _WITHIN_US)) :], whole
    if waiting is not None:
        yield _kept(waiting, _edges(first_us, done, int(waiting.t_us[-1]) + 1 - first_us), dropped)


def _kept(events: Events, edges_us: Int64[np.ndarray, "k"], dropped: list[int]) -> Events:
    noise = _mask(events, edges_us)
    first, end = np.searchsorted(events.t_us, [edges_us[0], edges_us[-1]])
    dropped.append(int(np.count_nonzero(noise)))
    events, kept = events[first:end], ~noise[first:end]
    if kept.all():
        return events
    return events.where(kept)


def shows_structure(events: Events) -> bool:
    """Whether events have neighbors far more often than noise has: something changes, even where nothing moves on.

    Of 20 packets at rest and in noise at most 3 % of the events had neighbors within a millisecond, as expected; of
    packets in a vibration of 35 Hz that is hidden in the hysteresis of the pixels 16 to 67 %, where 1 to 4 % are.
    Where noise was taken out before, all have.
    """
    column, row = pixel_indices(events)
    supported = np.empty(len(events), np.uint8)
    find_supported(events.t_us, column, row, np.ones(events.size[::-1], bool), _WITHIN_US, supported)
    rate_hz = len(events) / (events.size[0] * events.size[1] * events.duration_us * 1e-6)
    expected = 1 - np.exp(-2 * _AROUND * rate_hz * _WITHIN_US * 1e-6)
    return bool(_STRUCTURED + 3 * expected < supported.mean() < _FILTERED)


def _is_noisy(events: Events, first: int, end: int) -> bool:
    """Whether the quietest blocks of a window show noise, and nothing else."""
    window, (width, height) = events[first:end], events.size
    across, down = width // _BLOCK, height // _BLOCK
    counts = np.zeros(across * down, np.int64)
    count_blocks(*pixel_indices(window), _BLOCK, across, down, counts)
    quiet = np.argsort(counts, kind="stable")[: round(across * down * _QUIET_SHARE)]
    found = int(counts[quiet].sum())
    seconds = max(1, window.duration_us) * 1e-6
    rate_hz = found / (len(quiet) * _BLOCK**2 * seconds)
    expected = 1 - np.exp(-2 * _AROUND * rate_hz * _WITHIN_US * 1e-6)
    if rate_hz < _LEAST_HZ or expected > _MOST_SUPPORTED:
        return False
    asked = np.zeros((down, across), bool)
    asked.flat[quiet] = True
    rows, columns = (np.minimum(np.arange(size) // _BLOCK, size // _BLOCK - 1) for size in (height, width))
    asked = asked[np.ix_(rows, columns)]
    beside = binary_dilation(asked, np.ones((3, 3), bool))
    with_neighbors = count_supported(*pixel_indices(window), _supported(events, first, end, beside), asked) / found
    return bool(with_neighbors < _FACTOR * expected + _MARGIN)


def remove_noise(recording: Recording | Events) -> Recording:
    """The recording without the events that `noise_mask` finds; its notes and its report say how many went. Of events
    alone, a recording of what is left."""
    recording = recording_of(recording)
    events = recording.events
    noise = noise_mask(events)
    if not noise.any():
        return recording
    return leave_out(recording, noise, "events of background noise")
