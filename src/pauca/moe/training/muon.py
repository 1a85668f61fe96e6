"""Muon: matrices step along the orthogonal part of their momentum, all else by AdamW.

Jordan, "Muon: an optimizer for hidden layers" (2024), with the scale of Liu et al., "Muon is scalable for LLM training"
(arXiv 2502.16982): a step is as long as AdamW's, so that learning rate and weight decay are AdamW's. torch's own Muon
takes single matrices; here a weight may hold many, one for each expert, and parts that are matrices of their own.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, Shard, distribute_tensor

from pauca.moe.layer.experts import ExpertBank
from pauca.moe.models.blocks import Attention
from pauca.moe.models.lm import MoELM

MOMENTUM = 0.95
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Of the quintic that, iterated, brings singular values of up to 1 near 1 (between 0.7 and 1.2) soonest."""
ITERATIONS = 5


def orthogonalized(matrices: Float[Tensor, "*batch rows columns"]) -> Float[Tensor, "*batch rows columns"]:
    """About U V' of each matrix U S V', in BF16; a matrix of zeros stays one."""
    is_tall = matrices.shape[-2] > matrices.shape[-1]
    x = matrices.mT if is_tall else matrices
    x = x.bfloat16().reshape(-1, *x.shape[-2:])
    x = x / x.float().norm(dim=(1, 2), keepdim=True).clamp(min=1e-7).bfloat16()
    first, third, fifth = COEFFICIENTS
    for _ in range(ITERATIONS):
        square = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(square, square, square, beta=third, alpha=fifth), x, beta=first)
    return (x.mT if is_tall else x).reshape(matrices.shape)


def parts_of(model: MoELM) -> dict[nn.Parameter, tuple[int, ...]]:
    """The weights that Muon steps: those of experts and attention, each with the rows of its parts.

    Not the embedding, the head, the norms and the routers, as is customary.
    """
    found: dict[nn.Parameter, tuple[int, ...]] = {}
    for module in model.modules():
        if isinstance(module, Attention):
            keys = module.kv_heads * module.head_dim
            found[module.qkv.weight] = (module.heads * module.head_dim, keys, keys)
            found[module.out.weight] = (module.out.weight.shape[-2],)
        elif isinstance(module, ExpertBank):
            for weight, parts in zip(module.masters(), (2, 1), strict=True):  # gate and up lie one above the other
                assert isinstance(weight, nn.Parameter)
                found[weight] = (weight.shape[-2] // parts,) * parts
    return found


class Muon(torch.optim.AdamW):
    """AdamW, but for groups with `parts`: the rows of the matrices that lie one above the other in a weight."""

    def __init__(self, groups: list[dict[str, Any]], **adamw: Any) -> None:
        super().__init__([{"parts": ()} | group for group in groups], **adamw)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # pyright: ignore[reportIncompatibleMethodOverride]
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        groups = self.param_groups
        for group in groups:
            if group["parts"]:
                for weight in group["params"]:
                    if weight.grad is not None:
                        self._step_matrices(weight, group)
        self.param_groups = [group for group in groups if not group["parts"]]
        try:
            super().step()
        finally:
            self.param_groups = groups
        return loss

    def _step_matrices(self, weight: Tensor, group: dict[str, Any]) -> None:
        state = self.state[weight]
        if not state:
            state["momentum"] = torch.zeros_like(weight)
            state["step"] = torch.zeros((), device=weight.device)  # AdamW looks for one when it loads a state
        assert weight.grad is not None
        momentum = state["momentum"].mul_(MOMENTUM).add_(weight.grad, alpha=1 - MOMENTUM)
        ahead = MOMENTUM * momentum + (1 - MOMENTUM) * weight.grad  # Nesterov's
        weight.mul_(1 - group["lr"] * group["weight_decay"])
        weight.sub_(_direction(ahead, tuple(group["parts"])).to(weight.dtype) * group["lr"])


def _direction(values: Tensor, parts: tuple[int, ...]) -> Tensor:
    """The step at a learning rate of 1; of a divided weight, this rank's share of it."""
    if not isinstance(values, DTensor):
        return _direction_of_whole(values, parts)
    mesh, placements = values.device_mesh, values.placements
    if values.ndim == 3 and all(not place.is_shard() or place == Shard(0) for place in placements):
        # Ranks hold whole experts: nothing need travel.
        own = _direction_of_whole(values.to_local(), parts)
        return DTensor.from_local(own, mesh, placements, run_check=False, shape=values.shape, stride=values.stride())
    whole = _direction_of_whole(values.full_tensor(), parts)
    return distribute_tensor(whole, mesh, placements, src_data_rank=None)


def _direction_of_whole(values: Tensor, parts: tuple[int, ...]) -> Tensor:
    columns = values.shape[-1]
    pieces = values.split(parts, dim=-2)
    # Elements of an orthogonal matrix have a root mean square of 1 / sqrt(its longer side); AdamW's steps about 0.2.
    steps = [0.2 * math.sqrt(max(piece.shape[-2], columns)) * orthogonalized(piece) for piece in pieces]
    return torch.cat(steps, -2)
