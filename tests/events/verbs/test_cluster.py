"""Workers of a cluster that come and go, without a cluster: what Dask does to a task is done by hand."""

import asyncio
import sys
import threading
import time
from concurrent.futures import CancelledError, Executor, Future
from contextlib import nullcontext
from types import SimpleNamespace

import pytest

from pauca import cli
from pauca.errors import ConfigError, InputError, PaucaError
from pauca.events.verbs import cluster, many
from pauca.events.verbs.aligning import JOURNAL, RESULTS

from .test_align import _interrupted_after, _several, _status, recording, whole  # noqa: F401 - fixtures


def _run(recording, out, monkeypatch):  # noqa: F811
    """The run of a recording, as `pauca events align` makes it."""
    runs = []
    monkeypatch.setattr(many.AlignRun, "align", lambda run: runs.append(run))
    assert cli.main(["events", "align", str(recording), "--out", str(out), "--images", "0", "--quiet"]) == 0
    monkeypatch.undo()
    return runs[0]


def test_another_worker_goes_on_where_a_lost_one_ended(recording, whole, tmp_path, monkeypatch):  # noqa: F811
    run = _run(recording, tmp_path / "out", monkeypatch)
    with monkeypatch.context() as patch:
        _interrupted_after(patch, 3)
        with pytest.raises(KeyboardInterrupt):
            cluster.align_on_worker(many._align, run)
    with pytest.raises(InputError, match="exists already"):
        many._align(run)
    known, before = [], many.AlignRun._packets
    monkeypatch.setattr(many.AlignRun, "_packets", lambda *given: known.extend(given[5]) or before(*given))
    for _ in range(2):  # the second: the worker was lost with a result that nobody had fetched
        cluster.align_on_worker(many._align, run)
        assert (tmp_path / "out" / "trajectory.csv").read_bytes() == (whole / "trajectory.csv").read_bytes()
        assert not (tmp_path / "out" / JOURNAL).exists()
        assert len(known) == 3


def test_results_that_are_there_are_not_replaced_by_a_cluster(recording, tmp_path, monkeypatch, capsys):  # noqa: F811
    there = tmp_path / "out" / "a" / RESULTS[0]
    there.parent.mkdir(parents=True)
    there.write_text("mine")
    engine = _Engine(lambda run: ("", 1.0))
    monkeypatch.setattr(many, "cluster", lambda _: nullcontext(engine))
    assert cli.main([*_several(recording, tmp_path), "--dask", "tcp://127.0.0.1:1"]) == 1
    assert there.read_text() == "mine"
    assert "exists already" in capsys.readouterr().err
    assert _status(tmp_path) == ["failed", "done", "done"]


def test_a_journal_of_before_is_gone_on_with_by_resume_alone(recording, tmp_path, monkeypatch):  # noqa: F811
    """A cluster took it for what a lost worker had begun: "was begun with another setting; resume it ..."."""
    before = tmp_path / "out" / "a" / JOURNAL
    before.parent.mkdir(parents=True)
    command, given = [*_several(recording, tmp_path), "--dask", "tcp://127.0.0.1:1"], {}

    def align(run):
        given[run.path.stem] = (run.resume, run.force)
        return "", 1.0

    monkeypatch.setattr(many, "cluster", lambda _: nullcontext(_Engine(align)))
    for option, expected in ([], (False, True)), (["--resume"], (True, False)):
        before.write_text("{}")
        assert cli.main([*command, *option]) == 0
        assert given == {"a": expected, "b": (False, False), "broken": (False, False)}


def test_threads_of_a_worker_align_one_after_the_other():
    inside, most = [], []

    def align(run):
        inside.append(id(run))
        most.append(len(inside))
        time.sleep(0.02)
        inside.remove(id(run))
        return "", 0.0

    runs = [object.__new__(many.AlignRun) for _ in range(4)]
    for run in runs:
        run.force = True
    threads = [threading.Thread(target=cluster.align_on_worker, args=(align, run)) for run in runs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1, 1, 1, 1]


class _Engine(Executor):
    """Brings what a function says of each run: a result or an error."""

    def __init__(self, of):
        self._of = of

    def submit(self, fn, run):
        future, brought = Future(), self._of(run)
        if isinstance(brought, BaseException):
            future.set_exception(brought)
        else:
            future.set_result(brought)
        return future


class KilledWorker(Exception):
    """As Dask's, by name."""


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (KilledWorker("task", 4), "ended in the middle"),
        (CancelledError(), "the scheduler of Dask is gone"),
        (asyncio.CancelledError(), "the scheduler of Dask is gone"),
        (ModuleNotFoundError("No module named 'pauca'"), "install pauca where the workers are"),
        (ZeroDivisionError("by zero"), "unexpected error on a worker: ZeroDivisionError: by zero"),
    ],
)
def test_what_fails_on_a_worker_fails_its_recording_alone(error, said, recording, tmp_path, monkeypatch, capsys):  # noqa: F811
    engine = _Engine(lambda run: error if run.path.name == "a.npz" else ("", 1.0))
    monkeypatch.setattr(many, "cluster", lambda _: nullcontext(engine))
    assert cli.main([*_several(recording, tmp_path), "--dask", "tcp://127.0.0.1:1"]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert said in lines[0]
    assert _status(tmp_path) == ["failed", "done", "done"]


def test_where_all_fail_no_others_are_done(tmp_path, recording, monkeypatch, capsys):  # noqa: F811
    engine = _Engine(lambda run: CancelledError())
    monkeypatch.setattr(many, "cluster", lambda _: nullcontext(engine))
    assert cli.main([*_several(recording, tmp_path), "--dask", "tcp://127.0.0.1:1"]) == 1
    assert capsys.readouterr().err.splitlines()[-1] == "pauca: 3 of 3 recordings failed"


class _Client:
    """A client of a scheduler that no worker joins, or from which all are gone."""

    workers = 0

    def __init__(self, *_, **__):
        pass

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def get_executor(self, **_):
        return nullcontext("engine")

    def wait_for_workers(self, *_, **__):
        if not self.workers:
            raise TimeoutError

    def nthreads(self):
        return {}


def test_a_scheduler_without_workers_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", SimpleNamespace(Client=_Client))
    with pytest.raises(PaucaError, match="the scheduler has no workers"), cluster.cluster("tcp://127.0.0.1:8786"):
        pass
    with pytest.raises(ConfigError, match="expected one such as"), cluster.cluster("127.0.0.1"):
        pass


def test_that_the_last_worker_is_gone_is_said_once(monkeypatch, capsys):
    client = type("Client", (_Client,), {"workers": 1})
    monkeypatch.setitem(sys.modules, "distributed", SimpleNamespace(Client=client))
    monkeypatch.setattr(cluster, "_ASK_S", 0.01)
    with cluster.cluster("tcp://127.0.0.1:8786") as engine:
        assert engine == "engine"
        time.sleep(0.2)
    assert capsys.readouterr().err == "pauca: tcp://127.0.0.1:8786: no worker is left; waiting for one\n"
