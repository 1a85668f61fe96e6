"""Converters for torchtitan: pauca's experts and linear layers in the places where it puts its MXFP8 and NVFP4 ones.

They change a model's config before it is built, as `MXFP8GroupedExpertsConverter` and `NVFP4LinearConverter` do. Needs
torchtitan 0.3, which torch 2.11 is too old for and whose other requirements are its own affair; nothing else imports
this module.
"""

# torchtitan is no requirement of pauca's, so that type checkers do not find it.
# pyright: reportMissingImports=false, reportGeneralTypeIssues=false

from dataclasses import dataclass, field, fields
from typing import Any, Literal

from torch import Tensor
from torch.distributed.tensor import DTensor
from torchtitan.components.quantization import QuantizationConverter
from torchtitan.models.common.linear import Linear
from torchtitan.models.common.moe import GroupedExperts

from pauca.errors import ConfigError
from pauca.moe.layer.autograd import compute_experts
from pauca.moe.layer.experts import checked_recipe
from pauca.moe.layer.linear import apply_linear
from pauca.moe.layer.recipe import RECIPES, Format
from pauca.moe.ops.formats import BLOCK, row_groups


class PaucaGroupedExperts(GroupedExperts):
    """torchtitan's SwiGLU experts, computed and kept as a recipe says, on rows that it has sorted by expert.

    Its gate and up weights lie apart: each pass copies them into one, which is not kept between the passes. Its rows
    are copies of tokens, so that a token's input is kept once per expert, in the recipe's format.
    """

    @dataclass(kw_only=True, slots=True)
    class Config(GroupedExperts.Config):
        precision: Literal["bf16", "fp8", "fp4"] = "fp4"

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        recipe = RECIPES[config.precision]
        self._recipe_text = checked_recipe(recipe, config.dim, config.hidden_dim).to_json()

    def forward(self, x_RD: Tensor, num_tokens_per_expert_E: Tensor) -> Tensor:
        w1, w2, w3 = (
            weight.to_local() if isinstance(weight, DTensor) else weight
            for weight in (self.w1_EFD, self.w2_EDF, self.w3_EFD)
        )
        ends = num_tokens_per_expert_E.cumsum(0).int()
        expert = row_groups(ends, len(x_RD))
        inside = (expert < len(ends)).float()  # rows past the last expert's hold nothing
        x, ids, weights = x_RD.bfloat16().contiguous(), expert.clamp(max=len(ends) - 1)[:, None], inside[:, None]
        y = compute_experts(x, (w1, w3), w2, ids, weights, self._recipe_text)
        return y.type_as(x_RD)


class PaucaLinear(Linear):
    """torchtitan's linear layer with products in FP8, whose input is kept in FP8 or MXFP4."""

    @dataclass(kw_only=True, slots=True)
    class Config(Linear.Config):
        precision: Literal["fp8", "fp4"] = "fp4"

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self._recipe_text = RECIPES[config.precision].to_json()
        self._kept: Format = "mxfp4" if config.precision == "fp4" else "fp8"

    def forward(self, input: Tensor) -> Tensor:
        weight = self.weight.to_local() if isinstance(self.weight, DTensor) else self.weight
        y = apply_linear(input.bfloat16(), weight, self._recipe_text, self._kept)
        return (y if self.bias is None else y + self.bias.to(y.dtype)).type_as(input)


class PaucaGroupedExpertsConverter(QuantizationConverter):
    """Let pauca compute the routed experts of a model."""

    @dataclass(kw_only=True, slots=True)
    class Config(QuantizationConverter.Config):
        precision: Literal["bf16", "fp8", "fp4"] = "fp4"
        """Numerics: FP4 computes in FP8 and keeps MXFP4."""

    def __init__(self, config: Config) -> None:
        self.config = config

    def convert(self, model_config: Any) -> Any:
        """The config with its experts replaced.

        Raises:
            ConfigError: experts of another kind than torchtitan's SwiGLU ones, or sizes that the recipe cannot hold.
        """
        found = []
        for name, config, parent, attribute in model_config.traverse(GroupedExperts.Config):
            if type(config) is not GroupedExperts.Config:
                raise ConfigError(f"{name} is built from {type(config).__qualname__}: pauca knows GroupedExperts alone")
            checked_recipe(RECIPES[self.config.precision], config.dim, config.hidden_dim)
            new = PaucaGroupedExperts.Config(**_values(config), precision=self.config.precision)
            found.append((parent, attribute, new))
        return _replaced(model_config, found)


class PaucaLinearConverter(QuantizationConverter):
    """Let pauca compute linear layers, such as attention's projections."""

    @dataclass(kw_only=True, slots=True)
    class Config(QuantizationConverter.Config):
        fqns: list[str] = field(default_factory=lambda: ["attention"])
        """Parts of names; layers whose full name holds one of them are converted."""
        precision: Literal["fp8", "fp4"] = "fp4"

    def __init__(self, config: Config) -> None:
        self.config = config

    def convert(self, model_config: Any) -> Any:
        """The config with those linear layers replaced.

        Raises:
            ConfigError: a size that is not a multiple of 32; name the layers that are to be converted in `fqns`.
        """
        found = []
        for name, config, parent, attribute in model_config.traverse(Linear.Config):
            if type(config) is not Linear.Config or not any(part in name for part in self.config.fqns):
                continue
            sizes = config.in_features, config.out_features
            if any(size % BLOCK for size in sizes):
                raise ConfigError(f"{name}: sizes must be multiples of {BLOCK}, got {sizes}; leave it out of fqns")
            new = PaucaLinear.Config(**_values(config), precision=self.config.precision)
            found.append((parent, attribute, new))
        return _replaced(model_config, found)


def _values(config: Any) -> dict[str, Any]:
    return {entry.name: getattr(config, entry.name) for entry in fields(config)}


def _replaced(root: Any, found: list[tuple[Any, Any, Any]]) -> Any:
    """The root with some of its configs replaced, in place: parents, attributes, and what comes there."""
    for parent, attribute, new in found:
        if parent is None:
            return new
        if isinstance(parent, list):
            parent[attribute] = new
        else:
            setattr(parent, attribute, new)
    return root
