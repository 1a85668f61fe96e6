import os
import subprocess
import sys

import pytest

from pauca.runs import threads


@pytest.mark.parametrize(("limit", "cores"), [("max 100000", None), ("150000 100000", 2), ("50000 100000", 1)])
def test_the_share_of_a_container_is_read(tmp_path, limit, cores):
    (tmp_path / "cpu.max").write_text(limit)
    assert threads._quota((tmp_path / "cpu.max", tmp_path / "none")) == cores


@pytest.mark.parametrize(("limit", "cores"), [("-1", None), ("400000", 4)])
def test_the_share_of_an_older_container_is_read(tmp_path, limit, cores):
    (tmp_path / "cpu.cfs_quota_us").write_text(f"{limit}\n")
    (tmp_path / "cpu.cfs_period_us").write_text("100000\n")
    assert threads._quota((tmp_path / "none", tmp_path / "cpu.cfs_quota_us")) == cores


def test_no_limit_is_known_elsewhere(tmp_path):
    assert threads._quota((tmp_path / "none", tmp_path / "none")) is None
    assert 1 <= threads.usable_cores() <= (os.cpu_count() or 1)


def test_threads_wait_asleep_and_fit_the_share(monkeypatch):
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    monkeypatch.setattr(threads, "_visible_cores", lambda: 64)
    monkeypatch.setattr(threads, "_quota", lambda files: 2)
    environment: dict[str, str] = {}
    threads.share_processors(environment)
    assert (environment["OMP_WAIT_POLICY"], environment["OMP_NUM_THREADS"]) == ("passive", "2")
    chosen = {"OMP_WAIT_POLICY": "active", "OMP_NUM_THREADS": "7"}
    threads.share_processors(chosen)
    assert chosen == {"OMP_WAIT_POLICY": "active", "OMP_NUM_THREADS": "7"}


def test_the_command_line_sets_it_before_torch_is_imported():
    code = (
        "import sys; from pauca import cli; cli.main(['doctor', '--json']); import os; "
        "print(os.environ['OMP_WAIT_POLICY'], file=sys.stderr)"
    )
    environment = {name: value for name, value in os.environ.items() if not name.startswith("OMP_")}
    result = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert result.stderr.strip() == "passive"


@pytest.mark.parametrize(("operations", "expected"), [(1e9, 1), (25e9, 2), (1e15, 8)])
def test_threads_fit_the_work(monkeypatch, operations, expected):
    torch, set_to = pytest.importorskip("torch"), []
    monkeypatch.setattr(torch, "get_num_threads", lambda: 8)
    monkeypatch.setattr(torch, "set_num_threads", set_to.append)
    threads.fit_threads(operations, {})
    assert set_to == [expected]
    threads.fit_threads(operations, {"OMP_NUM_THREADS": "7"})  # the user's
    assert set_to == [expected]
