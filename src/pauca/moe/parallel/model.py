"""Divide the experts of a whole model over ranks."""

from typing import TypeVar
from zlib import crc32

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.nn.parallel import DistributedDataParallel

from pauca.errors import ConfigError
from pauca.moe.layer.experts import ExpertBank
from pauca.moe.layer.moe import MoE
from pauca.moe.layer.recipe import Format
from pauca.moe.parallel.experts import ParallelExperts, check_division, divide_banks, own_of
from pauca.moe.parallel.ranks import Ranks

ModelType = TypeVar("ModelType", bound=nn.Module)


def parallelize(
    model: ModelType, mesh: DeviceMesh, *, dispatch: Format | None = None, overlap: bool = True
) -> ModelType:
    """Divide the experts of a model over ranks, in place; all ranks of the mesh must call it.

    Those of `MoE` layers, of layers of other people's that hold an `Experts` and call it with tokens, their choices and
    weights, and of models that `convert` has changed; a single expert that every token visits stays on all ranks.

    Before `fully_shard` and an optimizer's first step. Modules and parameters stay the objects that they are, with this
    rank's experts alone in them. Every rank must hold the same model: build it from the same seed or load the same
    checkpoint. The ranks compare their code, layers and routers, so that a difference is an error here rather than a
    hang later. `DistributedDataParallel` over these ranks, for which all hold the same, is refused.

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
        ConfigError: no experts, or of a kind that cannot be divided, or not evenly; a mesh without "ep". As with all
            errors here, the model is then as it was.
        PaucaError: ranks that do not answer within the process group's timeout, run something else, or could not
            divide their model.
    """
    ranks = Ranks(mesh)
    banks, described = ranks.all_or_none(lambda: _prepared(model, ranks, dispatch))
    ranks.require_the_same(described)
    divide_banks(banks, mesh, dispatch, overlap)
    return model


def _prepared(
    model: nn.Module, ranks: Ranks, dispatch: Format | None
) -> tuple[dict[str, ExpertBank], dict[str, object]]:
    """The banks to divide, by the names of their layers, and what must be the same on all ranks.

    All that may fail on one rank alone, memory included: nothing of the model is changed yet.
    """
    if any(isinstance(module, DistributedDataParallel) for module in model.modules()):
        raise ConfigError(
            "DistributedDataParallel is around the model already: give parallelize the model itself, and call "
            "average_gradients after backward in place of it"
        )
    banks = {name: module for name, module in model.named_modules() if isinstance(module, ExpertBank)}
    if any(isinstance(bank, ParallelExperts) for bank in banks.values()):
        raise ConfigError("the experts have been divided over ranks before; call parallelize once")
    banks = {name: bank for name, bank in banks.items() if not _is_single(bank)}
    if not banks:
        raise ConfigError(
            f"{type(model).__name__} has no pauca.moe.MoE layer, Experts or converted experts that could be divided"
        )
    for name, bank in banks.items():
        if isinstance(reason := bank.parts(), str):
            raise ConfigError(
                f"{name}: {reason}; it cannot be divided over ranks by parallelize, but by fully_shard like any module"
            )
    called, described, weights = {}, {}, []
    for name, bank in banks.items():
        weights += [bank.get_parameter(part) for part in check_division(bank, ranks, dispatch)]
        holder = model.get_submodule(name.rpartition(".")[0])
        layer = name.rpartition(".")[0] if isinstance(holder, MoE) else name
        called[layer] = bank
        described |= {f"layer {layer!r}, {what}": value for what, value in _description(holder, bank, dispatch).items()}
    own_of(max(weights, key=lambda weight: weight.nbytes), ranks)  # is there memory for the largest?
    return called, described


def _is_single(bank: ExpertBank) -> bool:
    """Whether it is a shared expert or a dense feed-forward."""
    return len(bank.down) == 1


def _description(holder: nn.Module, bank: ExpertBank, dispatch: Format | None) -> dict[str, object]:
    """What must be the same on every rank for tokens to find their experts."""
    described: dict[str, object] = {
        "experts": len(bank.down),
        "sizes": tuple(bank.down.shape[1:]),
        "recipe": str(bank.recipe),
        "recompute": bank.recompute,
        "dispatch": dispatch,
    }
    if isinstance(holder, MoE):
        described |= {
            "top_k": holder.router.top_k,
            "shared experts' width": 0 if holder.shared is None else holder.shared.down.shape[2],
            "router": str(holder.router.config),
            # Shows other seeds. The rest of the model is not read: it may be large.
            "checksum of the router": _checksum(holder.router.weight),
        }
    else:
        beginnings = [weight.flatten()[:4096] for weight in holder.parameters()]
        described["checksum of the experts and what stands beside them"] = [_checksum(part) for part in beginnings]
    return described


@torch.no_grad()
def _checksum(weight: Tensor) -> int | None:
    return None if weight.is_meta else crc32(weight.cpu().contiguous().view(torch.uint8).numpy().tobytes())
