import numpy as np
import pytest

from pauca.errors import InputError
from pauca.events.io import read


def _event(t: int, x: int, y: int, p: int) -> bytes:
    return bytes([x, y, p << 7 | t >> 16, t >> 8 & 255, t & 255])


def test_events_and_the_clock_that_runs_over(tmp_path):
    path = tmp_path / "00001.bin"
    path.write_bytes(_event(300, 33, 0, 1) + _event(70_000, 200, 3, 0) + _event(0, 0, 240, 0) + _event(65_000, 1, 2, 1))
    events = read(path).events
    assert events.t_us.tolist() == [300, 70_000, 65_000 + 8192]
    assert events.x.tolist() == [33, 200, 1]
    assert events.p.tolist() == [1, 0, 1]


def test_a_cut_event_is_said(tmp_path):
    path = tmp_path / "00001.bin"
    path.write_bytes(_event(300, 33, 0, 1) * 3 + b"\1\2")
    recording = read(path)
    assert (len(recording.events), recording.events.size) == (3, (34, 34))
    assert "2 bytes of 5" in recording.notes[0]
    path.write_bytes(b"\x01\x02\x03")
    with pytest.raises(InputError, match="3 bytes are no event"):
        read(path)


@pytest.mark.realdata
def test_a_real_file(pauca_data):
    events = read(pauca_data / "events" / "formats" / "tonic_sample_nmnist.bin").events
    assert (len(events), events.size) == (4_325, (34, 34))
    assert np.all(np.diff(events.t_us) >= 0)
