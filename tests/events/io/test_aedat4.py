"""AEDAT4: small files built byte by byte, and real ones that another reader has read."""

import struct

import lz4.frame
import numpy as np
import pytest

from pauca.errors import InputError
from pauca.events.io import aedat4, read
from pauca.events.io.aedat4 import zstd

INFO = """<dv version="2.0"><node name="outInfo" path="/o/">
 <node name="0" path="/o/0/"><attr key="typeIdentifier" type="string">EVTS</attr>
  <node name="info" path="/o/0/info/">
   <attr key="sizeX" type="int">346</attr><attr key="sizeY" type="int">260</attr></node>
 </node>
 <node name="1" path="/o/1/"><attr key="typeIdentifier" type="string">IMUS</attr></node>
</node></dv>"""


def table(*fields: bytes, vectors: tuple[bytes, ...] = ()) -> bytes:
    """A buffer with its size before it: a root table of the given scalars, then of vectors that follow it."""
    entries = [*fields, *(b"\0\0\0\0" for _ in vectors)]
    offsets, at = [], 4
    for entry in entries:
        at += -at % len(entry)
        offsets.append(at)
        at += len(entry)
    vtable = struct.pack(f"<HH{len(entries)}H", 4 + 2 * len(entries), at, *offsets)
    vtable += bytes(-len(vtable) % 4)
    start = 8 + len(vtable)
    body = bytearray(at)
    struct.pack_into("<i", body, 0, start - 8)
    for entry, offset in zip(entries, offsets, strict=True):
        body[offset : offset + len(entry)] = entry
    tail, places = b"", offsets[len(fields) :]
    for vector, place in zip(vectors, places, strict=True):
        target = start + len(body) + len(tail)
        struct.pack_into("<I", body, place, target - (start + place))
        tail += vector + bytes(-len(vector) % 4)
    whole = struct.pack("<I4s", start, b"TEST") + vtable + bytes(body) + tail
    return struct.pack("<I", len(whole)) + whole


def events(*rows: tuple[int, int, int, int]) -> bytes:
    packed = b"".join(struct.pack("<qhhb3x", *row) for row in rows)
    return table(vectors=(struct.pack("<I", len(rows)) + packed,))


def file(compression: int, *packets: tuple[int, bytes]) -> bytes:
    text = INFO.encode()
    header = table(
        struct.pack("<i", compression), struct.pack("<q", -1), vectors=(struct.pack("<I", len(text)) + text,)
    )
    packed = b"".join(struct.pack("<ii", number, len(data)) + data for number, data in packets)
    return b"#!AER-DAT4.0\r\n" + header + packed


def _read(folder, data: bytes, **options):
    (folder / "rec.aedat4").write_bytes(data)
    return read(folder / "rec.aedat4", **options)


def plain(data: bytes) -> bytes:
    """An LZ4 frame as cameras write it: its content's size is not said."""
    return lz4.frame.compress(data, store_size=False)


PACKERS = [(0, bytes), (1, plain), (1, lz4.frame.compress), (2, plain), (3, zstd.compress), (4, zstd.compress)]


@pytest.mark.parametrize(("compression", "pack"), PACKERS)
def test_packets_of_any_compression(tmp_path, compression, pack):
    data = file(compression, (0, pack(events((100, 3, 4, 1), (101, 5, 6, 0)))), (0, pack(events((110, 345, 259, 1)))))
    recording = _read(tmp_path, data)
    assert recording.events.t_us.tolist() == [100, 101, 110]
    assert recording.events.x.tolist() == [3, 5, 345]
    assert recording.events.y.tolist() == [4, 6, 259]
    assert recording.events.p.tolist() == [1, 0, 1]
    assert recording.events.size == (346, 260)
    assert recording.report.clean


@pytest.mark.parametrize("pack", [plain, lz4.frame.compress])
@pytest.mark.parametrize("damage", ["cut", "flipped", "unknown stream"])
def test_damage_costs_what_follows_it_and_its_place_is_said(tmp_path, damage, pack):
    good, bad = pack(events((100, 3, 4, 1))), pack(events((200, 3, 4, 1)))
    data = file(1, (0, good), (7 if damage == "unknown stream" else 0, bad))
    at = len(data) - len(bad) - 8
    if damage == "cut":
        data = data[:-3]
    if damage == "flipped":
        data = data[: at + 8] + bytes(byte ^ 0x5A for byte in data[at + 8 :])
    recording = _read(tmp_path, data)
    assert recording.events.t_us.tolist() == [100]
    assert f"lost all after damage at byte {at:,}" in recording.notes[0]
    with pytest.raises(InputError, match="strict"):
        _read(tmp_path, data, strict=True)


def test_a_packet_whose_content_is_damaged_costs_what_follows_it(tmp_path):
    good, bad = plain(events((100, 3, 4, 1))), plain(events((200, 3, 4, 1))[:-8])
    recording = _read(tmp_path, file(1, (0, good), (0, bad), (0, good)))
    assert recording.events.t_us.tolist() == [100]
    at = len(file(1, (0, good)))
    assert f"lost all after damage at byte {at:,} " in recording.notes[0]
    assert "beyond its end" in recording.notes[0]


@pytest.mark.parametrize("pack", [plain, lz4.frame.compress])
def test_packets_across_the_pieces_that_a_file_is_read_in(tmp_path, monkeypatch, pack):
    packets = [(0, pack(events(*((100 * k + i, i, k % 200, i % 2) for i in range(k % 90))))) for k in range(100)]
    whole = _read(tmp_path, file(1, *packets)).events
    assert len(whole) == sum(k % 90 for k in range(100))
    for piece, room in ((16, 1 << 22), (300, 1 << 11), (1 << 22, 4000)):
        monkeypatch.setattr(aedat4, "_PIECE", piece)
        monkeypatch.setattr(aedat4, "_ROOM", room)
        again = _read(tmp_path, file(1, *packets)).events
        for name in ("t_us", "x", "y", "p"):
            np.testing.assert_array_equal(getattr(again, name), getattr(whole, name))


def test_what_cannot_be_read(tmp_path):
    with pytest.raises(InputError, match="damaged header of AEDAT4"):
        _read(tmp_path, file(9, (0, events((1, 1, 1, 1)))))
    with pytest.raises(InputError, match="no events in stream '5'; streams of events: 0"):
        _read(tmp_path, file(0, (0, events((1, 1, 1, 1)))), group="5")
    with pytest.raises(InputError, match="holds no events"):
        _read(tmp_path, file(0))


@pytest.mark.realdata
@pytest.mark.parametrize(
    ("name", "count", "on", "sums", "samples", "frames", "first"),
    [
        ("davis346_emlb_demo-01", 319_512, 166_736, (52_911_189, 50_906_193), 510, 13, (1643243628737093, 86, 145, 1)),
        ("tonic_sample_dvxplorer", 111_954, 55_023, (18_342_405, 15_105_898), 475, 0, (1605537493718345, 154, 204, 0)),
    ],
)
def test_real_files_as_another_reader_has_them(pauca_data, name, count, on, sums, samples, frames, first):
    """Counts and sums by the package aedat 2.3.0."""
    recording = read(pauca_data / "events" / "formats" / f"{name}.aedat4")
    e = recording.events
    assert (len(e), int(e.p.sum())) == (count, on)
    assert (int(e.x.sum(dtype=np.int64)), int(e.y.sum(dtype=np.int64))) == sums
    assert (e.t_us[0], e.x[0], e.y[0], e.p[0]) == first
    assert len(recording.inertial.t_us) == samples
    assert len(recording.frame_times_us) == frames


@pytest.mark.realdata
def test_inertial_samples_at_rest_feel_gravity_alone(pauca_data):
    recording = read(pauca_data / "events" / "formats" / "tonic_sample_dvxplorer.aedat4")
    assert np.linalg.norm(recording.inertial.acceleration_m_s2, axis=1).mean() == pytest.approx(9.81, rel=0.1)
    assert np.abs(recording.inertial.angular_velocity_rad_s).max() < 0.05


def test_a_file_that_has_become_shorter_since_it_was_opened_ends_there(tmp_path):
    path = tmp_path / "cut.aedat4"
    path.write_bytes(struct.pack("<ii", 0, 90) + bytes(3))
    with pytest.raises(aedat4._Damage, match="cut short"):
        list(aedat4._pieces(path, 0, 100, {0: 1}))
