"""The suite runs the same beside pytest plugins that other packages bring."""

import multiprocessing
import os
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from hypothesis import settings

REPOSITORY = Path(__file__).resolve().parent.parent


def test_a_foreign_plugin_that_warns_does_not_stop_the_suite(tmp_path):
    """pytest-benchmark warned at configuration when xdist ran beside it; with warnings as errors nothing was tested."""
    (tmp_path / "foreign_plugin.py").write_text(
        "import warnings\n\ndef pytest_configure(config):\n    warnings.warn('disabled beside xdist')\n"
    )
    metadata = tmp_path / "foreign-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: foreign\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text("[pytest11]\nforeign = foreign_plugin\n")
    path = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    result = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "tests/test_plugins.py", "-k", "trivial"],
        cwd=REPOSITORY,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert "1 passed" in result.stdout


def test_processes_that_tests_start_find_the_tests():
    """Under plain pytest a process could not import what it was to call, and a pool waited for it forever."""
    result = subprocess.run(
        [sys.executable, "-P", "-m", "pytest", "-q", "tests/test_plugins.py", "-k", "another_process"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert "1 passed" in result.stdout, result.stdout + result.stderr


def test_another_process_calls_a_function_of_the_tests():
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        assert pool.submit(_answer).result() == 42


def _answer() -> int:
    return 42


def test_trivial():
    """What the test above runs."""


def test_generated_examples_have_no_deadline_but_what_a_test_asks_for():
    assert settings.default is not None
    assert settings.default.deadline is None
    assert settings.default.derandomize or "CI" not in os.environ
