"""What a layer must know of `torch.utils.checkpoint`: whether a forward is a repetition, and its balancing loss.

A checkpoint runs forward a second time within backward. Tokens are not counted again then. And a reentrant checkpoint
(`use_reentrant=True`) runs the first forward without gradients: a balancing loss that is read from the layer would have
none, in silence. So that loss is given a node of its own, which keeps the gradient that arrives there (backward comes
to the loss's end before it comes to the checkpoint), and the repetition puts it into its own graph.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd import Variable
from torch.autograd.function import once_differentiable

from pauca.errors import PaucaError


def is_repetition() -> bool:
    """Whether this forward runs within a backward: as a checkpoint repeats it."""
    return torch._C._current_graph_task_id() != -1


class BalanceGradients:
    """One layer's gradients of balancing losses, which wait for the repetition of their forward.

    Backward takes forwards in reverse order, losses and repetitions alike, so first come is first served.
    """

    def __init__(self) -> None:
        self.waiting: list[Tensor] = []

    @torch.compiler.disable()  # as of a compiled repetition, the engine cannot be asked
    def of_later(self, loss: Float[Tensor, ""]) -> Float[Tensor, ""]:
        """The loss of a forward without gradients, differentiable."""
        if not is_repetition():
            self.waiting.clear()  # of a backward that has failed
        with torch.enable_grad():
            return _Later.apply(torch.zeros((), device=loss.device, requires_grad=True), loss, self)

    def add(self, y: Tensor, loss: Float[Tensor, ""]) -> Tensor:
        """`y`, whose backward passes on to `loss` the gradient that has come for it, if one has."""
        return _Add.apply(y, loss, self.waiting.pop(0)) if self.waiting else y


class _Later(torch.autograd.Function):
    @staticmethod
    def forward(ctx, anchor: Tensor, loss: Tensor, gradients: BalanceGradients) -> Tensor:
        ctx.gradients = gradients
        return loss.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx, *gradients: Tensor) -> tuple[None, None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        (gradient,), waiting = gradients, ctx.gradients.waiting
        waiting.append(gradient)

        def require_use() -> None:
            if any(other is gradient for other in waiting):
                waiting.clear()
                raise PaucaError(
                    "the balancing loss of a forward under torch.no_grad, or under checkpoint(use_reentrant=True), got "
                    "a gradient, but no backward of the layer's output came with it, or the layer is compiled: add the "
                    "loss to the model's before backward, or use checkpoint(use_reentrant=False)"
                )

        engine: Any = Variable._execution_engine
        engine.queue_callback(require_use)  # at the end of backward
        return None, None, None


class _Add(torch.autograd.Function):
    @staticmethod
    def forward(ctx, y: Tensor, loss: Tensor, gradient: Tensor) -> Tensor:
        ctx.save_for_backward(gradient)
        return y.view_as(y)

    @staticmethod
    @once_differentiable
    def backward(ctx, *gradients: Tensor) -> tuple[Tensor, Tensor, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        (gradient,) = ctx.saved_tensors
        return gradients[0], gradient, None
