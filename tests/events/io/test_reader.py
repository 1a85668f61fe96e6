"""The file's first bytes decide; what cannot be read is one clear line."""

import gzip
import os
import re

import h5py
import numpy as np
import pytest

from pauca.errors import InputError
from pauca.events.io import read

TEXT = "0.1 1 2 1\n0.2 3 4 0\n"


def test_content_counts_and_not_the_name(tmp_path):
    path = tmp_path / "events.dat"
    path.write_text(TEXT)
    assert len(read(path, size=(240, 180)).events) == 2
    npz = tmp_path / "events.bin"
    with npz.open("wb") as file:
        np.savez(file, t_us=[1, 2], x=[1, 2], y=[1, 2], p=[0, 1])
    assert len(read(npz).events) == 2


def test_string_path(tmp_path):
    path = tmp_path / "events.txt"
    path.write_text(TEXT)
    assert read(str(path)).name == "events.txt"


def test_missing_file(tmp_path):
    with pytest.raises(InputError, match=r"gone\.txt: no such file$"):
        read(tmp_path / "gone.txt")


def test_a_pipe_would_lose_its_beginning_and_is_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InputError, match=r"pipe: is a pipe or a device.*save the recording"):
        read(tmp_path / "pipe")


def test_folder(tmp_path):
    with pytest.raises(InputError, match=r"is a folder, not a recording$"):
        read(tmp_path)
    (tmp_path / "events.txt").write_text(TEXT)
    with pytest.raises(InputError, match=r"is a folder.*did you mean .*events\.txt\?$"):
        read(tmp_path)


@pytest.mark.parametrize("name", ["events.txt", "events.npz", "events.h5"])
def test_empty_file(tmp_path, name):
    (tmp_path / name).touch()
    with pytest.raises(InputError, match=rf"{re.escape(name)}: is empty$"):
        read(tmp_path / name)


@pytest.mark.parametrize(("name", "kind"), [("rec.h5", "HDF5"), ("rec.hdf5", "HDF5"), ("rec.npz", "NPZ")])
def test_not_what_its_name_says(tmp_path, name, kind):
    (tmp_path / name).write_text(TEXT)
    with pytest.raises(InputError, match=rf"is not an {kind} file, in spite of its name: it begins with b'0.1"):
        read(tmp_path / name)


def test_unknown_binary(tmp_path):
    path = tmp_path / "image.txt"
    path.write_bytes(b"\xff\xd8\xff\xe0\x00\x10JFIF" + bytes(range(256)))
    with pytest.raises(InputError, match="neither text nor a known format"):
        read(path)


@pytest.mark.parametrize(
    ("name", "start", "kind"),
    [
        ("a.aedat4", b"#!AER-DAT4.0\r\n", "an AEDAT4"),
        ("unnamed", b"#!AER-DAT4.0\r\n", "an AEDAT4"),
        ("a.es", b"Event Stream\x02\x00\x00", "an Event Stream"),
        ("a.bag", b"#ROSBAG V2.0\n", "a ROS bag"),
        ("a.npy", b"\x93NUMPY\x01\x00", "an NPY"),
    ],
)
def test_formats_that_are_not_supported(tmp_path, name, start, kind):
    (tmp_path / name).write_bytes(start)
    with pytest.raises(InputError, match=rf"is {kind} file, which is not supported yet; supported: text .*NPZ, HDF5"):
        read(tmp_path / name)


@pytest.mark.realdata
def test_real_files_of_other_formats(pauca_data):
    folder = pauca_data / "events" / "formats"
    for path in (folder / "faery_dvs.es", folder / "tonic_sample_dvxplorer.aedat4"):
        with pytest.raises(InputError, match="not supported yet"):
            read(path)


def _recording_file(folder, name: str) -> bytes:
    """A small recording in one of the formats, as bytes."""
    path = folder / name
    t_us, rng = np.arange(0, 200_000, 100), np.random.default_rng(0)
    columns = {
        axis: rng.integers(0, end, len(t_us)).astype(np.uint16) for axis, end in (("x", 240), ("y", 180), ("p", 2))
    }
    if name.endswith(".raw"):
        words = np.stack([0x80000000 | t_us >> 6, 1 << 28 | (t_us & 63) << 22 | 77 << 11 | 88], axis=1)
        return b"% evt 2.0\n% end\n" + words.astype("<u4").tobytes()
    if name.endswith(".txt.gz"):
        lines = (f"{t / 1e6:.6f} {x} {y} {p}\n" for t, x, y, p in zip(t_us, *columns.values(), strict=True))
        return gzip.compress("".join(lines).encode())
    if name.endswith(".npz"):
        np.savez(path, t_us=t_us, **columns)
    else:
        with h5py.File(path, "w") as file:
            for key, column in {"t": t_us, **columns}.items():
                file.create_dataset(f"events/{key}", data=column, chunks=(500,), compression="gzip")
    return path.read_bytes()


@pytest.mark.parametrize("name", ["whole.npz", "whole.h5", "whole.raw", "whole.txt.gz"])
def test_damage_of_any_kind_is_repaired_or_refused(tmp_path, name):
    """Flipped bits, overwritten stretches and cuts at random places: valid events or one InputError, nothing else."""
    whole = _recording_file(tmp_path, name)
    rng = np.random.default_rng(7)
    path = tmp_path / f"damaged.{name.partition('.')[2]}"
    outcomes = {"read": 0, "refused": 0}
    for kind in ["bits", "header", "stretch", "cut"] * 15:
        data = np.frombuffer(whole, np.uint8).copy()
        start = rng.integers(0, min(len(data), 600) if kind == "header" else len(data))
        if kind == "stretch":
            data[start : start + 200] = rng.integers(0, 256, len(data[start : start + 200]))
        elif kind == "cut":
            data = data[:start]
        else:
            data[start] ^= 1 << rng.integers(0, 8)
        path.write_bytes(data.tobytes())
        try:
            read(path)
            outcomes["read"] += 1
        except InputError:
            outcomes["refused"] += 1
    assert outcomes["refused"] > 0


def test_wrong_size(tmp_path):
    (tmp_path / "events.txt").write_text(TEXT)
    with pytest.raises(InputError, match=r"size \(0, 180\) is no \(width, height\)"):
        read(tmp_path / "events.txt", size=(0, 180))
