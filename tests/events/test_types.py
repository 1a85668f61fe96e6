import numpy as np
import pytest

from pauca.errors import InputError
from pauca.events import Events, types


def _events(**changes):
    columns = {
        "t_us": np.array([1_000_000, 1_000_003, 1_000_003, 1_000_010]),
        "x": np.array([0, 5, 239, 7]),
        "y": np.array([0, 179, 3, 4]),
        "p": np.array([0, 1, 1, 0]),
        "size": (240, 180),
    }
    return Events.from_arrays(**(columns | changes))


def test_slices_share_memory():
    events = _events()
    window = events[1:3]
    assert len(window) == 2
    assert all(np.shares_memory(getattr(window, name), getattr(events, name)) for name in ("t_us", "x", "y", "p"))
    assert window.size == events.size


def test_between_includes_the_start_and_excludes_the_end():
    assert _events().between(1_000_003, 1_000_010).t_us.tolist() == [1_000_003, 1_000_003]
    assert len(_events().between(1_000_010, 1_000_003)) == 0


def test_duration():
    assert _events().duration_us == 10
    assert _events()[:0].duration_us == 0


@pytest.mark.parametrize(
    "p", [np.array([-1, 1, 1, -1]), np.array([False, True, True, False]), np.array([0.0, 1, 1, 0])]
)
def test_polarities_of_other_tools_become_0_and_1(p):
    assert _events(p=p).p.tolist() == [0, 1, 1, 0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"t_us": np.array([5, 6, 4, 7])}, "event 2: time 4 us follows 6 us"),
        ({"t_us": np.array([5.0, 6.5, 7.0, 8.0])}, "event 1: time .* 6.5"),
        ({"t_us": np.array([5.0, np.nan, 7.0, 8.0])}, "event 1: time .* nan"),
        ({"x": np.array([0, 5, 240, 300])}, "event 2: x is beyond the sensor's 240"),
        ({"y": np.array([0, 180, 0, 0])}, "event 1: y is beyond the sensor's 180"),
        ({"y": np.array([0, -1, 0, 0])}, "event 1: y -1"),
        ({"p": np.array([0, 1, 2, 0])}, "event 2: polarity"),
        ({"x": np.array([0, np.inf, 1, 2]), "y": np.zeros(4)}, "event 1: x is not finite"),
        ({"size": (0, 180)}, "size"),
    ],
)
def test_bad_input_names_the_first_offender(changes, message):
    with pytest.raises(InputError, match=message):
        _events(**changes)


def test_float_pixels_mark_an_undistorted_recording():
    assert _events(x=np.array([0.5, 5, 6, 7])).undistorted
    assert not _events().undistorted


def test_columns_of_other_types_are_refused():
    good = _events()
    with pytest.raises(InputError, match="x is int32 of shape"):
        Events(good.t_us, good.x.astype(np.int32), good.y, good.p, good.size)


def test_likely_mistakes_are_told_once(caplog):
    t_us, pixels, on = np.arange(2000) * 3, np.arange(2000) % 100, np.ones(2000, np.uint8)
    types._tell.cache_clear()
    for _ in range(2):
        Events.from_arrays(t_us * 1000, pixels, pixels, on, (240, 180))
        assert Events.from_arrays(t_us, pixels * 1.0, pixels * 1.0, on, (240, 180)).undistorted
    assert ["nanoseconds" in record.getMessage() for record in caplog.records] == [True, False]
    assert "give pixels of the sensor as integers" in caplog.records[1].getMessage()
    caplog.clear()
    types._tell.cache_clear()
    Events.from_arrays(t_us, pixels, pixels, on, (240, 180))
    Events.from_arrays(t_us, pixels + 0.25, pixels * 1.0, on, (240, 180))
    Events.from_arrays(t_us[:20] * 1000, pixels[:20] * 1.0, pixels[:20], on[:20], (240, 180))
    assert not caplog.records
    with pytest.raises(InputError, match=r"of seconds, np\.rint"):
        Events.from_arrays(t_us * 1e-6, pixels, pixels, on, (240, 180))
