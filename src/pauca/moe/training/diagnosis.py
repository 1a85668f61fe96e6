"""Which tensor is the first that is not finite: of which layer, of which expert.

Weights are looked at first, because what is wrong with them spoils everything; then the activations, in the order of
forward; then the gradients, in the order of backward.
"""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from pauca.moe.layer.experts import Experts
from pauca.moe.layer.router import Routing
from pauca.moe.parallel.experts import ParallelExperts
from pauca.runs.processes import gather


@torch.no_grad()
def diagnose(model: nn.Module, forward: Callable[[], Any]) -> str:
    """Say in words where a loss or a gradient that is not finite comes from.

    Of several ranks that share the model all must call it.

    Args:
        model: with the weights that were used, and the gradients, as backward left them.
        forward: repeats the forward on the batch in question.
    """
    return _weights(model) or _activations(model, forward) or _gradients(model)


@torch.no_grad()
def largest_gradient(model: nn.Module) -> str:
    """The parameter (and expert) whose gradient is the largest, in words: where a loss that leaps up is driven from.

    Of several ranks that share the model all must call it.
    """
    # Each rank has the experts that are its own, and of all else the whole.
    norms = {name: norm for part in gather(dict(_norms(model))) for name, norm in part.items()}
    if not norms:
        return "there are no gradients"
    name = max(norms, key=lambda name: norms[name])
    total = sum(norm**2 for norm in norms.values()) ** 0.5
    return f"the largest gradient is that of {name} (norm {norms[name]:.3g} of {total:.3g} in all)"


def _weights(model: nn.Module) -> str:
    firsts = _first_experts(model)
    bad = [_bad_part(name, parameter, firsts) for name, parameter in model.named_parameters()]
    return _agree(next((f"weights: {where}" for where in bad if where), ""))


def _activations(model: nn.Module, forward: Callable[[], Any]) -> str:
    watch = _Watch()
    hooks = [hook for name, module in model.named_modules() for hook in watch.attach(name or "the model", module)]
    try:
        forward()  # to its end: other ranks may depend on this one
    finally:
        for hook in hooks:
            hook.remove()
    return _agree(watch.found)


class _Watch:
    """Hooks that note the first module whose input or output is not finite."""

    def __init__(self) -> None:
        self.found = ""

    def attach(self, name: str, module: nn.Module) -> Iterator[torch.utils.hooks.RemovableHandle]:
        def before(module: nn.Module, inputs: tuple) -> None:
            if not self.found and any(map(_is_bad, inputs)):
                self.found = f"activations: the input of {name}"

        def after(module: nn.Module, inputs: tuple, output: Any) -> None:
            if not self.found and _is_bad(output.probabilities if isinstance(output, Routing) else output):
                # Experts that are divided over ranks answer only if all of them ask.
                which = _expert_of_output(module, inputs) if type(module) is Experts else ""
                self.found = f"activations: the output of {name}{which}"

        yield module.register_forward_pre_hook(before)
        yield module.register_forward_hook(after)


def _expert_of_output(bank: Experts, inputs: tuple) -> str:
    """Run one expert after another on its own tokens, until one's output is not finite."""
    x, expert_ids, probabilities, *_ = inputs
    count = len(bank.down)
    for expert in range(count) if count > 1 else ():
        chosen = expert_ids == expert
        tokens = chosen.any(1)
        weights = probabilities[chosen][:, None]
        if _is_bad(bank.forward(x[tokens], expert_ids[chosen][:, None], weights)):
            return f", expert {expert}"
    return ""


def _gradients(model: nn.Module) -> str:
    firsts = _first_experts(model)
    # Backward comes to the last layer first.
    gradients = [(name, parameter.grad) for name, parameter in reversed(list(model.named_parameters()))]
    bad = [_bad_part(name, gradient, firsts) for name, gradient in gradients if gradient is not None]
    where = _agree(next((f"gradients: {where}" for where in bad if where), ""))
    return where or f"every tensor is finite, but a sum overflows; {largest_gradient(model)}"


def _norms(model: nn.Module) -> Iterator[tuple[str, float]]:
    """The norm of each gradient, of a bank of experts one by one."""
    firsts = _first_experts(model)
    for name, parameter in model.named_parameters():
        if parameter.grad is None:
            continue
        gradient = _whole(parameter.grad).double()
        if _is_bank(gradient):
            norms = gradient.flatten(1).norm(dim=1).tolist()
            yield from ((f"{name}, expert {expert}", norm) for expert, norm in enumerate(norms, firsts.get(name, 0)))
        else:
            yield name, float(gradient.norm())


def _bad_part(name: str, tensor: Tensor, firsts: dict[str, int]) -> str:
    """The name of a tensor that is not finite, with the first expert that is not; nothing if it is."""
    tensor = _whole(tensor)
    bad = ~tensor.isfinite()
    if not bad.any():
        return ""
    if not _is_bank(tensor):
        return name
    return f"{name}, expert {firsts.get(name, 0) + int(bad.flatten(1).any(1).nonzero()[0])}"


def _first_experts(model: nn.Module) -> dict[str, int]:
    """The number of the first expert in each tensor of which this rank holds only some experts."""
    banks = ((prefix, bank) for prefix, bank in model.named_modules() if isinstance(bank, ParallelExperts))
    return {f"{prefix}.{name}": bank._own.start for prefix, bank in banks for name in bank.divided()}


def _agree(found: str) -> str:
    """What the first of all ranks has found that has found anything."""
    return next(filter(None, gather(found)), "")


def _is_bank(tensor: Tensor) -> bool:
    return tensor.ndim == 3 and len(tensor) > 1


def _is_bad(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point() and not bool(value.isfinite().all())


def _whole(tensor: Tensor) -> Tensor:
    """A tensor of which each rank may hold a part."""
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor  # type: ignore[operator]
