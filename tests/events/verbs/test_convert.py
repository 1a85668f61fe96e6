"""The verb: one file to another, or many to a folder."""

import numpy as np
import pytest

from pauca import events
from pauca.cli import main


@pytest.fixture
def folder(tmp_path):
    """Two recordings, one of them in a folder below, a file that is none, and what lies beside recordings."""
    rng, n = np.random.default_rng(0), 3000
    seen = events.Events(
        np.sort(rng.integers(0, 10**5, n)),
        rng.integers(0, 240, n).astype(np.uint16),
        rng.integers(0, 180, n).astype(np.uint16),
        rng.integers(0, 2, n).astype(np.uint8),
        (240, 180),
    )
    source = tmp_path / "in"
    (source / "deeper").mkdir(parents=True)
    events.write(source / "a.npz", events.Recording(seen, events.DAVIS240C))
    events.write(source / "deeper" / "b.raw", events.Recording(seen))
    (source / "broken.h5").write_bytes(b"\x89HDF\r\n\x1a\nno more")
    (source / "calib.txt").write_text("1 2 3 4 5 6 7 8 9")
    return source


def test_one_file(folder, tmp_path, capsys):
    assert main(["events", "convert", str(folder / "a.npz"), str(tmp_path / "a.raw")]) == 0
    assert "3,000 events; the calibration left out" in capsys.readouterr().out
    assert main(["events", "convert", str(folder / "a.npz"), str(tmp_path / "a.raw")]) == 2
    assert "exists already" in capsys.readouterr().err
    assert main(["events", "convert", str(folder / "a.npz"), str(tmp_path / "a.raw"), "--force", "--quiet"]) == 0
    assert capsys.readouterr() == ("", "")


def test_a_folder_of_which_one_fails(folder, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["events", "convert", str(folder), str(out), "--to", "h5"]) == 1
    told = capsys.readouterr()
    assert len(told.out.splitlines()) == 2
    first, last = told.err.splitlines()
    assert "broken.h5: cannot be read as HDF5" in first
    assert last == "pauca: 1 of 3 recordings failed; the others are done"
    assert sorted(str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()) == ["a.h5", "deeper/b.h5"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["a.npz"], "name a recording and a file to write"),
        (["a.npz", "deeper/b.raw", "out"], "say in which format"),
        (["a.npz", "deeper/b.raw", "calib.txt", "--to", "npz"], "is a file; several recordings"),
        (["a.npz", "a.npz"], "would be replaced by its own conversion"),
        (["a.npz", "out.mat"], "recordings are written as"),
        (["a.npz", "out.npz", "--encoding", "evt2"], r"--encoding evt2 is for .raw, and .npz is written"),
        (["gone.raw", "out.npz"], "no such file"),
        ([".", "a.npz", "out", "--to", "dat"], "two recordings would be written there"),
    ],
)
def test_wrong_usage(folder, monkeypatch, capsys, words, said):
    monkeypatch.chdir(folder)
    if said.startswith("two"):
        (folder / "a.txt").write_text("0.1 1 1 1\n")
    assert main(["events", "convert", *words]) == 2
    assert said in capsys.readouterr().err
