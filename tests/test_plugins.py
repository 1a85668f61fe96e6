"""The suite runs the same beside pytest plugins that other packages bring."""

import os
import subprocess
import sys
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


def test_trivial():
    """What the test above runs."""


def test_generated_examples_have_no_deadline_but_what_a_test_asks_for():
    assert settings.default is not None
    assert settings.default.deadline is None
    assert settings.default.derandomize or "CI" not in os.environ
