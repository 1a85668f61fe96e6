"""Arrays of other libraries, with the fields and the layout that these give them."""

import numpy as np
import pytest

from pauca import events
from pauca.errors import InputError
from pauca.events import AlignConfig, Aligner, Follower, as_events

from .scenes import CAMERA, rotating_events

METAVISION = np.dtype(  # EventCD of Metavision and OpenEB: 16 bytes, of which two pad
    {"names": ["x", "y", "p", "t"], "formats": ["<u2", "<u2", "<i2", "<i8"], "offsets": [0, 2, 4, 8], "itemsize": 16}
)
DV = np.dtype(  # EventStore.numpy() of dv-processing: 16 bytes, of which three pad
    {
        "names": ["timestamp", "x", "y", "polarity"],
        "formats": ["<i8", "<i2", "<i2", "i1"],
        "offsets": [0, 8, 10, 12],
        "itemsize": 16,
    }
)
FAERY = np.dtype([("t", "<u8"), ("x", "<u2"), ("y", "<u2"), (("on", "p"), "?")])
TONIC = np.dtype([("x", "<i8"), ("y", "<i8"), ("t", "<i8"), ("p", "<i8")])
CONFIG = AlignConfig(packet_events=4_000, min_events=400, border=20)


def _scene() -> events.Events:
    """Whole pixels, as cameras give them."""
    moving = rotating_events([1.0, -2.0, 3.0], duration_us=60_000)
    return events.Events.from_arrays(moving.t_us, moving.x.astype(int), moving.y.astype(int), moving.p, moving.size)


def _array(seen: events.Events, kind: np.dtype) -> np.ndarray:
    array = np.zeros(len(seen), kind)
    t, p = ("timestamp", "polarity") if "timestamp" in kind.names else ("t", "p")
    for name, column in ((t, seen.t_us), ("x", seen.x), ("y", seen.y), (p, seen.p)):
        array[name] = column
    return array


class Store:
    """The interface of dv-processing's EventStore that counts here."""

    def __init__(self, array: np.ndarray) -> None:
        self._array = array

    def numpy(self) -> np.ndarray:
        return self._array


@pytest.mark.parametrize("kind", [METAVISION, DV, FAERY, TONIC], ids=["metavision", "dv", "faery", "tonic"])
def test_arrays_become_events(kind):
    seen = _scene()
    array = _array(seen, kind)
    for given in (array, array[::1], Store(array)):
        got = as_events(given, (64, 48))
        for name in ("t_us", "x", "y", "p"):
            column = getattr(got, name)
            assert np.array_equal(column, getattr(seen, name)), name
            assert column.flags.c_contiguous
            assert not np.shares_memory(column, array)  # a driver writes its buffer anew
    assert as_events(array[:0], (64, 48)).t_us.size == 0
    assert as_events(seen, (1, 1)) is seen


def test_polarity_may_be_minus_one():
    seen = _scene()
    array = _array(seen, METAVISION)
    array["p"][array["p"] == 0] = -1
    assert np.array_equal(as_events(array, (64, 48)).p, seen.p)


def _same(one, other) -> bool:
    told = ("start_us", "end_us", "n_events", "status", "score")
    return all(getattr(one, name) == getattr(other, name) for name in told) and np.array_equal(
        one.velocity, other.velocity
    )


@pytest.mark.parametrize("kind", [METAVISION, DV], ids=["metavision", "dv"])
def test_arrays_are_aligned_as_events_are(kind):
    seen = _scene()
    array = _array(seen, kind)
    expected = list(Aligner(CAMERA, CONFIG).follow(seen))
    assert len(expected) > 1
    windows = [array[i : i + 1000] for i in range(0, len(array), 1000)]
    assert all(map(_same, Aligner(CAMERA, CONFIG).follow(array), expected))
    assert all(map(_same, Aligner(CAMERA, CONFIG).follow(windows), expected))
    aligner = Aligner(CAMERA, CONFIG)
    pushed = [found for window in windows for found in aligner.push(Store(window))] + aligner.flush()
    assert len(pushed) == len(expected)
    assert all(map(_same, pushed[:-1], expected))
    assert _same(Aligner(CAMERA, CONFIG).align(array), Aligner(CAMERA, CONFIG).align(seen))
    assert np.array_equal(events.align(array, CAMERA, CONFIG).velocity, events.align(seen, CAMERA, CONFIG).velocity)
    by_array, by_events = Follower(CAMERA), Follower(CAMERA)
    by_array.push(array)
    by_events.push(seen)
    assert _same(by_array.newest, by_events.newest)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (np.zeros((5, 4)), r"an array of float64 of shape \(5, 4\) does not say what its columns are"),
        (np.zeros((5, 1), METAVISION), r"shape \(5, 1\); expected one event an element"),
        (np.zeros(5, [("x", "u2"), ("y", "u2"), ("t", "i8")]), "fields x, y, t leave open what p is"),
        (np.zeros(5, [("x", "u2"), ("y", "u2"), ("t", "i8"), ("ts", "i8"), ("p", "?")]), "leave open what t is"),
        (np.zeros(5, [("x", "u2"), ("y", "u2"), ("t", "f8"), ("p", "?")]), "times are float64, of unknown unit"),
        (np.array([(700, 1, 1, 5)], METAVISION), "x is beyond the sensor's 64 pixels"),
        (np.array([(1, 1, 1, 5), (1, 1, 1, 4)], METAVISION), "event 1: time 4 us follows 5 us"),
        (np.array([(5, -1, 1, 1)], DV), "event 0: x -1 is no uint16"),
        (np.array([(5, 1, 1, 3)], DV), "polarity is neither 0 nor 1"),
        (Store([1, 2]), "expected Events, got a Store; a structured array"),
    ],
)
def test_what_is_no_array_of_events_is_one_clear_line(given, message):
    with pytest.raises(InputError, match=message) as error:
        Aligner(CAMERA).push(given)
    assert "\n" not in str(error.value)


def test_an_array_needs_a_camera():
    with pytest.raises(InputError, match="an array does not say its camera"):
        events.align(np.zeros(5, METAVISION))
