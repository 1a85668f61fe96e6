"""Every kernel compiles for Hopper (sm_90) with the arguments that it gets, without a GPU, and stays in registers."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch

triton = pytest.importorskip("triton")
from triton.backends.compiler import GPUTarget  # noqa: E402
from triton.runtime import JITFunction, driver  # noqa: E402

from pauca.events import DAVIS240C, AlignConfig, Aligner  # noqa: E402
from pauca.events.device import kernels  # noqa: E402
from pauca.events.device.engine import Engine  # noqa: E402

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(triton.knobs.runtime.interpret, reason="the interpreter compiles nothing"),
]

CONFIGS = {"default": AlignConfig(), "translation": AlignConfig(motion="translation"), "paper": AlignConfig.paper()}


class Hopper:
    """In place of Triton's driver of the GPU that is here."""

    def get_current_device(self) -> int:
        return -1  # what is compiled for it is not kept for another

    def get_current_stream(self, device: int) -> int:
        return 0

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", 90, 32)


@pytest.fixture
def compiled(monkeypatch):
    """Kernels by name and options; instead of being launched, they are compiled."""
    found, run = {}, JITFunction.run

    def compile_alone(self, *args, grid, warmup, **options):
        kernel = run(self, *args, grid=grid, warmup=True, **options)
        found[self.fn.__name__, kernel.hash] = kernel.asm["ptx"]

    monkeypatch.setattr(JITFunction, "run", compile_alone)
    monkeypatch.setattr(Engine, "_kernels", kernels)
    monkeypatch.setattr(driver, "_active", Hopper())
    return found


@pytest.mark.parametrize("name", CONFIGS)
def test_kernels_compile(compiled, name):
    scorers = Aligner(DAVIS240C, CONFIGS[name]).scorers
    engine = Engine(torch.device("cpu"), DAVIS240C, scorers, 1, 2_000)
    for parts in (0, 1):
        engine.answer(np.array([[0, parts, 0, 1_500, 0, *np.zeros(6)]]))
    source = "".join(each.read_text("utf-8") for each in Path(kernels.__file__).parent.glob("*.py"))
    assert {kernel for kernel, _ in compiled} == set(re.findall(r"^def (\w+_kernel)\(", source, re.MULTILINE))
    for (kernel, _), ptx in compiled.items():
        assert ".target sm_90" in ptx
        assert ".local" not in ptx, "an array went to local memory"
        if kernel == "vote_kernel":
            assert "red." in ptx or "atom." in ptx
