"""A language model over several ranks: its parameters by FSDP2, its experts by expert parallelism.

With `ep` ranks that share one set of experts, a mesh of (ranks / ep, ep). The experts are divided along the
second dimension and sharded by FSDP2 along the first; the rest is sharded along the second and repeated along the
first. Without expert parallelism everything is sharded over all ranks.
"""

from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any, Literal, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.distributed_c10d import _coalescing_manager
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor

from pauca.moe.layer.experts import ExpertBank
from pauca.moe.layer.moe import moe_layers
from pauca.moe.models.lm import MoELM
from pauca.moe.parallel.experts import ParallelExperts
from pauca.moe.parallel.gradients import average_gradients, clip_gradients
from pauca.moe.parallel.model import parallelize
from pauca.moe.training.fp8_gather import send_in_fp8

IN_BF16 = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32, cast_forward_inputs=False)
"""Of experts, which round their weights to BF16 and give gradients in BF16 whatever they are given; sums in FP32."""


Gather = Literal["fp32", "bf16", "fp8"]
"""Numbers in which the weights of experts travel where FSDP2 divides them."""


def divide(model: MoELM, device: torch.device, ep: int, gather: Gather = "fp32") -> None:
    """Divide a model, in place, over the ranks of the default group, a multiple of `ep`.

    All must call it, and then the model, its `loss` and its `generate` together.
    """
    ranks = dist.get_world_size()
    if ep == 1:
        mesh, whole = init_device_mesh(device.type, (ranks,)), set()
        for bank in () if gather == "fp32" else model.modules():
            if isinstance(bank, ExpertBank):
                _divide_bank(bank, mesh, gather)
    elif ep == ranks:
        mesh = init_device_mesh(device.type, (ep,), mesh_dim_names=("ep",))
        parallelize(model, mesh)
        whole = experts_of(model)
    else:
        mesh, whole = init_device_mesh(device.type, (ranks // ep, ep), mesh_dim_names=("dp", "ep")), set()
        parallelize(model, mesh)
        for layer in moe_layers(model).values():
            _divide_bank(layer.experts, mesh["dp"], gather)
    for block in model.blocks:
        fully_shard(block, mesh=mesh, ignored_params=whole)
    fully_shard(model, mesh=mesh, ignored_params=whole)
    for method in ("loss", "generate"):
        register_fsdp_forward_method(model, method)


def _divide_bank(bank: ExpertBank, mesh: DeviceMesh, gather: Gather) -> None:
    fully_shard(bank, mesh=mesh, mp_policy=MixedPrecisionPolicy() if gather == "fp32" else IN_BF16)
    if gather == "fp8":
        send_in_fp8(cast(FSDPModule, bank))


@torch.no_grad()
def divide_experts(model: MoELM, device: torch.device, ep: int) -> None:
    """Divide the experts alone, in place, over groups of `ep` ranks: every rank holds all else whole.

    Without `ep` all begin with the first rank's weights; with it, ranks of other seeds are refused.
    """
    if ep == 1:
        for tensor in (*model.parameters(), *model.buffers()):
            dist.broadcast(tensor, 0)
    else:
        shape = (dist.get_world_size() // ep, ep)
        parallelize(model, init_device_mesh(device.type, shape, mesh_dim_names=("dp", "ep")))


@torch.no_grad()
def average_replicas(model: nn.Module) -> None:
    """The mean of all ranks' gradients, of a model that each of them holds whole: in one message."""
    gradients = [weight.grad for weight in model.parameters() if weight.grad is not None]
    with _coalescing_manager(device=gradients[0].device) if gradients[0].is_cuda else nullcontext():
        for gradient in gradients:
            dist.all_reduce(gradient)
    for gradient in gradients:
        gradient /= dist.get_world_size()


def parameter_groups(
    model: nn.Module, weight_decay: float, parts: Mapping[nn.Parameter, tuple[int, ...]] | None = None
) -> list[dict[str, Any]]:
    """Parameters in groups for an optimizer: matrices decay, vectors do not; and tensors and DTensors do not mix.

    The same groups whether experts are divided or not, so that a checkpoint fits either way.

    Args:
        parts: of `Muon`, whose groups have them.
    """
    parts = parts or {}
    experts = {weight for layer in moe_layers(model).values() for weight in layer.experts.parameters()}
    groups: dict[tuple[bool, bool, tuple[int, ...]], list[nn.Parameter]] = {}
    for parameter in model.parameters():
        groups.setdefault((parameter.ndim > 1, parameter in experts, parts.get(parameter, ())), []).append(parameter)
    return [
        {"params": parameters, "weight_decay": weight_decay if is_matrix else 0.0} | ({"parts": rows} if rows else {})
        for (is_matrix, _, rows), parameters in groups.items()
    ]


def experts_of(model: nn.Module) -> set[nn.Parameter]:
    """The parameters of which each rank holds those of its own experts."""
    banks = (module for module in model.modules() if isinstance(module, ParallelExperts))
    return {parameter for bank in banks for parameter in bank.divided().values()}


def clip(model: nn.Module, largest: float, replicas: bool = False) -> Tensor:
    """Average the gradients, where that is left to do, and shorten them to a norm; returns the norm before.

    With `replicas` every rank holds the whole model, but for experts that are divided.

    With a norm that is not finite they stay as they are, so that what is wrong with them can still be seen.
    """
    if experts_of(model):
        average_gradients(model)
        return clip_gradients(model, largest)
    if replicas:
        average_replicas(model)
    parameters = list(model.parameters())
    norm = nn.utils.get_total_norm([weight.grad for weight in parameters if weight.grad is not None])
    if isinstance(norm, DTensor):
        norm = norm.full_tensor()
    # To a norm of 0 the clipping does nothing.
    nn.utils.clip_grads_with_norm_(parameters, largest, norm.nan_to_num(nan=0, posinf=0))
    return norm
