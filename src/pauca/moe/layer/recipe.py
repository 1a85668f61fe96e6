"""What is computed, kept and sent in which format: the numerics of one mixture-of-experts layer."""

import json
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Literal, get_args

from pauca.errors import ConfigError
from pauca.moe.ops.formats import ScaleRule

Precision = Literal["bf16", "fp8", "fp4"]
"""bf16: everything in BF16. fp8: products and kept activations in FP8. fp4: products in FP8, kept activations and the
dispatched tokens in MXFP4."""

Format = Literal["bf16", "fp8", "mxfp4"]
"""How a kept matrix is stored: BF16, E4M3 with one scale per row, or MXFP4."""

Recompute = Literal["none", "activation", "experts"]
"""What backward computes again, and so what need not be kept. none: what the recipe keeps. activation: the cheap steps
between the products (gathering FC1's input, SwiGLU). experts: FC1's output too, so that only FC1's input is kept, once
per token. Never the routing."""


ROTATES = '"rotate": true'
"""What the text of a recipe holds that rotates: where a compiler reads it, which cannot look inside."""


@dataclass(frozen=True)
class Recipe:
    """The formats of a layer. `Recipe.bf16()`, `.fp8()` and `.fp4()` are the ones that have been measured."""

    precision: Precision = "bf16"
    """Format of the products and of what is kept; fp4 computes in FP8 and keeps MXFP4."""
    kept_z: Format = "bf16"
    """Format in which FC1's output z is kept for SwiGLU's backward. In forward, SwiGLU reads z in BF16 whatever this
    says."""
    keep_fc2_input: bool = True
    """Keep FC2's input for FC2's weight gradient (in bf16, fp8 or mxfp4, by precision). Otherwise backward computes it
    from the kept z, in the kernel that reads z anyway."""
    scale_rule: Literal["floor", "even", "rceil", "ceil", "best"] = "even"
    """How a block of 32 values picks its MXFP4 scale. Measured signal to noise on Gaussian data, in dB: floor 18.79,
    even 19.01, rceil 18.75, ceil 16.83, best of two 19.04 (benchmarks/moe_formats.py)."""
    stochastic_rounding: bool = False
    """Round MXFP4 codes up or down at random, right on average, instead of to the nearest."""
    rotate: bool = False
    """Rotate the experts' input before it becomes MXFP4, and FC1's weights alike (a Hadamard transform over blocks of
    32 channels): a few channels that are much larger than the rest then cost nothing more. FC1's weights are copied in
    each pass, in BF16."""
    fast_accumulate: bool = True
    """Let FP8 products keep their sums in the tensor core's narrower accumulator: up to a fifth faster, less exact for
    long sums."""

    def __post_init__(self) -> None:
        for name, value, choices in (
            ("precision", self.precision, get_args(Precision)),
            ("kept_z", self.kept_z, get_args(Format)),
            ("scale_rule", self.scale_rule, [rule.value for rule in ScaleRule]),
        ):
            if value not in choices:
                raise ConfigError(f"{name} must be {', '.join(choices[:-1])} or {choices[-1]}, got {value!r}")
        if self.precision == "bf16" and self.kept_z != "bf16":
            raise ConfigError(f"the bf16 recipe keeps z in bf16, not {self.kept_z}; use the recipe fp8 or fp4")
        if self.stochastic_rounding and "fp4" not in (self.precision, self.kept_z.removeprefix("mx")):
            raise ConfigError(f"stochastic rounding is of MXFP4 codes: this {self.precision} recipe has none")
        if self.rotate and self.precision != "fp4":
            raise ConfigError(f"rotate is for inputs in MXFP4, which the {self.precision} recipe does not have")

    @classmethod
    def bf16(cls) -> "Recipe":
        """Everything in BF16; runs on any device."""
        return cls()

    @classmethod
    def fp8(cls, kept_z: Format = "bf16") -> "Recipe":
        """FP8 products with one scale per row, FP8 activations kept, z in BF16: the baseline to beat."""
        return cls(precision="fp8", kept_z=kept_z)

    @classmethod
    def fp4(cls, kept_z: Format = "mxfp4", keep_fc2_input: bool = False) -> "Recipe":
        """FP8 products, MXFP4 kept: FC1's input once per token, z, and FC2's input computed again from z."""
        return cls(precision="fp4", kept_z=kept_z, keep_fc2_input=keep_fc2_input)

    @classmethod
    def paper(cls) -> "Recipe":
        """`fp4` as the paper's authors' code has it: scales rounded up, and FC2's input kept in MXFP4 as well.

        FC1 reads FP8 made from the dispatched MXFP4, all other products FP8 made from BF16 (arXiv 2603.02731).
        """
        return cls(precision="fp4", kept_z="mxfp4", keep_fc2_input=True, scale_rule="rceil")

    def check_sizes(self, hidden: int, width: int) -> None:
        """Refuse sizes of an expert that these formats cannot hold.

        Raises:
            ConfigError: a size is not a multiple of 32 (fp8, fp4: blocks of 32 share a scale) or of 8 (bf16: products
                ask for rows of 16 bytes).
        """
        multiple = 8 if self.precision == "bf16" else 32
        for name, size in (("hidden", hidden), ("width", width)):
            if size < 1 or size % multiple:
                raise ConfigError(
                    f"{name} must be a multiple of {multiple} under the {self.precision} recipe, got {size}"
                )

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @staticmethod
    @lru_cache
    def from_json(text: str) -> "Recipe":
        return Recipe(**json.loads(text))


RECIPES: dict[Precision, Recipe] = {"bf16": Recipe.bf16(), "fp8": Recipe.fp8(), "fp4": Recipe.fp4()}
"""The recipes that have been measured, by name."""
