"""Results appear while the work goes on; what an interrupted run has found is kept, and taken up bit for bit."""

import json
import os
import sys
from concurrent.futures import BrokenExecutor, Executor, Future
from contextlib import nullcontext

import numpy as np
import pytest

from pauca import cli, events
from pauca.errors import InputError
from pauca.events import history, journal, pieces
from pauca.events.verbs import many
from pauca.events.verbs.aligning import JOURNAL, MADE_FROM, AlignRun
from pauca.events.verbs.files import recordings_in
from pauca.events.verbs.many import ACCOUNT, AtOnce


@pytest.fixture(scope="module")
def recording(tmp_path_factory):
    camera = events.Camera((120, 90), 100.0, 100.0, 60.0, 45.0)
    config = events.SimulateConfig(duration_s=0.5, peak_deg_s=300.0, hot_pixels=2, hot_pixel_hz=2000.0, seed=5)
    path = tmp_path_factory.mktemp("recordings") / "turn.npz"
    events.write(path, events.simulate(config, camera=camera))
    return path


@pytest.fixture(scope="module")
def whole(recording, tmp_path_factory):
    out = tmp_path_factory.mktemp("whole") / "out"
    assert cli.main(["events", "align", str(recording), "--out", str(out), "--quiet"]) == 0
    return out


@pytest.fixture(scope="module")
def of_packets(recording, tmp_path_factory):
    out = tmp_path_factory.mktemp("packets") / "out"
    words = ["--estimator", "packets", "--out", str(out), "--images", "0", "--quiet"]
    assert cli.main(["events", "align", str(recording), *words]) == 0
    return out


def _interrupted_after(monkeypatch, packets: int, error=KeyboardInterrupt):
    add, done = journal.JournalWriter.add, []

    def stop(self, alignment, memory):
        if len(done) == packets:
            raise error
        done.append(alignment)
        add(self, alignment, memory)

    monkeypatch.setattr(journal.JournalWriter, "add", stop)


@pytest.mark.parametrize("packets", [1, 7])
def test_an_interrupted_run_goes_on_bit_for_bit(recording, whole, of_packets, tmp_path, monkeypatch, capsys, packets):
    words = ["events", "align", str(recording), "--out", str(tmp_path / "out"), "--quiet"]
    with monkeypatch.context() as patch:
        _interrupted_after(patch, packets)
        assert cli.main(words) == 130
    assert f"{packets} packets are kept in" in capsys.readouterr().err
    rows = (tmp_path / "out" / "trajectory.csv").read_text().splitlines()
    assert rows == (of_packets / "trajectory.csv").read_text().splitlines()[: packets + 1]  # knots come at the end
    with (tmp_path / "out" / JOURNAL).open("a") as file:
        file.write('{"packet": {"motion": "rot')  # as a killed process leaves it
    assert cli.main(words) == 2
    assert "--resume" in capsys.readouterr().err
    assert cli.main([*words, "--resume"]) == 0
    for name in ("trajectory.csv", *(path.name for path in whole.glob("aligned_*.png"))):
        assert (tmp_path / "out" / name).read_bytes() == (whole / name).read_bytes(), name
    with np.load(tmp_path / "out" / "trajectory.npz") as got, np.load(whole / "trajectory.npz") as expected:
        for name in expected.files:
            assert np.array_equal(got[name], expected[name]), name
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(path.name for path in whole.iterdir())


def test_results_of_another_recording_or_other_options_are_not_those_asked_for(recording, tmp_path, capsys):
    (tmp_path / "in").mkdir()
    for name in ("a.npz", "b.npz"):
        (tmp_path / "in" / name).write_bytes(recording.read_bytes())
    calibration = tmp_path / "calib.txt"
    calibration.write_text("100 100 60 45")
    words = ["events", "align", str(tmp_path / "in"), "--out", str(tmp_path / "out"), "--images", "0", "--quiet"]
    words += ["--estimator", "packets"]
    assert cli.main(words) == 0
    assert cli.main([*words, "--resume", "--images", "1"]) == 0
    capsys.readouterr()
    for more, said in (
        (["--packet-s", "0.03"], "a: was made with packet_s 0.02, not 0.03; align it anew (--force in the place of"),
        (["--time-unit", "s"], "a: was made with time_unit None, not s; align"),
        (["--no-remove-noise"], "a: was made with remove_noise True, not False; align"),
        (["--camera", str(calibration)], "a: was made from another calibration, or it has changed since; align"),
    ):
        assert cli.main([*words, "--resume", *more]) == 1
        assert said in capsys.readouterr().err
        assert _status(tmp_path) == ["failed", "failed"]
    (tmp_path / "in" / "b.npz").touch()
    (tmp_path / "out" / "a" / MADE_FROM).unlink()  # as before version 0.2
    assert cli.main([*words, "--resume"]) == 1
    assert "b: was made from another recording, or it has changed since; align" in capsys.readouterr().err
    assert _status(tmp_path) == ["done before", "failed"]
    assert cli.main([*words, "--force"]) == 0
    assert cli.main([*words, "--resume"]) == 0
    (tmp_path / "out" / "a" / MADE_FROM).write_text("{}")
    assert cli.main([*words, "--resume"]) == 1
    assert "damaged, so that nobody knows what its results are of" in capsys.readouterr().err


def test_chunks_change_nothing(recording, whole, tmp_path, monkeypatch):
    monkeypatch.setattr("pauca.events.io.stream.EventStream.chunk_events", 3001)
    original = events.open_events
    monkeypatch.setattr(events, "open_events", lambda path, config: original(path, config, 3001))
    assert cli.main(["events", "align", str(recording), "--out", str(tmp_path), "--quiet"]) == 0
    for name in ("trajectory.csv", *(path.name for path in whole.glob("aligned_*.png"))):
        assert (tmp_path / name).read_bytes() == (whole / name).read_bytes(), name


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--packet-events", "3000"], "another setting"),
        (["--no-remove-hot-pixels"], "another number of hot pixels"),
        (["--force"], "choose one"),
    ],
)
def test_what_cannot_be_resumed(recording, tmp_path, monkeypatch, capsys, more, said):
    words = ["events", "align", str(recording), "--out", str(tmp_path), "--images", "0", "--quiet"]
    assert cli.main([*words, "--resume"]) == 2
    assert "nothing to resume" in capsys.readouterr().err
    with monkeypatch.context() as patch:
        _interrupted_after(patch, 3)
        assert cli.main(words) == 130
    capsys.readouterr()
    assert cli.main([*words, "--resume", *more]) == 2
    assert said in capsys.readouterr().err
    assert cli.main([*words, "--force"]) == 0


def test_several_recordings_of_which_one_fails(recording, tmp_path, capsys):
    (tmp_path / "in" / "a").mkdir(parents=True)
    (tmp_path / "in" / "b").mkdir()
    for folder in "ab":
        (tmp_path / "in" / folder / "events.npz").write_bytes(recording.read_bytes())
    (tmp_path / "in" / "b" / "broken.npz").write_bytes(b"PK nothing")
    words = ["events", "align", str(tmp_path / "in"), "--out", str(tmp_path / "out"), "--images", "0", "--quiet"]
    assert cli.main(words) == 1
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 2
    assert "broken.npz: damaged or cut short" in told[0]
    assert told[1] == "pauca: 1 of 3 recordings failed; the others are done"
    assert sorted(path.parent.name for path in (tmp_path / "out").rglob("trajectory.npz")) == ["a-events", "b-events"]


def test_pieces_that_were_interrupted_go_on_bit_for_bit(recording, tmp_path, monkeypatch):
    monkeypatch.setattr(pieces, "PIECE_EVENTS", 20_000)
    words = ["events", "align", str(recording), "--workers", "1", "--images", "0", "--quiet", "--out"]
    assert cli.main([*words, str(tmp_path / "whole")]) == 0
    with monkeypatch.context() as patch:
        _interrupted_after(patch, 9)
        assert cli.main([*words, str(tmp_path / "out")]) == 130
    known, _ = journal.Journal(tmp_path / "out" / JOURNAL, {}).read()
    assert sum(a.n_events for a in known) in (20_000, 40_000)
    assert cli.main(["events", "align", str(recording), "--out", str(tmp_path / "out"), "--quiet", "--resume"]) == 2
    assert cli.main([*words, str(tmp_path / "out"), "--resume"]) == 0
    whole, again = ((tmp_path / name / "trajectory.csv").read_bytes() for name in ("whole", "out"))
    assert whole == again


def _several(recording, tmp_path) -> list[str]:
    folder = tmp_path / "in"
    folder.mkdir()
    for name in ("a.npz", "b.npz"):
        (folder / name).write_bytes(recording.read_bytes())
    (folder / "broken.npz").write_bytes(b"PK nothing")
    return ["events", "align", str(folder), "--out", str(tmp_path / "out"), "--images", "0", "--quiet"]


def _status(tmp_path) -> list[str]:
    lines = (tmp_path / "out" / ACCOUNT).read_text().splitlines()
    assert lines[0] == "recording,status,seconds,message"
    return [line.split(",")[1] for line in lines[1:]]


def _seconds(tmp_path) -> list[str]:
    return [line.split(",")[2] for line in (tmp_path / "out" / ACCOUNT).read_text().splitlines()[1:]]


def test_what_became_of_several_recordings_is_told_and_can_be_taken_up(recording, tmp_path, monkeypatch, capsys):
    words = _several(recording, tmp_path)
    with monkeypatch.context() as patch:
        _interrupted_after(patch, 3)
        assert cli.main(words) == 130
    assert cli.main([*words, "--resume"]) == 1
    assert _status(tmp_path) == ["done", "done", "failed"]
    assert "damaged or cut short" in (tmp_path / "out" / ACCOUNT).read_text()
    written = (tmp_path / "out" / "a" / "trajectory.npz").stat().st_mtime_ns
    assert cli.main([*words, "--resume"]) == 1
    assert _status(tmp_path) == ["done before", "done before", "failed"]
    assert _seconds(tmp_path)[:2] == ["", ""]
    assert (tmp_path / "out" / "a" / "trajectory.npz").stat().st_mtime_ns == written
    capsys.readouterr()
    assert cli.main([*words[:-1], "--resume"]) == 1  # without --quiet
    assert f"a.npz: done before, in {tmp_path / 'out' / 'a'}" in capsys.readouterr().out
    for more, said in (
        (["--jobs", "0"], "at least 1"),
        (["--jobs", "2", "--dask", "tcp://127.0.0.1:1"], "choose one"),
        (["--workers", "2", "--dask", "tcp://127.0.0.1:1"], "start more of those"),
        (["--dask", "cluster"], "expected one such as tcp://HOST:8786"),
    ):
        assert cli.main([*words, *more]) == 2
        assert said in capsys.readouterr().err
    assert cli.main(["events", "align", str(recording), "--jobs", "2"]) == 2
    assert "--workers" in capsys.readouterr().err


def test_the_account_beside_the_results_is_no_recording(recording, tmp_path):
    for name in ("a.npz", ACCOUNT, "results.csv"):
        (tmp_path / name).write_bytes(b"")
    assert recordings_in(tmp_path) == [tmp_path / "a.npz"]


def test_a_pipe_is_said_to_be_one(tmp_path, capsys):
    os.mkfifo(tmp_path / "events.txt")
    assert cli.main(["events", "info", str(tmp_path / "events.txt")]) == 2
    assert "is a pipe or a device, not a file" in capsys.readouterr().err


def test_several_processes_write_lines_and_draw_no_bars(monkeypatch, capfd):
    class Run(AlignRun):
        def __init__(self):
            pass

        def align(self):
            assert not sys.stderr.isatty()
            print("told")
            print("wrong", file=sys.stderr)

    said, _ = many._align(Run())
    assert said == "told\n"
    assert capfd.readouterr().err == "wrong\n"


def test_after_an_interruption_no_further_recording_begins(monkeypatch):
    class Pool:
        def __init__(self, *_, **named):
            pass

        def shutdown(self, **how):
            told.append(how)

    told = []
    monkeypatch.setattr(many, "ProcessPoolExecutor", Pool)
    with pytest.raises(KeyboardInterrupt), many._engine(AtOnce(jobs=2)):
        raise KeyboardInterrupt
    assert told == [{"cancel_futures": True}]


def test_a_process_that_dies_fails_its_recording_alone(recording, tmp_path, monkeypatch, capsys):
    class Engine(Executor):
        def submit(self, _, run):
            done = Future()
            if run.path.name == "a.npz":
                done.set_exception(BrokenExecutor("terminated abruptly"))
            else:
                done.set_result(("", 1.0))
            return done

    monkeypatch.setattr(many, "_engine", lambda _: nullcontext(Engine()))
    assert cli.main([*_several(recording, tmp_path), "--jobs", "2"]) == 1
    assert "a.npz: a process ended in the middle of its work" in capsys.readouterr().err
    assert _status(tmp_path) == ["failed", "done", "done"]
    assert _seconds(tmp_path) == ["", "1.0", "1.0"]


def _same_results(tmp_path, whole) -> None:
    assert _status(tmp_path) == ["done", "done", "failed"]
    for name in "ab":
        found = tmp_path / "out" / name / "trajectory.csv"
        assert found.read_bytes() == (whole / "trajectory.csv").read_bytes()


@pytest.mark.slow
def test_several_recordings_at_a_time(recording, whole, tmp_path, capsys):
    assert cli.main([*_several(recording, tmp_path), "--jobs", "2"]) == 1
    assert "1 of 3 recordings failed" in capsys.readouterr().err
    _same_results(tmp_path, whole)


@pytest.mark.slow
# distributed's own threads and sockets may outlive the cluster by a moment.
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_recordings_over_a_cluster(recording, whole, tmp_path, capsys):
    distributed = pytest.importorskip("distributed", reason="distributed is not installed")
    words = _several(recording, tmp_path)
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, dashboard_address="127.0.0.1:0", host="127.0.0.1"
    ) as cluster:
        assert cli.main([*words, "--dask", cluster.scheduler_address]) == 1
    assert "1 of 3 recordings failed" in capsys.readouterr().err
    _same_results(tmp_path, whole)


def test_a_cluster_that_is_not_there_is_said(recording, tmp_path, monkeypatch, capsys):
    words = _several(recording, tmp_path)
    monkeypatch.setitem(sys.modules, "distributed", None)
    assert cli.main([*words, "--dask", "tcp://127.0.0.1:9"]) == 1
    assert "pip install 'pauca[dask]'" in capsys.readouterr().err


def test_a_journal_tells_everything_exactly(tmp_path):
    rng = np.random.default_rng(0)
    last = events.Alignment(
        "rotation",
        5,
        rng.standard_normal(3),
        rng.standard_normal(3),
        np.full((3, 3), np.inf),
        1 / 3,
        events.Status.DEGENERATE,
        7,
        5,
        1,
        9,
        100,
    )
    past = [history._Past(t, 2, rng.standard_normal(6), rng.standard_normal((6, 6)), np.zeros(3)) for t in (3, 5)]
    before = history.History(np.ones(3), tuple(past), 4)
    memory = events.alignment.Memory(last, rng.standard_normal((6, 6)), events.windows.Flow(1 / 3, 2 / 3), before)
    book = journal.Journal(tmp_path / "j", {"a": [1, (2, 3)]})
    with book.writing([], []) as lines:
        lines.add(last, memory)
        lines.add(last, None)  # the first of two halves: not to be taken up after it
    (back,), told = book.read()
    assert json.dumps(str(vars(back))) == json.dumps(str(vars(last)))
    again = journal.memory_of(back, told, np.ones(3))
    assert np.array_equal(again.shape, memory.shape)
    assert again.flow == memory.flow
    assert str(again.history) == str(before)
    kept = (tmp_path / "j").read_text()
    for old, new in (('"past": [', '"past": [7, '), ('"flow": [', '"flow": ["x", '), ('"shape": [', '"shape": [[], ')):
        assert old in kept
        (tmp_path / "j").write_text(kept.replace(old, new))
        (back,), told = book.read()
        with pytest.raises(InputError, match=r"damaged .* begin anew with --force"):
            journal.memory_of(back, told, np.ones(3))
    (tmp_path / "j").write_text(kept.replace('"n_events": 100', '"n_events": null'))
    assert book.read() == ([], [])
    (tmp_path / "j").write_text("7\n")
    with pytest.raises(InputError, match="begin anew with --force"):
        book.read()
