"""Divide the experts of a whole model over ranks."""

from typing import TypeVar
from zlib import crc32

import torch
from torch import nn
from torch.distributed.device_mesh import DeviceMesh

from pauca.errors import ConfigError
from pauca.moe.layer.moe import MoE
from pauca.moe.layer.recipe import Format
from pauca.moe.parallel.experts import ParallelExperts
from pauca.moe.parallel.ranks import Ranks

ModelType = TypeVar("ModelType", bound=nn.Module)


def parallelize(
    model: ModelType, mesh: DeviceMesh, *, dispatch: Format | None = None, overlap: bool = True
) -> ModelType:
    """Divide the experts of all `MoE` layers of a model over ranks, in place; all ranks of the mesh must call it.

    Before `fully_shard`, the optimizer and the first forward. Every rank must hold the same model: build it from the
    same seed or load the same checkpoint. The ranks compare their code, layers and routers, so that a difference is an
    error here rather than a hang later.

    Args:
        model: a model, or one layer.
        mesh: ranks along its dimension "ep" divide the experts, which must come out even; along its other dimensions
            ranks hold the same experts. `init_device_mesh("cuda", (world,), mesh_dim_names=("ep",))`, or
            `(replicas, ranks)` with `("dp", "ep")`.
        dispatch: format in which tokens travel to their experts; by default that in which the recipe keeps them (the
            fewest bytes). bf16 changes no bit of the result; fp8, for the fp4 recipe, quantizes to MXFP4 on arrival.
        overlap: compute the shared experts while tokens travel; on a GPU, on a stream of its own. Set it to False if
            `fully_shard` is applied to the shared experts by themselves: it would free their weights too early.

    Returns:
        The model.

    Raises:
        ConfigError: no MoE layer, a mesh without "ep", or experts that cannot be divided evenly.
        PaucaError: ranks that do not answer within the process group's timeout, or run something else.
    """
    layers = {name: module for name, module in model.named_modules() if isinstance(module, MoE)}
    if not layers:
        raise ConfigError(f"{type(model).__name__} has no pauca.moe.MoE layer whose experts could be divided")
    if any(isinstance(layer.experts, ParallelExperts) for layer in layers.values()):
        raise ConfigError("the experts have been divided over ranks before; call parallelize once")
    divided = {name: ParallelExperts(layer.experts, mesh, dispatch, overlap, name) for name, layer in layers.items()}
    Ranks(mesh).require_the_same(
        {
            f"layer {name!r}, {what}": value
            for name, layer in layers.items()
            for what, value in _description(layer, divided[name]).items()
        }
    )
    for name, layer in layers.items():
        layer.experts = divided[name]
    return model


def _description(layer: MoE, experts: ParallelExperts) -> dict[str, object]:
    """What must be the same on every rank for tokens to find their experts."""
    weights = layer.router.weight.detach()
    return {
        "experts": experts.total,
        "sizes": tuple(experts.down.shape[1:]),
        "top_k": layer.router.top_k,
        "shared experts' width": 0 if layer.shared is None else layer.shared.down.shape[2],
        "recipe": str(experts.recipe),
        "recompute": experts.recompute,
        "dispatch": experts.dispatch,
        "router": str(layer.router.config),
        # Shows other seeds. The rest of the model is not read: it may be large.
        "checksum of the router": None if weights.is_meta else crc32(weights.cpu().view(torch.uint8).numpy().tobytes()),
    }
