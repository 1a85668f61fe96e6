"""The sizes of a stack of layers, its numerics, and what its backward computes again."""

import math
from dataclasses import dataclass, field
from typing import Literal

from pauca.choices import check_choices
from pauca.errors import ConfigError
from pauca.moe.layer.recipe import RECIPES, Precision, Recipe, Recompute
from pauca.moe.layer.router import RouterConfig


@dataclass(frozen=True)
class Recomputation:
    """What backward computes again in each layer of a model, to keep less. Never the routing."""

    norms: bool = False
    """Compute RMSNorm's outputs again from the residual stream. Under `torch.compile` the compiler decides."""
    attention: bool | Literal["none", "up", "all"] = False
    """Compute the attention block again from the residual stream: norm, projections, rotation, attention itself. "up":
    only the projections from the latents of latent attention, which a planned model may have."""
    experts: Recompute = "none"
    """What routed, shared and dense experts compute again; see `Recompute`."""

    def __post_init__(self) -> None:
        if self.attention in ("none", "all"):  # as version 0.1 spelled it for the planner
            object.__setattr__(self, "attention", self.attention == "all")
        check_choices(self)

    def __str__(self) -> str:
        attention = {False: "", "up": "MLA up-projection", True: "attention"}[self.attention]
        experts = "" if self.experts == "none" else self.experts
        return " + ".join(filter(None, ("norms" if self.norms else "", attention, experts))) or "nothing"


@dataclass(frozen=True)
class LayersConfig:
    """Sizes and numerics of a stack of layers, each attention and a feed-forward of experts."""

    layers: int = 2
    """Layers, one above the other."""
    hidden: int = 64
    """Channels of the residual stream."""
    heads: int = 4
    """Query heads."""
    kv_heads: int = 2
    """Heads of keys and values, each shared by heads / kv_heads query heads."""
    head_dim: int = 16
    """Channels of a head."""
    experts: int = 8
    """Routed experts of a layer."""
    top_k: int = 2
    """Routed experts that a token visits."""
    expert_width: int = 64
    """Channels inside one expert, routed or shared."""
    shared_experts: int = 1
    """Experts that every token visits."""
    dense_layers: int = 0
    """First layers that have one dense feed-forward in place of experts."""
    dense_width: int = 0
    """Channels inside the dense feed-forward of the first layers."""
    rope_base: float = 10_000.0
    """Wavelengths of the rotary positions run from 2 pi to 2 pi times this."""
    balance_weight: float = 0.01
    """Weight in the loss of the balancing losses' mean over the layers."""
    router: RouterConfig = field(default_factory=RouterConfig)
    """How tokens choose experts."""
    recipe: Recipe = field(default_factory=Recipe)
    """Numerics of the experts."""
    projections: Precision = "bf16"
    """Numerics of attention's projections: bf16; or products in FP8 whose input is kept in FP8 (fp8) or MXFP4 (fp4)."""
    recompute: Recomputation = field(default_factory=Recomputation)
    """What backward computes again."""

    def __post_init__(self) -> None:
        self._check_positive("layers", "hidden", "heads", "kv_heads", "head_dim", "experts", "top_k", "expert_width")
        self._check_positive("shared_experts", "dense_width", "balance_weight", or_zero=True)
        self._check_positive("rope_base")
        if self.projections not in RECIPES:
            raise ConfigError(f"projections must be bf16, fp8 or fp4, got {self.projections!r}")
        if self.heads % self.kv_heads:
            raise ConfigError(f"heads must be a multiple of kv_heads, got {self.heads} and {self.kv_heads}")
        if self.recompute.attention == "up":
            raise ConfigError("recompute.attention 'up' is of latent attention, which this model does not have")
        if self.head_dim % 2:
            raise ConfigError(f"head_dim must be even, as rotary positions turn pairs of channels; got {self.head_dim}")
        if not 0 <= self.dense_layers <= self.layers:
            raise ConfigError(f"dense_layers must lie in 0..layers, got {self.dense_layers} of {self.layers}")
        if self.dense_layers and self.dense_width < 1:
            raise ConfigError(f"dense_layers {self.dense_layers} need a positive dense_width, got {self.dense_width}")

    def _check_positive(self, *names: str, or_zero: bool = False) -> None:
        for name in names:
            value = getattr(self, name)
            if not 0 <= value < math.inf or (value == 0 and not or_zero):  # nor NaN
                raise ConfigError(f"{name} of a model must be {'0 or more' if or_zero else 'positive'}, got {value}")
