"""The tutorial shows what its commands print."""

import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_the_tutorial_shows_what_its_commands_print_now():
    script = REPOSITORY / "benchmarks" / "events_tutorial.py"
    done = subprocess.run([sys.executable, str(script), "--check"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
