"""Both trainings under torchrun, as they are typed: on two GPUs, or on two processes of a CPU."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

MOE = (
    "moe train --data text.txt --recipe fp8 --context 32 --batch-size 4 --steps 4 --validate-every 2 "
    "--checkpoint-every 2 --log-every 1 --health-every 2 --out run --quiet"
)
FEWSHOT = (
    "fewshot train glyphs --backbone conv4-32 --image-size 16 --channels 1 --way 3 --shot 1 --query 2 "
    "--steps 4 --episodes-per-step 4 --validate-every 2 --validation-shot 1 --validation-episodes 20 --out run --quiet"
)
DEVICES = [
    pytest.param("cpu", marks=pytest.mark.slow),
    pytest.param(
        "cuda", marks=[pytest.mark.gpu, pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA GPUs")]
    ),
]


def start(words: str, folder: Path) -> subprocess.Popen[str]:
    (folder / "text.txt").write_text("".join(f"{number} plus {number} is {2 * number}. " for number in range(400)))
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    return subprocess.Popen(
        [*launcher, "-m", "pauca.cli", *words.split()],
        cwd=folder,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("command", [MOE, MOE + " --ep 2", FEWSHOT], ids=["moe", "moe, experts", "fewshot"])
def test_two_processes_train_and_leave_together(command, device, tmp_path):
    process = start(f"{command} --device {device}", tmp_path)
    _, errors = process.communicate(timeout=500)
    assert process.returncode == 0, errors[-3000:]
    assert "SIGABRT" not in errors
    assert (tmp_path / "run" / "report.html").exists()
    assert (tmp_path / "run" / "checkpoints" / "best.safetensors").exists()
    again = start(f"{command} --device {device} --resume", tmp_path)
    _, errors = again.communicate(timeout=500)
    assert again.returncode == 0, errors[-3000:]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "hanging"])
@pytest.mark.parametrize("command", [MOE, FEWSHOT], ids=["moe", "fewshot"])
def test_one_that_stops_ends_the_other_with_one_line(command, how, device, tmp_path):
    """Within the timeout, naming the checkpoint to go on from; torchrun's own summary comes after it."""
    words = command.replace("--steps 4", "--steps 100000").replace("-every 2", "-every 20")
    minutes = 0.2 if device == "cpu" else 1  # on a GPU, the first step compiles
    process = start(f"{words} --device {device} --timeout {minutes}", tmp_path)
    checkpoints = tmp_path / "run" / "checkpoints"
    until = time.monotonic() + 300
    while not any(checkpoints.glob("step-*")):
        assert time.monotonic() < until
        assert process.poll() is None, process.communicate()[1][-3000:]
        time.sleep(0.2)
    os.kill(_ranks(process.pid)[-1], how)
    _, errors = process.communicate(timeout=200)
    assert process.returncode != 0
    said = [line for line in errors.splitlines() if line.startswith("pauca: rank 0")]
    assert len(said) == 1, errors[-3000:]
    assert "run/checkpoints/" in said[0]
    assert not [line for line in errors.splitlines() if "gloo" in line or "unexpected error" in line]


def _ranks(launcher: int) -> list[int]:
    """The processes that a launcher has started, in the order of their ranks."""
    children = Path(f"/proc/{launcher}/task/{launcher}/children").read_text().split()
    return sorted(map(int, children))
