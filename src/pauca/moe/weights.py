"""Expert weights as the FP8 products take them: quantised per expert and output channel, in both orientations.

Forward sums over a matrix's inputs and backward over its outputs, and an FP8 operand must be contiguous along the sum.
The transposed codes are the same codes, shifted to a scale per expert: weights are quantised once.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Float8e4m3fn
from torch import Tensor

from pauca.moe import ops
from pauca.moe.formats import Fp8Tensor


@dataclass(frozen=True)
class Fp8Weights:
    """One matrix per expert, contiguous along `inputs`, the dimension that a product sums over."""

    values: Float8e4m3fn[Tensor, "experts outputs inputs"]
    scales: Float[Tensor, "experts outputs"]


def quantize_weights(weights: Float[Tensor, "experts outputs inputs"]) -> Fp8Tensor:
    """The codes that both orientations come from, one row per expert and output."""
    return ops.quantize_fp8_rowwise(weights.flatten(0, 1).bfloat16())


def forward_weights(codes: Fp8Tensor, experts: int) -> Fp8Weights:
    """The operand of a forward product."""
    return Fp8Weights(codes.values.unflatten(0, (experts, -1)), codes.scales_float32().view(experts, -1))


def backward_weights(codes: Fp8Tensor, experts: int) -> Fp8Weights:
    """The operand of the gradient of the inputs."""
    outputs = codes.shape[0] // experts
    ends = torch.arange(1, experts + 1, device=codes.codes.device, dtype=torch.int32) * outputs
    columns = ops.fp8_rows_to_columns(codes, ends)
    return Fp8Weights(columns.values.unflatten(1, (experts, -1)).transpose(0, 1), columns.scales_float32())


def prepare_weights(
    gate_up: Float[Tensor, "experts twice_width hidden"], down: Float[Tensor, "experts hidden width"]
) -> list[Tensor]:
    """Both orientations of both matrices, as plain tensors: what `WeightSource` takes to make nothing itself."""
    tensors = []
    for weights in (gate_up, down):
        codes = quantize_weights(weights)
        for operand in (forward_weights(codes, len(weights)), backward_weights(codes, len(weights))):
            tensors += [operand.values, operand.scales]
    return tensors


@dataclass(frozen=True)
class WeightSource:
    """The FP8 operands of a bank, from `prepare_weights` where that was called, else made on each request."""

    gate_up: Tensor
    down: Tensor
    prepared: list[Tensor]

    def forward(self, name: str) -> Fp8Weights:
        if self.prepared:
            return self._prepared(name, 0)
        weights = getattr(self, name)
        return forward_weights(quantize_weights(weights), len(weights))

    def backward(self, name: str) -> Fp8Weights:
        if self.prepared:
            return self._prepared(name, 2)
        weights = getattr(self, name)
        return backward_weights(quantize_weights(weights), len(weights))

    def _prepared(self, name: str, at: int) -> Fp8Weights:
        start = {"gate_up": 0, "down": 4}[name] + at
        return Fp8Weights(*self.prepared[start : start + 2])
