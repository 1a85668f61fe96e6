"""Banks of SwiGLU experts as PyTorch modules: what all of them share, and the one that holds its own weights."""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from pauca.errors import ConfigError, InputError
from pauca.moe.layer.autograd import check_routing, compute_experts
from pauca.moe.layer.kept import kept_formats
from pauca.moe.layer.recipe import Recipe, Recompute
from pauca.moe.layer.rotation import rotate_weights
from pauca.moe.layer.weights import FrozenWeights
from pauca.moe.ops.products import require_fp8


class ExpertBank(nn.Module):
    """The SwiGLU experts of one layer, whoever holds their weights: `Experts`, `ParallelExperts`, converted ones.

    A bank has `gate_up` [experts, 2 width, hidden] and `down` [experts, hidden, width]: master weights, BF16 or FP32.
    FP8 copies are made for each pass and never stored.
    """

    gate_up: Tensor
    down: Tensor
    biases: tuple[Tensor | None, Tensor | None] = None, None
    """[experts, 2 width] and [experts, hidden], added to what the two products give."""
    _ranks: Any = None  # those that divide the experts, after `parallelize`
    _gate_text = ""  # `Gate.to_json()` where they are not SwiGLU experts

    def _configure(self, recipe: Recipe, recompute: Recompute) -> None:
        """Set all but the weights."""
        kept_formats(recipe, recompute)  # refuses an unknown mode
        self.recompute: Recompute = recompute
        self._frozen = self._ahead = False  # ahead: copies are made before the first pass
        self._copies: FrozenWeights | None = None
        self._once: Any = None  # `QuantizedOnce`, while `quantize_once` is in force
        self.recipe = recipe

    @property
    def recipe(self) -> Recipe:
        return self._recipe

    @recipe.setter
    def recipe(self, recipe: Recipe) -> None:
        _, hidden, width = self.down.shape
        self._recipe, self._recipe_text = checked_recipe(recipe, hidden, width), recipe.to_json()
        self._copies = None  # of another recipe, which may rotate the weights
        if self._once is not None:
            self._once.forget(self)

    def masters(self) -> tuple[Tensor, ...]:
        """The weights as they are stored: the parameters of which `gate_up` and `down` are views."""
        return self.gate_up, self.down

    def gate_up_parts(self) -> tuple[Tensor, ...]:
        """`gate_up`, or the parts that stand one below the other in it: what a pass joins, and does not keep."""
        return (self.gate_up,)

    def operands(self) -> tuple[Tensor, Tensor]:
        """`gate_up` and `down` as the products take them, without gradients: what copies are made of."""
        gate_up = self.gate_up.detach()
        return rotate_weights(gate_up) if self.recipe.rotate else gate_up, self.down.detach()

    def parts(self) -> tuple[str, ...] | str:
        """Names of the weights, each with one entry an expert, for ranks to divide; or why these stay together."""
        return ("gate_up", "down") if len(self.down) > 1 else "a single expert that every token visits"

    def forward(
        self,
        x: Float[Tensor, "tokens hidden"],
        expert_ids: Int[Tensor, "tokens top_k"],
        probabilities: Float[Tensor, "tokens top_k"],
        shared: Callable[[Tensor], Tensor] | None = None,
        *,
        checked: bool = False,
    ) -> Float[Tensor, "tokens hidden"]:
        """The sum of each token's experts, weighted by the FP32 `probabilities`; computed in BF16, returned like x.

        Args:
            shared: its result is added, `shared(x)`: what experts that are divided over ranks compute while tokens
                travel.
            checked: the caller has called `check_tokens`, and routed the tokens by a `Router`.
        """
        if not checked:
            self._check_call(x, expert_ids, probabilities)
        with torch.autocast(x.device.type, enabled=False):
            y = compute_experts(
                x.bfloat16().contiguous(),
                self.gate_up_parts(),
                self.down,
                expert_ids,
                probabilities.float(),
                self._recipe_text,
                self.recompute,
                self._prepared_weights(),
                self._gate_text,
                self.biases[0],
            )
            y = add_down_bias(y, expert_ids, probabilities, self.biases[1]).to(x.dtype)
        return y if shared is None else y + shared(x)

    def _check_call(self, x: Tensor, expert_ids: Tensor, probabilities: Tensor) -> None:
        self.check_tokens(x)
        if x.ndim != 2:
            raise InputError(f"tokens must be [tokens, hidden], got {tuple(x.shape)}")
        check_routing(x, expert_ids, probabilities.float())  # whose type is converted

    def check_tokens(self, x: Tensor) -> None:
        """Refuse tokens [..., hidden] that these experts cannot take.

        Raises:
            InputError: other channels or another device than the experts', or neither BF16 nor FP32.
            DeviceError: a GPU that has no FP8 products, under a recipe that needs them.
        """
        channels = x.shape[-1] if x.ndim else 0
        if channels != self.down.shape[1]:
            raise InputError(f"tokens have {channels} channels, but the experts were built for {self.down.shape[1]}")
        if x.dtype not in (torch.bfloat16, torch.float32):
            raise InputError(f"tokens must be bfloat16 or float32, got {x.dtype}; convert them first")
        if x.device != self.down.device:
            raise InputError(f"tokens are on {x.device}, but the experts are on {self.down.device}")
        if self.recipe.precision != "bf16":
            require_fp8(x.device)

    def _prepared_weights(self) -> list[Tensor]:
        if self.recipe.precision == "bf16":
            return []
        if not self._frozen:
            return [] if self._once is None or torch.compiler.is_compiling() else self._once.copies(self)
        if self._ahead and torch.compiler.is_compiling():
            return [] if self._copies is None else self._copies.copies
        return self._frozen_copies()

    @torch.compiler.disable()  # where a tensor lies is nothing that can be traced
    def _frozen_copies(self) -> list[Tensor]:
        masters = self.masters()
        if not all(isinstance(weight, nn.Parameter) for weight in masters):
            return []  # an adapter's, computed anew for each pass
        if self._copies is None:
            self._copies = FrozenWeights(masters, *self.operands())
        else:
            self._copies.require_of(masters)
        return self._copies.copies

    def _freeze(self, frozen: bool, ahead: bool = False) -> None:
        self._frozen, self._ahead, self._copies = frozen, ahead, None
        if frozen and ahead:
            self._prepared_weights()

    def __getstate__(self) -> dict[str, object]:
        # A copy is not frozen: no `frozen_weights` would ever end it; and no optimizer's step says when it changes.
        return super().__getstate__() | {"_frozen": False, "_copies": None, "_once": None}

    def extra_repr(self) -> str:
        count, hidden, width = self.down.shape
        return f"{count} x (hidden={hidden}, width={width}), {self.recipe.precision}, recompute={self.recompute}"


class Experts(ExpertBank):
    """A bank of SwiGLU experts, each a pair of matrices, without biases.

    Parameters hold master weights, BF16 or FP32; FP8 copies are made for each pass and never stored.
    """

    def __init__(
        self, hidden: int, width: int, experts: int, recipe: Recipe | None = None, recompute: Recompute = "none"
    ) -> None:
        """See `MoE`; `width` is one expert's."""
        super().__init__()
        if experts < 1:
            raise ConfigError(f"at least one expert is needed, got {experts}")
        recipe = checked_recipe(Recipe.bf16() if recipe is None else recipe, hidden, width)
        self.gate_up = nn.Parameter(torch.empty(experts, 2 * width, hidden))
        self.down = nn.Parameter(torch.empty(experts, hidden, width))
        self._configure(recipe, recompute)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        for weight in (self.gate_up, self.down):
            nn.init.normal_(weight, std=weight.shape[2] ** -0.5)


def add_down_bias(
    y: Float[Tensor, "tokens hidden"],
    expert_ids: Int[Tensor, "tokens top_k"],
    probabilities: Float[Tensor, "tokens top_k"],
    bias: Float[Tensor, "experts hidden"] | None,
) -> Float[Tensor, "tokens hidden"]:
    """y and the biases of each token's experts, weighted like their outputs and summed in FP32; y if there are none."""
    if bias is None:
        return y
    weights = torch.zeros(len(y), len(bias), device=y.device).scatter_add(1, expert_ids.long(), probabilities.float())
    return (y.float() + weights @ bias.float()).to(y.dtype)


def checked_recipe(recipe: Recipe, hidden: int, width: int) -> Recipe:
    """The recipe, if it is one and can hold experts of these sizes."""
    if not isinstance(recipe, Recipe):
        raise ConfigError(f"recipe must be a Recipe, such as Recipe.fp4(), got {recipe!r}")
    recipe.check_sizes(hidden, width)
    return recipe
