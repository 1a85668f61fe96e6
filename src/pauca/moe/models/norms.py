"""RMS norms of a transformers model that keep their input once, as it is or in few bits, and one number a token.

The model's own keep an FP32 copy of what they read and a BF16 one of what they have normalized: three times as much,
and more than anything else in a block whose experts keep MXFP4. What backward needs the input for is to take out of a
gradient its component along the input, so that the input's rounding changes little.
"""

import inspect
import warnings
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from pauca.errors import InputError
from pauca.moe import ops
from pauca.moe.layer.derivatives import first_derivative_only
from pauca.moe.layer.kept import from_bytes, to_bytes
from pauca.moe.layer.passes import quantize
from pauca.moe.layer.recipe import Format, Recipe
from pauca.moe.models.restorable import becoming
from pauca.moe.ops import reference
from pauca.moe.ops.formats import BLOCK, Fp8Tensor, MxFp4Tensor

_PROBED_ROWS = 4


@dataclass(frozen=True)
class NormKind:
    """What a norm computes: rows over their root mean square, times the weight."""

    epsilon: float
    offset: float  # added to the weight
    result: Literal["input", "weight", "wider"]  # whose type it gives, of an input and a weight of two types


class ConvertedRMSNorm(nn.Module):
    """An RMS norm of a transformers model, which keeps its input in a format of pauca's."""

    weight: nn.Parameter
    _kind: NormKind
    _kept: Format
    _recipe: Recipe
    _original: tuple[type[nn.Module], tuple[str, ...]]  # its class, and the attributes that conversion added

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight.float() + self._kind.offset
        if torch.compiler.is_compiling():  # which chooses what is kept
            y = reference.rms_norm(x, weight, self._kind.epsilon)[0]
        else:
            y = _RMSNorm.apply(x, weight, self._kind.epsilon, self._kept, self._recipe, torch.is_grad_enabled())
        wider = torch.promote_types(x.dtype, self.weight.dtype)
        return y.to({"input": x.dtype, "weight": self.weight.dtype, "wider": wider}[self._kind.result])

    def extra_repr(self) -> str:
        return f"{tuple(self.weight.shape)}, eps={self._kind.epsilon}, keeps {self._kept}"


class _RMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx, x: Tensor, weight: Tensor, epsilon: float, kept: Format, recipe: Recipe, keep: bool
    ) -> Float[Tensor, "*batch channels"]:
        y, inverse = ops.rms_norm(x, weight, epsilon)
        if keep:
            stored = [x]
            if kept != "bf16":
                stored = to_bytes(quantize(x.reshape(-1, x.shape[-1]).bfloat16().contiguous(), kept, recipe))
            ctx.kept, ctx.dtype = kept, x.dtype
            ctx.save_for_backward(weight, inverse, *stored)
        return y

    @staticmethod
    @first_derivative_only
    def backward(ctx, *gradients: Tensor) -> tuple:  # pyright: ignore[reportIncompatibleMethodOverride]
        (gradient,) = gradients
        weight, inverse, *stored = ctx.saved_tensors
        x = stored[0] if ctx.kept == "bf16" else _read(stored, ctx.kept, gradient.shape[-1]).to(ctx.dtype)
        return *ops.rms_norm_backward(gradient, x.view(gradient.shape), weight, inverse), None, None, None, None


def _read(stored: list[Tensor], kept: Format, channels: int) -> Tensor:
    """In BF16, which holds each of these values."""
    rows = from_bytes(stored, kept, channels)
    if isinstance(rows, MxFp4Tensor):
        rows = ops.gather_mxfp4_to_fp8_rows(rows)
    rows = cast(Fp8Tensor, rows)
    return rows.values.bfloat16() * rows.scales_float32().bfloat16()[:, None]


def check_norms(model: nn.Module, kept: Format | None) -> dict[str, NormKind]:
    """Those that `convert_norms` is to convert; none if they are to stay as they are.

    They are found by what they do: modules with a weight and nothing else, which divide by the root mean square.

    Raises:
        InputError: there are none.
    """
    if kept is None:
        return {}
    kinds = {
        name: module._kind if isinstance(module, ConvertedRMSNorm) else _kind_of(module)
        for name, module in model.named_modules()
    }
    found = {name: kind for name, kind in kinds.items() if kind is not None}
    if not found:
        raise InputError(f"no RMS norms found in {type(model).__name__}: leave out norms")
    return found


def convert_norms(model: nn.Module, found: dict[str, NormKind], kept: Format | None, experts: Recipe) -> None:
    """Let them keep their input in that format, in place; sizes that are no multiples of 32 keep it as it is."""
    if kept is None:
        return
    for name, kind in found.items():
        module: Any = model.get_submodule(name)
        fits = not len(module.weight) % BLOCK
        if not isinstance(module, ConvertedRMSNorm):
            with becoming(module, ConvertedRMSNorm) as norm:
                norm._kind, norm._kept, norm._recipe = kind, "bf16", experts
        module._kept, module._recipe = kept if fits else "bf16", experts


def _kind_of(module: nn.Module) -> NormKind | None:
    """Of a module that is an RMS norm: it is asked, with another weight."""
    weight = module._parameters.get("weight")
    if weight is None or weight.ndim != 1 or type(weight) is not nn.Parameter or "forward" in vars(module):
        return None
    if len([*module.parameters()]) + len([*module.buffers()]) > 1 or [*module.children()]:
        return None
    if len(inspect.signature(type(module).forward).parameters) != 2:  # a gate, besides what it reads
        return None
    epsilons = [value for value in vars(module).values() if isinstance(value, float) and 0 < value < 1e-2]
    generator = torch.Generator().manual_seed(0)
    probe, other = (torch.randn(n, len(weight), generator=generator) for n in (_PROBED_ROWS, 1))
    probe *= torch.tensor([0.0, 1e-3, 1.0, 1e3])[:, None]  # of the small ones the epsilon decides
    probe = probe.view(2, -1, len(weight))  # channels are the last of three dimensions, not the second

    def ask(dtype: torch.dtype, of_weight: torch.dtype) -> Any:
        """Its forward alone: hooks are others' business. torch's own norm warns of two types."""
        asked = object.__new__(type(module))
        vars(asked).update(vars(module) | {"_parameters": {"weight": nn.Parameter(other[0].to(of_weight))}})
        with torch.no_grad(), warnings.catch_warnings(action="ignore"):
            return asked.forward(probe.to(dtype))

    try:
        y = ask(torch.float32, torch.float32)
        of_bf16, of_bf16_weight = ask(torch.bfloat16, torch.float32), ask(torch.float32, torch.bfloat16)
    except Exception:  # it asks for other arguments, or for a module's other parts
        return None
    for epsilon in epsilons:
        for offset in (0.0, 1.0):
            expected = reference.rms_norm(probe, other[0] + offset, epsilon)[0]
            if isinstance(y, Tensor) and y.shape == expected.shape and torch.allclose(y, expected, rtol=1e-4):
                if of_bf16.dtype == torch.bfloat16:
                    return NormKind(epsilon, offset, "input")
                return NormKind(epsilon, offset, "weight" if of_bf16_weight.dtype == torch.bfloat16 else "wider")
    return None
