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


def test_an_array_without_names_is_refused(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros((5, 4)))
    with pytest.raises(InputError, match=r"an array of float64 of shape \(5, 4\) does not say what its columns are"):
        read(tmp_path / "a.npy")


@pytest.mark.parametrize(
    "start", [b"#!AER-DAT4.0\r\n", b"#!AER-DAT2.0\r\n", b"Event Stream\2\0\0", b"#ROSBAG V2.0\n", b"\x89MCAP0\r\n"]
)
def test_a_binary_recording_that_ends_after_its_first_bytes_is_one_line(tmp_path, start):
    (tmp_path / "unnamed").write_bytes(start)
    with pytest.raises(InputError, match=r"unnamed: "):
        read(tmp_path / "unnamed")


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
    outcomes = _damage(whole, tmp_path / f"damaged.{name.partition('.')[2]}", rounds=15)
    assert outcomes["refused"] > 0


def _damage(whole: bytes, path, rounds: int) -> dict[str, int]:
    """Read damaged copies; what is read must be valid, which `Events` checks on creation."""
    rng = np.random.default_rng(7)
    outcomes = {"read": 0, "refused": 0}
    for kind in ["bits", "header", "stretch", "cut"] * rounds:
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
    return outcomes


REAL = {
    "aedat": "dvs128_Lapiseira.aedat",
    "aedat4": "tonic_sample_dvxplorer.aedat4",
    "es": "faery_dvs.es",
    "bag": "ros1_evt3_640x480.bag",
    "db3": "ros2_evt3_trigger_1280x720.db3",
    "mcap": "ros2_test_events_2.mcap",
    "bin": "tonic_sample_nmnist.bin",
}


@pytest.mark.realdata
@pytest.mark.slow
@pytest.mark.parametrize("suffix", REAL)
def test_damage_to_a_real_recording_is_repaired_or_refused(pauca_data, tmp_path, suffix):
    """As above, for formats that others write."""
    whole = (pauca_data / "events" / "formats" / REAL[suffix]).read_bytes()
    if suffix in ("es", "aedat"):
        whole = whole[:200_000]
    _damage(whole, tmp_path / f"damaged.{suffix}", rounds=6)


def test_wrong_size(tmp_path):
    (tmp_path / "events.txt").write_text(TEXT)
    with pytest.raises(InputError, match=r"size \(0, 180\) is no \(width, height\)"):
        read(tmp_path / "events.txt", size=(0, 180))
