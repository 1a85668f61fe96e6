"""Is a mixture-of-experts model well? How busy its experts are, and what its number formats lose.

Everything here reads a model and changes nothing in it, and works for any model that holds `MoE` layers. Layers go by
their names in the model.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from pauca.moe import ops
from pauca.moe.layer.experts import Experts
from pauca.moe.layer.linear import QuantizedLinear
from pauca.moe.layer.moe import MoE, moe_layers
from pauca.moe.layer.permutation import sort_by_expert
from pauca.moe.layer.recipe import Format
from pauca.moe.layer.rotation import rotate_input
from pauca.moe.ops import products
from pauca.moe.ops.formats import ScaleRule

_LARGEST = {"fp8": 448.0, "mxfp4": 6.0}  # the largest element, before its scale


@dataclass(frozen=True)
class RouterLoad:
    """How one layer's tokens were spread over its experts."""

    imbalance: float
    """Tokens of the busiest expert over the mean: 1 is balanced, `experts / top_k` is the worst."""
    entropy: float
    """Entropy of the experts' shares over its largest possible value: 1 is balanced, 0 is one expert alone."""


def router_loads(model: nn.Module) -> dict[str, RouterLoad]:
    """What the routers have counted since the last `update_biases`: call it before that. Waits for the device once."""
    layers = moe_layers(model)
    if not layers:
        return {}
    loads = [layer.router.load.cpu() for layer in layers.values()]
    return {name: router_load(load) for name, load in zip(layers, loads, strict=True)}


def router_load(copies: Int[Tensor, " experts"]) -> RouterLoad:
    """The load, from the number of tokens that each expert got."""
    shares = copies.double() / max(1, int(copies.sum()))
    entropy = -float(torch.special.xlogy(shares, shares).sum())
    largest = math.log(len(shares)) if len(shares) > 1 else 1.0
    return RouterLoad(float(shares.max()) * len(shares), entropy / largest)


_NEAR_THE_WORST = 0.8
_LINES_OF_A_COLLAPSE = 3


def collapse(lines: Sequence[dict[str, Any]], experts: int, top_k: int) -> str:
    """Say in words that routing has collapsed: that a busiest expert has had nearly all that it can have for a while.

    Args:
        lines: of metrics.jsonl, in order.
        experts: routed experts of a layer.
        top_k: of them, how many a token visits.

    Returns:
        Nothing, if the last lines show no layer like that, are too few to tell, or the worst is not far from balance.
    """
    worst = experts / top_k
    last = [line for line in lines if any(name.startswith("load_imbalance/") for name in line)][-_LINES_OF_A_COLLAPSE:]
    if len(last) < _LINES_OF_A_COLLAPSE or worst < 3:
        return ""
    loads = {name: min(line[name] for line in last) for name in last[-1] if name.startswith("load_imbalance/")}
    bad = {name: load for name, load in loads.items() if load > _NEAR_THE_WORST * worst}
    if not bad:
        return ""
    name = max(bad, key=lambda name: bad[name])
    return (
        f"the routing of {len(bad)} of {len(loads)} layers has collapsed: the busiest expert of "
        f"{name.removeprefix('load_imbalance/')} gets {bad[name]:.1f} times its share of the tokens, of at most "
        f"{worst:.1f}. Lower the learning rate, or let it rise for longer (warmup), in a new run"
    )


@dataclass(frozen=True)
class FormatLosses:
    """What a format does to a matrix, as shares of the elements that are not zero."""

    underflows: Float[Tensor, ""]  # became zero
    saturations: Float[Tensor, ""]  # lay beyond the largest number under their scale, and were set to it


@torch.no_grad()
def format_losses(
    x: Float[Tensor, "rows channels"], format_: Format, rule: ScaleRule = ScaleRule.EVEN
) -> FormatLosses | None:
    """Quantize x as a layer would and count what is lost. On the device; None for BF16, which loses neither.

    Args:
        x: in BF16.
        format_: `fp8` means E4M3 with one scale per row.
        rule: how MXFP4 picks its scales.
    """
    if format_ == "bf16":
        return None
    x = x.contiguous()
    if format_ == "mxfp4":
        stored = ops.quantize_mxfp4(x, rule)
        scales = torch.exp2(stored.scales.float() - 127).repeat_interleave(32, dim=1)
    else:
        stored = ops.quantize_fp8_rowwise(x)
        scales = stored.scales_float32()[:, None]
    values = x.float()
    nonzero = (values != 0).sum().clamp(min=1)
    underflows = ((values != 0) & (stored.dequantize() == 0)).sum()
    saturations = (values.abs() > _LARGEST[format_] * scales).sum()
    return FormatLosses(underflows / nonzero, saturations / nonzero)


def quantization_health(model: nn.Module, backward: Callable[[], Any]) -> dict[str, dict[str, float]]:
    """What the formats of each layer lose on one batch: measure -> layer -> share of the nonzero elements.

    Measures: `underflow.M` and `saturation.M` of the matrices M that the layer's recipe quantizes from BF16, which are
    `x` (the experts' input), `z` (FC1's output, as far as it is kept in few bits) and `dy` (the gradient of the layer's
    output, in FP8 as backward sends it); and under fp4 `inexact.rows` and `inexact.columns`, see `MoE.inexact_shares`.
    A layer in bf16 has none. A `QuantizedLinear` has `x`, in the fewest bits that it takes, and `dy`.

    Args:
        model: holds `MoE` layers; put it into eval mode, so that routers do not count these tokens.
        backward: computes a loss of the model and its gradients, such as `lambda: model(x).sum().backward()`; clear the
            gradients afterwards.
    """
    found: dict[str, dict[str, Tensor]] = {}
    hooks = [
        layer.register_forward_hook(_Watch(name, found))
        for name, layer in moe_layers(model).items()
        if layer.experts.recipe.precision != "bf16"
    ]
    linear = {name: module for name, module in model.named_modules() if isinstance(module, QuantizedLinear)}
    hooks += [layer.register_forward_hook(_WatchLinear(name, found)) for name, layer in linear.items()]
    try:
        backward()
    finally:
        for hook in hooks:
            hook.remove()
    return {measure: {name: float(share) for name, share in shares.items()} for measure, shares in found.items()}


class _Measures:
    """What is measured of one layer, by its name."""

    def __init__(self, name: str, found: dict[str, dict[str, Tensor]]) -> None:
        self.name, self.found = name, found

    def _watch_gradient(self, output: Tensor) -> None:
        if output.requires_grad:
            output.register_hook(self._gradient)

    def _gradient(self, gradient: Tensor) -> None:
        self._note("dy", format_losses(_rows(gradient), "fp8"))

    def _note(self, matrix: str, losses: FormatLosses | None) -> None:
        if losses is not None:
            self._add(f"underflow.{matrix}", losses.underflows)
            self._add(f"saturation.{matrix}", losses.saturations)

    def _add(self, measure: str, share: Tensor) -> None:
        self.found.setdefault(measure, {})[self.name] = share


class _WatchLinear(_Measures):
    """A forward hook that measures what a linear layer quantizes."""

    @torch.no_grad()
    def __call__(self, layer: QuantizedLinear, inputs: tuple, output: Tensor) -> None:
        format_: Format = "fp8" if layer.kept == "bf16" else layer.kept
        self._note("x", format_losses(_rows(inputs[0]), format_, ScaleRule(layer.recipe.scale_rule)))
        self._watch_gradient(output)


class _Watch(_Measures):
    """A forward hook that measures a layer's matrices as they pass."""

    @torch.no_grad()
    def __call__(self, layer: MoE, inputs: tuple, output: Tensor) -> None:
        recipe = layer.experts.recipe
        rule = ScaleRule(recipe.scale_rule)
        x = _rows(inputs[0])
        kept = rotate_input(x) if recipe.rotate else x
        self._note("x", format_losses(kept, "mxfp4" if recipe.precision == "fp4" else "fp8", rule))
        if recipe.kept_z != "bf16" and type(layer.experts) is Experts:  # not where they are divided over ranks
            self._note("z", format_losses(_fc1_output(layer, x), recipe.kept_z, rule))
        if recipe.precision == "fp4":
            for measure, share in layer.inexact_shares(x).items():
                self._add(f"inexact.{measure.removeprefix('fc1_')}", share)
        self._watch_gradient(output)


def _rows(x: Float[Tensor, "*batch channels"]) -> Float[Tensor, "rows channels"]:
    """All tokens of a batch, one below the other, in BF16."""
    return x.detach().reshape(-1, x.shape[-1]).bfloat16()


def _fc1_output(layer: MoE, x: Float[Tensor, "tokens hidden"]) -> Float[Tensor, "rows twice_width"]:
    """z of the routed experts, as the BF16 product gives it; rows of padding are zero."""
    permutation = sort_by_expert(layer.router.route(x).expert_ids, len(layer.experts.gate_up))
    weights = layer.experts.gate_up.bfloat16().transpose(1, 2)
    z = products.rows_by_weights(ops.gather_rows(x, permutation.row_to_token), weights, permutation.offsets)
    return torch.where(permutation.row_to_token[:, None] >= 0, z, 0)
