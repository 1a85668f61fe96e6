"""Expert weights as the FP8 products take them: quantized per expert and output channel, in both orientations.

Forward sums over a matrix's inputs and backward over its outputs, and an FP8 operand must be contiguous along the sum.
Forward's copy has a scale per output; backward's, whose outputs are the inputs, one per expert: the largest of
forward's, which forward hands on, so that each copy is made in one pass over the weights.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float, Float8e4m3fn, UInt8
from torch import Tensor

from pauca.errors import PaucaError
from pauca.moe import ops

Name = Literal["gate_up", "down"]


@dataclass(frozen=True)
class Fp8Weights:
    """One matrix per expert, contiguous along `inputs`, the dimension that a product sums over."""

    values: Float8e4m3fn[Tensor, "experts outputs inputs"]
    scales: Float[Tensor, "experts outputs"]


def forward_weights(
    weights: Float[Tensor, "experts outputs inputs"],
) -> tuple[Fp8Weights, UInt8[Tensor, " experts"]]:
    """The operand of a forward product, and the largest scale byte of each expert, for `backward_weights`."""
    codes = ops.quantize_fp8_rowwise(_rows(weights))
    count = len(weights)
    operand = Fp8Weights(codes.values.unflatten(0, (count, -1)), codes.scales_float32().view(count, -1))
    return operand, codes.scales.view(count, -1).amax(1)


def backward_weights(
    weights: Float[Tensor, "experts outputs inputs"], largest: UInt8[Tensor, " experts"]
) -> Fp8Weights:
    """The operand of the gradient of the inputs: [experts, inputs, outputs]."""
    count, outputs, _ = weights.shape
    ends = torch.arange(1, count + 1, device=weights.device, dtype=torch.int32) * outputs
    columns = ops.quantize_fp8_columns(_rows(weights), largest, ends)
    return Fp8Weights(columns.values.unflatten(1, (count, -1)).transpose(0, 1), columns.scales_float32())


def _rows(weights: Float[Tensor, "experts outputs inputs"]) -> Float[Tensor, "rows inputs"]:
    """All matrices as one, as the kernels take it: BF16 and FP32 as they are, FP16 and FP64 as BF16."""
    rows = weights.flatten(0, 1)
    return (rows if rows.dtype in (torch.bfloat16, torch.float32) else rows.bfloat16()).contiguous()


def prepare_weights(
    gate_up: Float[Tensor, "experts twice_width hidden"], down: Float[Tensor, "experts hidden width"]
) -> list[Tensor]:
    """Both orientations of both matrices, as plain tensors: what `WeightSource` takes to make nothing itself."""
    tensors = []
    for weights in (gate_up, down):
        forward, largest = forward_weights(weights)
        backward = backward_weights(weights, largest)
        tensors += [forward.values, forward.scales, largest, backward.values, backward.scales]
    return tensors


class FrozenWeights:
    """The FP8 copies of a bank's weights, and what shows that those have changed since."""

    def __init__(self, masters: tuple[Tensor, ...], gate_up: Tensor, down: Tensor) -> None:
        """Copies of `gate_up` and `down`, which are views of the `masters`, or made from them."""
        self._weights = masters
        self._marks = tuple(map(_mark, self._weights))
        with torch.inference_mode(False), torch.no_grad():  # a later pass may be one with gradients
            self.copies = prepare_weights(gate_up, down)
            self._samples = [_sample(weight) for weight in self._weights]

    def are_of(self, masters: tuple[Tensor, ...]) -> bool:
        """Whether these are the same tensors, at the same place, in the same version; costs nothing."""
        same = all(a is b for a, b in zip(masters, self._weights, strict=True))
        return same and tuple(map(_mark, self._weights)) == self._marks

    def require_of(self, masters: tuple[Tensor, ...]) -> None:
        """Refuse others than `are_of` means.

        Raises:
            PaucaError: they have changed.
        """
        if not self.are_of(masters):
            raise PaucaError("expert weights changed under frozen_weights(); leave it before the optimizer steps")

    @torch.no_grad()
    def have_changed(self) -> Bool[Tensor, ""]:
        """Whether values have, by a sample of them; on the device."""
        pairs = zip(self._weights, self._samples, strict=True)
        return torch.stack([(_sample(weight) != sample).any() for weight, sample in pairs]).any()


def is_capturing() -> bool:
    """Whether a CUDA graph is being recorded, in which there are no values yet."""
    return torch.cuda.is_available() and torch.cuda.is_current_stream_capturing()


def _mark(weight: Tensor) -> tuple[int, int | None]:
    """Where a tensor lies, and how often it has been changed in place by means that count."""
    return weight.data_ptr(), None if weight.is_inference() else weight._version


def _sample(weight: Tensor) -> Tensor:
    """The bits of some 4,000 elements, evenly spread."""
    values = weight.detach().flatten()
    step = max(1, len(values) // 4096) | 1  # odd: not one column alone
    return values[::step].clone().view(torch.int16 if weight.element_size() == 2 else torch.int32)


@dataclass(frozen=True)
class WeightSource:
    """The FP8 operands of a bank, from `prepare_weights` where that was called, else made on each request."""

    gate_up: Tensor
    down: Tensor
    prepared: list[Tensor]

    def forward(self, name: Name) -> tuple[Fp8Weights, UInt8[Tensor, " experts"]]:
        if self.prepared:
            values, scales, largest = self._prepared(name)[:3]
            return Fp8Weights(values, scales), largest.clone()  # torch: an operation's outputs are not its inputs
        return forward_weights(getattr(self, name))

    def backward(self, name: Name, largest: UInt8[Tensor, " experts"]) -> Fp8Weights:
        if self.prepared:
            return Fp8Weights(*self._prepared(name)[3:])
        return backward_weights(getattr(self, name), largest)

    def _prepared(self, name: Name) -> list[Tensor]:
        return self.prepared[:5] if name == "gate_up" else self.prepared[5:]
