"""What the compiler is told: that it still spares bytes, in the version of torch at hand."""

import os
import subprocess
import sys

import pytest

from pauca.fewshot.training.compiled import compiled

MOVED = """
import torch
from torch import nn
from torch._inductor.graph import GraphLowering
from pauca.fewshot.backbones import _ResidualBlock
from pauca.fewshot.training import compiled

moved, codegen = [], GraphLowering.codegen

def counted(graph):
    code = codegen(graph)
    moved.append(graph.count_bytes()[0])
    return code

GraphLowering.codegen = counted
for options in ({}, compiled.OPTIONS):
    compiled.OPTIONS = options
    torch.compiler.reset()
    block = _ResidualBlock(16, 16, nn.Identity()).to(memory_format=torch.channels_last)
    maps = torch.zeros(4, 16, 16, 16).to(memory_format=torch.channels_last).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        compiled.compiled(block, "default", False)(maps).sum().backward()
print(*moved)
"""


def test_nothing_is_compiled_where_nothing_should_be():
    assert compiled(len, "off", on_gpu=True) is len
    assert compiled(len, "auto", on_gpu=False) is len


@pytest.mark.slow
def test_a_residual_block_moves_fewer_bytes_in_both_directions():
    """In a process of its own, because the compiler cannot trace the type checks that tests run with; and without the
    caches of earlier runs, from which a graph comes without being counted."""
    command, uncached = [sys.executable, "-c", MOVED], {**os.environ, "TORCHINDUCTOR_FORCE_DISABLE_CACHES": "1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, env=uncached)
    assert done.returncode == 0, done.stderr[-2000:]
    forward, backward, our_forward, our_backward = map(float, done.stdout.split())
    assert our_forward < 0.9 * forward
    assert our_backward < 0.8 * backward
