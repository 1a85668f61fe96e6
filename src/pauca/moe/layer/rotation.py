"""Channels rotated in blocks of 32, so that no outlier is alone in the block whose scale it sets.

A Hadamard transform spreads each channel over the 32 of its block. Experts' input and FC1's weights are rotated
alike, so that their product stays what it was; the rotated input is what is quantized, kept and sent. All factors are
powers of two: 1/4 on one side and 1/8 on the other undo the 32 that two transforms multiply by.
"""

from functools import cache

import torch
from jaxtyping import BFloat16, Float
from torch import Tensor

from pauca.moe.layer.weights import is_capturing

BLOCK = 32
INPUT_FACTOR, WEIGHT_FACTOR = 2**-2, 2**-3


def rotate_input(x: Float[Tensor, "*rows channels"]) -> BFloat16[Tensor, "*rows channels"]:
    """Tokens as the experts' products take them; differentiable."""
    return _rotated(x, INPUT_FACTOR)


def rotate_weights(gate_up: Float[Tensor, "*rows channels"]) -> BFloat16[Tensor, "*rows channels"]:
    """FC1's weights, likewise: a copy in BF16."""
    return _rotated(gate_up, WEIGHT_FACTOR)


def _rotated(values: Tensor, factor: float) -> Tensor:
    return _in_one_step(values, factor) if torch.compiler.is_compiling() else _rotate(values, factor)


def _rotate(values: Tensor, factor: float) -> Tensor:
    matrix = _matrix(values.device) * factor
    blocks = values.bfloat16().unflatten(-1, (-1, BLOCK))
    if values.device.type == "cpu":  # the same arithmetic, and much faster there
        return (blocks.float() @ matrix.float()).bfloat16().flatten(-2)
    return (blocks @ matrix).flatten(-2)


# A compiler would leave out roundings in between, and tip codes of four bits over.


@torch.library.custom_op("pauca::rotate", mutates_args=())
def _in_one_step(values: Tensor, factor: float) -> Tensor:
    return _rotate(values, factor)


@_in_one_step.register_fake
def _(values: Tensor, factor: float) -> Tensor:
    return values.new_empty(values.shape, dtype=torch.bfloat16)


def _remember(ctx, inputs: tuple[Tensor, float], output: Tensor) -> None:
    ctx.dtype, ctx.factor = inputs[0].dtype, inputs[1]


def _backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:
    return _in_one_step(gradient, ctx.factor).to(ctx.dtype), None  # the matrix is symmetric


_in_one_step.register_autograd(_backward, setup_context=_remember)


def _matrix(device: torch.device) -> Tensor:
    """Not remembered from where it would be part of a graph."""
    return _hadamard(device) if is_capturing() else _remembered(device)


@cache
def _remembered(device: torch.device) -> Tensor:
    with torch.inference_mode(False):
        return _hadamard(device)


def _hadamard(device: torch.device) -> BFloat16[Tensor, "32 32"]:
    """-1 where row and column share an odd number of bits, else 1; symmetric."""
    number = torch.arange(BLOCK, device=device)
    odd = number[:, None] & number
    for shift in (4, 2, 1):
        odd = odd ^ (odd >> shift)
    return (1 - 2 * (odd & 1)).bfloat16()
