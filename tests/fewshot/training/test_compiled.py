"""What the compiler is told: that it still spares bytes, in the version of torch at hand."""

import os
import subprocess
import sys

import pytest
import torch

from pauca.fewshot.training.compiled import compiled

COUNTED = """
import torch
from torch import nn
from torch._inductor.graph import GraphLowering

moved, codegen = [], GraphLowering.codegen

def counted(graph):
    code = codegen(graph)
    moved.append(graph.count_bytes()[0])
    return code

GraphLowering.codegen = counted
"""

MOVED = """
from pauca.fewshot.backbones import _ResidualBlock
from pauca.fewshot.training import compiled

for options in ({}, compiled.OPTIONS):
    compiled.OPTIONS = options
    torch.compiler.reset()
    block = _ResidualBlock(16, 16, nn.Identity()).to(memory_format=torch.channels_last)
    maps = torch.zeros(4, 16, 16, 16).to(memory_format=torch.channels_last).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        compiled.compiled(block, "default", False)(maps).sum().backward()
print(*moved)
"""

OF_HEADS = """
from pauca.fewshot.latent import LatentConfig, LatentStem, Posterior
from pauca.fewshot.training.compiled import compiled

def by_autograd(posterior):
    mu, log_sigma = posterior.mu.float(), posterior.log_sigma.float()
    return 0.5 * (mu.square() + (2 * log_sigma).exp() - 2 * log_sigma - 1).mean()

def loss(images):
    posterior = stem.posterior(images)
    return after(posterior.sample()).float().square().mean() + kl(posterior)

for kl in (by_autograd, Posterior.kl_to_standard_normal):
    torch.compiler.reset()
    stem = LatentStem(3, LatentConfig(mode="variational")).to(memory_format=torch.channels_last)
    after = nn.Conv2d(64, 64, 3, padding=1).to(memory_format=torch.channels_last)
    images = torch.zeros(2, 3, 16, 16).to(memory_format=torch.channels_last)
    with torch.autocast("cpu", torch.bfloat16):
        compiled(loss, "default", False)(images).backward()
print(moved[1], moved[3])
"""


# What a CPU's compiler moves: that of torch 2.11 otherwise, though a GPU gains by it as well.
COUNTS = pytest.mark.skipif(torch.__version__ < (2, 13), reason="counts are those of torch 2.13")


def test_nothing_is_compiled_where_nothing_should_be():
    assert compiled(len, "off", on_gpu=True) is len
    assert compiled(len, "auto", on_gpu=False) is len


@COUNTS
@pytest.mark.slow
def test_a_residual_block_moves_fewer_bytes_in_both_directions():
    forward, backward, our_forward, our_backward = _bytes_moved(MOVED)
    assert our_forward < 0.9 * forward
    assert our_backward < 0.8 * backward


@COUNTS
@pytest.mark.slow
def test_the_gradient_of_the_heads_is_not_copied_into_another_layout():
    by_autograd, ours = _bytes_moved(OF_HEADS)
    one_copy = 2 * 2 * (2 * 128 * 16 * 16)  # read and written, in bfloat16
    assert ours == by_autograd - one_copy


def _bytes_moved(script: str) -> list[float]:
    """In a process of its own, because the compiler cannot trace the type checks that tests run with; and without the
    caches of earlier runs, from which a graph comes without being counted."""
    command = [sys.executable, "-c", COUNTED + script]
    uncached = {**os.environ, "TORCHINDUCTOR_FORCE_DISABLE_CACHES": "1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, env=uncached)
    assert done.returncode == 0, done.stderr[-2000:]
    return [float(word) for word in done.stdout.split()]
