"""Attention's projections of a transformers model in few bits: linear layers that keep their weights and names.

Products in FP8, the input kept in FP8 or MXFP4, as `QuantizedLinear` has it. Queries, keys and values read the same
tensor: it is quantized and kept once for all of them.
"""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from pauca.errors import InputError
from pauca.moe.layer.linear import apply_linear, quantize_input
from pauca.moe.layer.recipe import RECIPES, Format, Precision, Recipe
from pauca.moe.ops import products
from pauca.moe.ops.formats import BLOCK

_LAST = ("o_proj", "out_proj", "dense", "wo", "out")
"""What reads attention's output is called: where attention keeps that in BF16 for its own backward, a second copy in
few bits would only add to it."""
_VIEWS = ("View", "UnsafeView", "ReshapeAlias", "Transpose", "Permute", "Alias")


class ConvertedLinear(nn.Linear):
    """A linear layer of a transformers model whose products run in FP8, and whose input is kept in few bits."""

    _recipe_text: str
    _kept: Format
    _is_last: bool

    def forward(self, x: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        products.require_fp8(x.device)
        with torch.autocast(x.device.type, enabled=False):
            stored, kept = None, self._kept
            if not torch.compiler.is_compiling():
                if self._is_last and _is_kept_by_attention(x):
                    kept = "bf16"
                stored = quantize_input(x, self._recipe_text, kept)
            elif self._is_last:  # where x comes from is not to be seen
                kept = "bf16"
            y = apply_linear(x.bfloat16(), self.weight, self._recipe_text, kept, stored=stored)
            if self.bias is not None:
                y = y + self.bias.to(y.dtype)
        return y.to(x.dtype)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, keeps {self._kept}"


def _is_kept_by_attention(x: Tensor) -> bool:
    """Whether x is attention's own output, seen otherwise: not a copy in another order or type, nor gated."""
    node = x.grad_fn
    while node is not None and node.name().removesuffix("Backward0") in _VIEWS:
        node = node.next_functions[0][0]
    return x.dtype == torch.bfloat16 and node is not None and ("Attention" in node.name() or "Attn" in node.name())


def find_projections(model: nn.Module) -> dict[str, nn.Linear]:
    """The linear layers within modules of attention whose sizes FP8 products can take, by name."""
    found: dict[str, nn.Linear] = {}
    for name, module in model.named_modules():
        if not type(module).__name__.endswith("Attention"):
            continue
        for inner, layer in module.named_modules():
            if not isinstance(layer, nn.Linear) or type(layer) not in (nn.Linear, ConvertedLinear):
                continue
            if not any(size % BLOCK for size in layer.weight.shape):
                found[f"{name}.{inner}" if name else inner] = layer
    return found


def convert_projections(model: nn.Module, precision: Precision, experts: Recipe) -> None:
    """Give them the numerics `precision`, in place; bf16 gives back the original ones.

    Raises:
        InputError: there are none, or their weights are neither BF16 nor FP32.
    """
    found = find_projections(model)
    if precision == "bf16":
        restore_projections(model)
        return
    if not found:
        raise InputError(
            f"no projections found in {type(model).__name__}: no module whose class ends in Attention has linear "
            f"layers with sizes that are multiples of {BLOCK}; leave projections at bf16"
        )
    for name, layer in found.items():
        if type(layer.weight) is not nn.Parameter or layer.weight.dtype not in (torch.bfloat16, torch.float32):
            raise InputError(f"{name}: its weights are {layer.weight.dtype}: load the model in bfloat16 or float32")
    recipe = replace(RECIPES[precision], scale_rule=experts.scale_rule, fast_accumulate=experts.fast_accumulate)
    for name, layer in found.items():
        layer.__class__ = ConvertedLinear
        assert isinstance(layer, ConvertedLinear)
        own: Format = "mxfp4" if precision == "fp4" else "fp8"
        layer._recipe_text, layer._kept, layer._is_last = recipe.to_json(), own, name.endswith(_LAST)


def restore_projections(model: nn.Module) -> None:
    """Undo `convert_projections`."""
    for layer in model.modules():
        if type(layer) is ConvertedLinear:
            settings: Any = vars(layer)
            del settings["_recipe_text"], settings["_kept"], settings["_is_last"]
            layer.__class__ = nn.Linear  # pyright: ignore[reportAttributeAccessIssue]
