"""Weights of experts that FSDP2 sends in FP8: a byte each, and one more for the scale of a row.

Forward's products take each row of a weight as E4M3 codes under a power of two. A rank has whole rows, so what it sends
is what all would have made of the gathered weights: forward's bits do not change. Backward takes rows of another scale
from them: elements that lie fifteen binades below an expert's largest may be rounded twice.

FSDP2 asks the tensor that holds a shard what to send and what to make of what arrives, if it can tell.
"""

from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.autograd.grad_mode import _unsafe_preserve_version_counter
from torch.distributed.fsdp import FSDPModule

from pauca.moe import ops
from pauca.moe.ops.formats import e8m0_to_float32


class SentInFp8(Tensor):
    """A shard of FP32 weights [experts, outputs, inputs] which FSDP2 sends in FP8; in all else a plain tensor."""

    __torch_function__ = torch._C._disabled_torch_function_impl  # pyright: ignore[reportAssignmentType]

    def fsdp_pre_all_gather(
        self, mesh: Any, outer_size: Any, outer_stride: Any, module: Any, mp_policy: Any
    ) -> tuple[tuple[Tensor, Tensor], None]:
        """What to send: codes and scale bytes, in the shard's shape."""
        rows = ops.quantize_fp8_rowwise(self.flatten(0, 1))
        return (rows.codes.view(self.shape), rows.scales.view(self.shape[:2])), None

    def fsdp_post_all_gather(
        self,
        outputs: tuple[UInt8[Tensor, "experts outputs inputs"], UInt8[Tensor, "experts outputs"]],
        metadata: None,
        param_dtype: torch.dtype,
        *,
        out: Tensor | None = None,
    ) -> tuple[Float[Tensor, "experts outputs inputs"], tuple[Tensor]] | None:
        """The weights that arrived, which BF16 holds exactly: a tensor and what FSDP2 is to free, or written to out."""
        codes, scales = outputs
        weights = codes.new_empty(codes.shape, dtype=param_dtype) if out is None else out
        # Autograd has saved `out` in forward, and is to find it again in backward.
        with torch.no_grad(), _unsafe_preserve_version_counter(weights):
            weights.copy_(codes.view(torch.float8_e4m3fn))
            weights.mul_(e8m0_to_float32(scales)[..., None])
        return None if out is not None else (weights, (weights,))


def send_in_fp8(bank: FSDPModule) -> None:
    """Let FSDP2, which has divided this module alone, send its weights in FP8 where all ranks have as many rows."""
    group = bank._get_fsdp_state()._fsdp_param_group
    for weight in () if group is None else group.fsdp_params:
        shard: Any = weight.sharded_param
        if len(shard) % shard.device_mesh.size() == 0:
            shard._local_tensor = shard._local_tensor.as_subclass(SentInFp8)
            weight._init_extensions()  # FSDP2 has looked before it could tell
