"""What surrounds the experts in a decoder layer: RMS norm and rotary positions, on kernels where there is a Hopper GPU.

Under `torch.compile` both are PyTorch's own operations, which a compiler fuses with what stands beside them.
"""

from types import ModuleType

import torch
from jaxtyping import Float
from torch import Tensor

from pauca.moe.ops import reference
from pauca.moe.ops.checked import backend_of


def rms_norm(
    x: Float[Tensor, "*batch channels"], weight: Float[Tensor, " channels"], epsilon: float
) -> tuple[Float[Tensor, "*batch channels"], Float[Tensor, "*batch 1"]]:
    """Each row over its root mean square, times the weight, like x; and the factor of each row, for backward."""
    backend = _backend(x)
    if backend is reference:
        return reference.rms_norm(x, weight, epsilon)
    rows = x.reshape(-1, x.shape[-1]).contiguous()
    y, inverse = backend.rms_norm(rows, weight.float(), epsilon)
    return y.view(x.shape), inverse.view(*x.shape[:-1], 1)


def rms_norm_backward(
    grad: Float[Tensor, "*batch channels"],
    x: Float[Tensor, "*batch channels"],
    weight: Float[Tensor, " channels"],
    inverse: Float[Tensor, "*batch 1"],
) -> tuple[Float[Tensor, "*batch channels"], Float[Tensor, " channels"]]:
    """The gradients of x and of the weight, each like what it is of."""
    backend = _backend(x)
    if backend is reference or grad.dtype != torch.bfloat16:
        return reference.rms_norm_backward(grad, x, weight, inverse)
    incoming, rows = (tensor.reshape(-1, x.shape[-1]).contiguous() for tensor in (grad, x))
    d_x, d_weight = backend.rms_norm_backward(incoming, rows, weight.float(), inverse.reshape(-1))
    return d_x.view(x.shape), d_weight.to(weight.dtype)


def rotate_heads(
    source: Float[Tensor, "batch time heads channels"],
    cosine: Float[Tensor, "time half"],
    sine: Float[Tensor, "time half"],
    turn: int,
    out: Float[Tensor, "batch time heads channels"] | None = None,
) -> Float[Tensor, "batch time heads channels"]:
    """Turn channel i and channel i + half of each head together, in FP32; into `out` if it is given.

    Args:
        source: heads, of any strides.
        cosine: by which to turn.
        sine: likewise.
        turn: 1; or -1 to turn back, as the gradient is; or 0 for a copy.
        out: where the result belongs, of any strides.
    """
    backend = _backend(source)
    if backend is reference or source.stride(-1) != 1 or (out is not None and out.stride(-1) != 1):
        turned = reference.rotate_heads(source, cosine, sine, turn)
        if out is not None:
            return out.copy_(turned)
        # Not by writing into a new tensor: what has no gradient of its own loses that of `source` where torch 2.11
        # traces the forward of an autograd.Function.
        return turned if turn else turned.clone(memory_format=torch.contiguous_format)
    if out is None:
        out = torch.empty(source.shape, dtype=source.dtype, device=source.device)
    backend.rotate_heads(source, out, cosine.contiguous(), sine.contiguous(), turn)
    return out


def _backend(x: Tensor) -> ModuleType:
    if torch.compiler.is_compiling() or x.dtype != torch.bfloat16:
        return reference
    return backend_of(x)
