"""Gradients of a model whose experts are divided over ranks: their mean over all ranks, and their norm."""

from collections.abc import Iterator
from math import prod

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from pauca.errors import ConfigError
from pauca.moe.parallel.experts import ParallelExperts
from pauca.moe.parallel.ranks import Ranks


def _banks(model: nn.Module) -> list[ParallelExperts]:
    return [module for module in model.modules() if isinstance(module, ParallelExperts)]


def _gradients(model: nn.Module) -> Iterator[tuple[Tensor, bool]]:
    """Every parameter's gradient, zeros where it has none, and whether it is an expert's."""
    experts = {id(weight) for bank in _banks(model) for weight in bank.divided().values()}
    for parameter in model.parameters():
        if parameter.requires_grad:
            if parameter.grad is None:  # the ranks must agree on how many there are
                parameter.grad = torch.zeros_like(parameter, dtype=parameter.grad_dtype)
            yield parameter.grad, id(parameter) in experts


def _ranks_of(model: nn.Module) -> Ranks:
    banks = _banks(model)
    if not banks:
        raise ConfigError(f"the experts of {type(model).__name__} are on one rank: call parallelize first")
    return banks[0]._ranks


@torch.no_grad()
def average_gradients(model: nn.Module) -> None:
    """Turn each rank's gradients into those of the mean of all ranks' losses; call it after backward, on all ranks.

    Gradients of experts have come from all tokens that visited them, as a sum over "ep": they are divided by the number
    of those ranks, and averaged over the other dimensions. All others are averaged over all ranks. What `fully_shard`
    has averaged already is left alone, but for that division.
    """
    ranks = _ranks_of(model)
    for gradient, of_expert in _gradients(model):
        if not isinstance(gradient, DTensor):
            over = ranks.replicas if of_expert else None
            ranks.sum(gradient, over)
            gradient /= ranks.mesh.size()
        elif of_expert:
            gradient /= ranks.count


@torch.no_grad()
def clip_gradients(model: nn.Module, max_norm: float) -> Float[Tensor, ""]:
    """Scale all gradients down to a global norm, unless that is not finite; call it after averaging, on all ranks.

    `torch.nn.utils.clip_grad_norm_` would take each rank's own experts for the whole model: ranks would scale what
    they share by different factors.

    Returns:
        The norm before, the same on all ranks.
    """
    ranks, gradients = _ranks_of(model), list(_gradients(model))
    squares = torch.zeros((), dtype=torch.float64, device=ranks.mesh.device_type)
    for gradient, of_expert in gradients:
        parts, own = ranks.count if of_expert else 1, gradient
        if isinstance(gradient, DTensor):
            own = gradient.to_local()
            sharded = zip(gradient.placements, gradient.device_mesh.shape, strict=True)
            parts *= prod(size for placement, size in sharded if placement.is_shard())
        # Each part is on as many ranks as there are copies of the whole.
        norm = torch.linalg.vector_norm(own, dtype=torch.float32).double()
        squares = squares + norm.square() * parts / ranks.mesh.size()
    ranks.sum(squares)
    norm = squares.sqrt()
    scale = torch.where(norm.isfinite(), max_norm / (norm + 1e-6), 1).clamp(max=1)
    for gradient, _ in gradients:
        own = gradient.to_local() if isinstance(gradient, DTensor) else gradient
        own.mul_(scale.to(own.dtype))
    return norm.float()
