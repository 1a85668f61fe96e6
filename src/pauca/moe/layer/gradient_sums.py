"""Gradients of BF16 weights, added up in FP32 over micro-batches.

In BF16 a sum keeps eight bits: the more it holds, the more of each further micro-batch is rounded away. torch adds up
in another type than the weight's where `Tensor.grad_dtype` says so, but its AdamW then refuses the gradient. So this
gives optimizers the finished sum, rounded once.
"""

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from pauca.errors import InputError


class SummedInFp32:
    """What `sum_gradients_in_fp32` has begun; `remove` ends it."""

    def __init__(self, model: nn.Module, *optimizers: torch.optim.Optimizer) -> None:
        """See `sum_gradients_in_fp32`."""
        self._weights = [w for w in model.parameters() if w.dtype == torch.bfloat16 and w.requires_grad]
        _check(model, self._weights)
        self._sums: list[tuple[Tensor, Tensor]] = []  # weights within a step, and the sums that the step rounds
        self._hooks: list[Any] = []
        ours = set(self._weights)
        for one in optimizers:
            stepped = [weight for group in one.param_groups for weight in group["params"] if weight in ours]
            self._hooks.append(one.register_step_pre_hook(partial(self._before, stepped)))
            self._hooks.append(one.register_step_post_hook(lambda *_: self._restore()))
        for weight in self._weights:
            _give(weight, torch.float32, weight.grad)

    def remove(self) -> None:
        """Add up in BF16 again."""
        self._restore()
        for hook in self._hooks:
            hook.remove()
        for weight in self._weights:
            _give(weight, weight.dtype, weight.grad)
        self._hooks, self._weights = [], []

    def _before(self, weights: list[Tensor], _: object, given: tuple, named: dict) -> None:
        closure = [*given[1:], named.get("closure")][0]
        if closure is not None:
            raise InputError(
                "sum_gradients_in_fp32 rounds gradients before a step, and a closure makes them within: call it "
                "yourself, and then step() alone"
            )
        self._round(weights)

    def _round(self, weights: list[Tensor]) -> None:
        """Before a step: gradients in the weights' type, which AdamW asks for."""
        self._restore()  # of a step that has failed
        for weight in weights:
            if weight.grad is not None:
                self._sums.append((weight, weight.grad))
                _give(weight, weight.dtype, weight.grad)

    def _restore(self) -> None:
        for weight, gradient in self._sums:
            _give(weight, torch.float32, gradient if weight.grad is not None else None)
        self._sums = []


def sum_gradients_in_fp32(model: nn.Module, *optimizers: torch.optim.Optimizer) -> SummedInFp32:
    """Let a model's BF16 weights add up their gradients in FP32, from now on: gradient accumulation.

    Called once, before training. `.grad` of each BF16 weight that requires a gradient is then FP32: what clipping and
    other code that reads it see. The optimizers given get it rounded to BF16, once a step, as torch's AdamW takes
    nothing else. Optimizers that take FP32 gradients of BF16 weights (torch's SGD, Muon and Adafactor, or one with FP32
    weights of its own) need not be given: they then see the sum itself. Weights in FP32, whose gradients are FP32
    anyway, are left alone.

    Takes two bytes more for each weight while gradients live, and another two within a step.

    Args:
        model: as it will be trained, after `convert` and `parallelize`.
        optimizers: all that need gradients in their weights' type. They step without a closure.

    Returns:
        A handle, whose `remove()` ends it.

    Raises:
        InputError: no BF16 weight requires a gradient; or `fully_shard` or `DistributedDataParallel` has the gradients,
            which have other ways.

    Examples:
        >>> handle = sum_gradients_in_fp32(model, optimizer)
        >>> for batch in micro_batches:
        ...     model(batch).sum().backward()
        >>> _ = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        >>> optimizer.step()
    """
    return SummedInFp32(model, *optimizers)


def _check(model: nn.Module, weights: list[nn.Parameter]) -> None:
    if any(isinstance(module, DistributedDataParallel) for module in model.modules()):
        raise InputError(
            "DistributedDataParallel sends gradients in their weights' type: sum_gradients_in_fp32 cannot change that; "
            "keep the weights in FP32 and compute under torch.autocast"
        )
    if any(isinstance(weight, DTensor) for weight in model.parameters()):
        raise InputError(
            "fully_shard adds up gradients itself, in the type of the weights that it divides: keep those in FP32 and "
            "let it gather BF16, by MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)"
        )
    if not weights:
        raise InputError(
            f"sum_gradients_in_fp32 found no BF16 weight of {type(model).__name__} that requires a gradient: leave it "
            "out, as gradients of FP32 weights are added up in FP32"
        )


def _give(weight: Tensor, dtype: torch.dtype, gradient: Tensor | None) -> None:
    """A weight's gradient, in this type from now on."""
    weight.grad = None  # torch changes the type of none
    weight.grad_dtype = dtype
    weight.grad = None if gradient is None else gradient.to(dtype)
