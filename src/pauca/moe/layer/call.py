"""One call of a layer's experts as one record, and how autograd carries it from forward to backward."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from pauca.moe.layer.kept import KeptFormats, kept_formats
from pauca.moe.layer.permutation import Permutation
from pauca.moe.layer.recipe import Recipe, Recompute
from pauca.moe.layer.weights import WeightSource
from pauca.moe.ops.gates import Gate


@dataclass(frozen=True)
class ExpertCall:
    """What both passes of one call are given besides the tokens: weights, routing and numerics.

    `tensors` takes it apart for those who know tensors alone, autograd and `torch.library`; `of` puts it together.
    """

    gate_up: Tensor  # [experts, 2 width, hidden]
    down: Tensor  # [experts, hidden, width]
    probabilities: Tensor  # FP32 [tokens, top_k]
    permutation: Permutation
    prepared: list[Tensor]  # `prepare_weights`, or nothing
    recipe_text: str  # `Recipe.to_json()`: a constant to `torch.compile`
    recompute: Recompute
    gate_text: str = ""  # `Gate.to_json()`; SwiGLU if empty
    gate_up_bias: Tensor | None = None  # [experts, 2 width], where the gate is `biased`

    def tensors(self) -> list[Tensor]:
        """All tensors, those that have gradients first: `gate_up`, `down`, `probabilities` and the bias, if any."""
        bias = [] if self.gate_up_bias is None else [self.gate_up_bias]
        return [self.gate_up, self.down, self.probabilities, *bias, *self.permutation.tensors(), *self.prepared]

    @classmethod
    def of(cls, tensors: Sequence[Tensor], recipe_text: str, recompute: Any, gate_text: str = "") -> "ExpertCall":
        """The record from its `tensors`."""
        gate_up, down, probabilities, *others = tensors
        bias = others.pop(0) if Gate.from_json(gate_text).biased else None
        permutation, prepared = Permutation(*others[:4]), others[4:]
        return cls(gate_up, down, probabilities, permutation, prepared, recipe_text, recompute, gate_text, bias)

    @property
    def recipe(self) -> Recipe:
        return Recipe.from_json(self.recipe_text)

    @property
    def gate(self) -> Gate:
        return Gate.from_json(self.gate_text)

    @property
    def formats(self) -> KeptFormats:
        return kept_formats(self.recipe, self.recompute)

    @property
    def weights(self) -> WeightSource:
        return WeightSource(self.gate_up, self.down, self.prepared)

    def row_probability(self) -> Float[Tensor, " rows"]:
        """The router's weight of each row; 0 for padding."""
        # PADDING is -1: it names the last element, which is the zero put behind the probabilities.
        return torch.nn.functional.pad(self.probabilities.reshape(-1), (0, 1))[self.permutation.row_to_copy]


def remember(ctx: Any, call: ExpertCall, x: Any, kept: list[Tensor]) -> None:
    """Leave to backward, in autograd's context, a call and what its forward kept; `x` where that is kept as it came."""
    tensors = call.tensors()
    ctx.count, ctx.modes = len(tensors), (call.recipe_text, call.recompute, call.gate_text)
    ctx.set_materialize_grads(False)  # or backward would be given zeros as large as all that is kept
    ctx.save_for_backward(x if call.formats.own_input else None, *tensors, *kept)


def recall(ctx: Any) -> tuple[ExpertCall, Tensor | None, list[Tensor]]:
    """The call, its own input or None, and what forward kept: as `remember` left them."""
    x, *tensors = ctx.saved_tensors
    return ExpertCall.of(tensors[: ctx.count], *ctx.modes), x, tensors[ctx.count :]
