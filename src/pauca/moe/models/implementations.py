"""`experts_implementation="pauca_fp4"` for transformers: importing this module registers it, `pauca_fp8`, `pauca_bf16`.

The same computation as `convert`, chosen where a model is loaded and by its config instead of in place: modules keep
their class. `convert` besides sets how much is recomputed, a recipe for each layer, and knows `frozen_weights`.
"""

from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from pauca.errors import InputError
from pauca.moe.layer.autograd import apply_experts
from pauca.moe.layer.experts import add_down_bias, checked_recipe
from pauca.moe.layer.recipe import RECIPES, Precision, Recipe
from pauca.moe.models.expert_kinds import kind_of
from pauca.moe.models.huggingface import require_transformers

require_transformers()

from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS  # noqa: E402 - named by one line if it is not there

IMPLEMENTATIONS: dict[str, Precision] = {f"pauca_{name}": name for name in ("bf16", "fp8", "fp4")}


class _Implementation:
    """What transformers calls in place of an experts module's forward."""

    def __init__(self, name: str, recipe: Recipe) -> None:
        self.name, self.recipe, self.text = name, recipe, recipe.to_json()

    def __call__(
        self, experts: Any, hidden_states: Tensor, top_k_index: Tensor, top_k_weights: Tensor
    ) -> Tensor:  # [tokens, hidden], [tokens, top_k] twice
        checked = vars(experts).get("_pauca_implementation")
        if checked is None or checked[0] != self.name:
            self._check(experts)
        _, kind, gate = experts._pauca_implementation
        (gate_up, down), biases = kind.weights(experts), kind.biases(experts)
        with torch.autocast(hidden_states.device.type, enabled=False):
            x, probabilities = hidden_states.bfloat16().contiguous(), top_k_weights.float()
            y = apply_experts(
                x, gate_up, down, top_k_index, probabilities, self.text, gate=gate, gate_up_bias=biases[0]
            )
            y = add_down_bias(y, top_k_index, probabilities, biases[1])
        return y.to(hidden_states.dtype)

    @torch.compiler.disable()
    def _check(self, experts: Any) -> None:
        """Once for each module: whether it is of a kind that pauca computes."""
        kind = kind_of(experts)
        if isinstance(experts.down_proj, DTensor):
            kind = "its weights are divided over devices (tensor parallelism): load it without"
        if isinstance(kind, str):
            raise InputError(f'{type(experts).__name__}, experts_implementation="{self.name}": {kind}')
        _, hidden, width = kind.weights(experts)[1].shape
        checked_recipe(self.recipe, hidden, width)
        vars(experts)["_pauca_implementation"] = self.name, kind, kind.gate_text


def register() -> None:
    """Make pauca's implementations known to transformers; importing this module has done so."""
    for name, precision in IMPLEMENTATIONS.items():
        ALL_EXPERTS_FUNCTIONS.register(name, _Implementation(name, RECIPES[precision]))


register()
