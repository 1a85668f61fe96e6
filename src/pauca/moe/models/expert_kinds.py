"""What kind of experts a module of `transformers` holds: where its weights lie, and what stands between the products.

The gating function is found by asking it, not by a name: what it makes of a grid of numbers must be what one of pauca's
gates makes of them, with the limits and factors that the module itself holds.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from typing import Any, get_args

import torch
from torch import Tensor, nn

from pauca.moe.ops.gates import Function, Gate, activate


@dataclass(frozen=True)
class ExpertKind:
    """A module's weights by name, and its gate."""

    gate: Gate
    gate_up: str = "gate_up_proj"
    down: str = "down_proj"
    transposed: bool = False
    """Weights are [experts, inputs, outputs]."""

    @property
    def gate_text(self) -> str:
        """The gate as the layer takes it."""
        return "" if self.gate == Gate() else self.gate.to_json()

    def weights(self, experts: nn.Module) -> tuple[Tensor, Tensor]:
        """Both in pauca's layout, [experts, 2 width, hidden] and [experts, hidden, width]: views, never copies."""
        gate_up, down = getattr(experts, self.gate_up), getattr(experts, self.down)
        return (gate_up.transpose(1, 2), down.transpose(1, 2)) if self.transposed else (gate_up, down)

    def biases(self, experts: nn.Module) -> tuple[Tensor | None, Tensor | None]:
        """Those of both products, [experts, 2 width] and [experts, hidden], if there are any."""
        if not self.gate.biased:
            return None, None
        return getattr(experts, f"{self.gate_up}_bias"), getattr(experts, f"{self.down}_bias")


def kind_of(experts: Any) -> ExpertKind | str:
    """The kind of an experts module as transformers' `use_experts_implementation` makes them, or why it has none."""
    layout = vars(experts)
    if layout.get("has_post_expert_norm"):
        return "each expert ends in a norm of its own, which pauca's sum over experts leaves no room for; keep its own"
    if layout.get("_is_expert_parallel") or "forward" in layout:
        return "it is spread over devices (device_map, distributed_config): load it without"
    gated = layout.get("has_gate", True)
    gate = _gate_of(experts, gated, interleaved=not layout.get("is_concatenated", True))
    if gate is None:
        return _not_computed(getattr(experts, "act_fn", None) or type(experts)._apply_gate.__qualname__)
    if layout.get("has_bias"):
        gate = Gate(**{**vars(gate), "biased": True})
    return ExpertKind(gate, "gate_up_proj" if gated else "up_proj", transposed=layout.get("is_transposed", False))


def kind_by_activation(function: Any) -> ExpertKind | str:
    """The kind of experts in the common layout, by their activation function alone; or why it has none."""
    probe = _probe(math.inf, gated=False)
    for name in get_args(Function):
        if torch.allclose(activate(probe, Gate(name, gated=False)), function(probe), rtol=1e-4, atol=1e-5):
            return ExpertKind(Gate(name))
    return _not_computed(function)


def _not_computed(function: object) -> str:
    name = str(function).split("\n")[0]
    return (
        f"its activation ({name}) is none that pauca computes (silu, gelu, relu and its square, limited or not): keep "
        "its own"
    )


def _gate_of(experts: Any, gated: bool, interleaved: bool) -> Gate | None:
    """The gate that computes what the module's own function does, or None."""
    return find_gate(experts, experts._apply_gate if gated else experts.act_fn, gated, interleaved)


def find_gate(module: Any, function: Callable[[Tensor], Any], gated: bool, interleaved: bool) -> Gate | None:
    """The gate that computes what `function` does of FC1's output, or None.

    Args:
        module: holds the limit and the factor of its gate, if it has any.
        function: of pairs of gate and up [n, 2], or of [n, 1] where experts are not `gated`.
        gated: see `Gate`.
        interleaved: see `Gate`.
    """
    limits = [limit for limit in _numbers(module, "limit", "swiglu_limit", default=math.inf) if limit > 0]
    alphas = _numbers(module, "alpha", "swiglu_alpha", default=1.0)
    probe = _probe(min(limits), gated)
    with torch.no_grad():
        expected = function(probe)
    if not isinstance(expected, Tensor) or expected.shape != (len(probe), 1):
        return None
    for name, limit, alpha, offset, after in product(get_args(Function), limits, alphas, (0.0, 1.0), (False, True)):
        if (alpha != 1 and name != "silu") or (not gated and (offset or limit < math.inf)):
            continue
        gate = Gate(name, gated, interleaved, alpha, limit, after and limit < math.inf, offset)
        if torch.allclose(activate(probe, gate), expected.float(), rtol=1e-4, atol=1e-5):
            return gate
    return None


def _numbers(experts: Any, *names: str, default: float) -> list[float]:
    """What a module says under these names, before what holds if it says nothing."""
    found = [getattr(experts, name) for name in names if isinstance(getattr(experts, name, None), int | float)]
    return [*dict.fromkeys([*map(float, found), default])]


def _probe(limit: float, gated: bool) -> Tensor:
    """Pairs of gate and up [n, 2], or [n, 1], on both sides of zero and of the limit."""
    values = torch.linspace(-8, 8, 33)
    if math.isfinite(limit):
        values = torch.cat([values, limit * torch.tensor([-3.0, -1.1, -0.9, 0.9, 1.1, 3.0])])
    return torch.cartesian_prod(values, values) if gated else values[:, None]
