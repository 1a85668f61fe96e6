"""The file's first bytes decide; what cannot be read is one clear line."""

import re

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


def test_wrong_size(tmp_path):
    (tmp_path / "events.txt").write_text(TEXT)
    with pytest.raises(InputError, match=r"size \(0, 180\) is no \(width, height\)"):
        read(tmp_path / "events.txt", size=(0, 180))
