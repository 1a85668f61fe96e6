"""The examples run as a reader would run them."""

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

EXAMPLES = sorted((Path(__file__).parent.parent / "examples").glob("*.py"))
ELSEWHERE = {"moe_torchtitan": "torchtitan"}
"""Examples for packages that pauca does not bring; they say so where those are missing."""


@pytest.mark.slow
@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_runs_and_prints(path, tmp_path):
    result = subprocess.run([sys.executable, path], cwd=tmp_path, capture_output=True, text=True, timeout=300)
    package = ELSEWHERE.get(path.stem)
    if package and find_spec(package) is None:
        (line,) = result.stderr.splitlines()
        assert result.returncode == 1
        assert f"needs {package}" in line
        assert "pip install" in line
    else:
        assert result.returncode == 0, result.stderr
        assert result.stdout.strip()


@pytest.mark.slow
def test_the_expert_parallel_example_runs_on_two_ranks(tmp_path):
    (path,) = (path for path in EXAMPLES if path.stem == "moe_expert_parallel")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", path]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    assert "mean loss of 2 rank(s)" in result.stdout


@pytest.mark.slow
def test_no_thread_of_gloo_outlives_the_expert_parallel_example():
    """Such a thread can abort the process while Python ends (torch 2.13), one time in many."""
    (path,) = (path for path in EXAMPLES if path.stem == "moe_expert_parallel")
    code = f"""
import pathlib, runpy, sys
names = runpy.run_path({str(path)!r})
print(*(file.read_text().strip() for file in pathlib.Path("/proc/self/task").glob("*/comm")), file=sys.stderr)
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    assert "gloo" not in result.stderr
