"""Which tensor is the first that is not finite: a weight, an activation in the order of forward, or a gradient."""

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, nn

from pauca.errors import PaucaError


@torch.no_grad()
def first_not_finite(model: nn.Module, forward: Callable[[], Any] | None = None) -> str:
    """Say in words where a loss or a gradient that is not finite comes from.

    Args:
        model: with the weights that were used, and the gradients, as backward left them.
        forward: repeats the forward in question; without it activations are not looked at.
    """
    for name, weight in model.named_parameters():
        if not weight.isfinite().all():
            return f"weights: {name}"
    found = _first_activation(model, forward) if forward is not None else ""
    if found:
        return f"activations: the output of {found}"
    for name, weight in reversed(list(model.named_parameters())):  # backward comes to the last layer first
        if weight.grad is not None and not weight.grad.isfinite().all():
            return f"gradients: {name}"
    return "every tensor is finite, but a sum overflows"


def _first_activation(model: nn.Module, forward: Callable[[], Any]) -> str:
    found: list[str] = []

    def watch(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def look(module: nn.Module, inputs: Any, output: Any) -> None:
            if not found and _is_bad(output):
                found.append(name)

        return look

    hooks = [module.register_forward_hook(watch(name or "the model")) for name, module in model.named_modules()]
    try:
        with suppress(PaucaError):  # a head that refuses features that are not finite: we know
            forward()
    finally:
        for hook in hooks:
            hook.remove()
    return found[0] if found else ""


def _is_bad(value: Any) -> bool:
    if isinstance(value, Tensor):
        return value.is_floating_point() and not bool(value.isfinite().all())
    return any(map(_is_bad, vars(value).values())) if hasattr(value, "__dataclass_fields__") else False
