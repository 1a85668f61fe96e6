"""Second derivatives, which products in few bits do not have, are refused in words."""

from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
from torch import Tensor

from pauca.errors import PaucaError


def first_derivative_only(backward: Callable[..., tuple]) -> Callable[..., tuple]:
    """Wrap the backward of a `Function`: what it gives may be used, but a derivative of it is an error.

    Also where torch's `once_differentiable` gives a constant, whose derivative is 0 in silence: when the gradient that
    comes in needs none itself, as that of a sum.
    """

    @wraps(backward)
    def refusing(ctx: Any, *gradients: Tensor) -> tuple:
        with torch.no_grad():
            found = backward(ctx, *gradients)
        if not torch.is_grad_enabled():  # the usual case: no graph of backward is wanted
            return found
        return tuple(None if one is None else _Refusal.apply(one.detach().requires_grad_()) for one in found)

    return refusing


class _Refusal(torch.autograd.Function):
    @staticmethod
    def forward(ctx, gradient: Tensor) -> Tensor:
        return gradient.view_as(gradient)

    @staticmethod
    def backward(ctx, *gradients: Tensor) -> Tensor:
        raise PaucaError(
            "experts and quantized layers have no second derivatives (gradient penalties, Hessians): differentiate "
            "their output once, or leave these layers out with torch.no_grad"
        )
