"""The kernels over events in Triton's interpreter, on any machine.

Triton looks at TRITON_INTERPRET when it is imported, so the tests run in a process of their own.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton")


HERE = Path(__file__).parent


@pytest.mark.slow
@pytest.mark.parametrize(
    "tests",
    [[HERE / "test_against_reference.py"], [HERE.parent / "test_align.py", "-k", "interpreter"]],
    ids=["kernels", "packets"],
)
def test_kernels_agree_in_the_interpreter(tests):
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-W", "ignore::RuntimeWarning", *map(str, tests)]
    environment = os.environ | {"TRITON_INTERPRET": "1"}
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    assert "passed" in run.stdout
