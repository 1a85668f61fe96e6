"""What a bank of experts keeps between forward and backward: in which formats, how many bytes, as which tensors."""

from dataclasses import dataclass
from math import prod
from typing import get_args

import torch
from torch import Tensor

from pauca.errors import ConfigError
from pauca.moe.layer.permutation import row_bound
from pauca.moe.layer.recipe import Format, Recipe, Recompute
from pauca.moe.ops.formats import Fp8Tensor, Granularity, MxFp4Tensor, Stored, mxfp4_row_bytes


@dataclass(frozen=True)
class KeptFormats:
    """What backward finds, besides weights and routing; None is computed again."""

    input: Format
    gathered: bool  # FC1's input once per row, or once per token
    z: Format | None
    fc2_input: Format | None

    @property
    def own_input(self) -> bool:
        """Whether FC1's input is kept as it came: the layer's own BF16 input, of which nothing is copied."""
        return self.input == "bf16" and not self.gathered


def kept_formats(recipe: Recipe, recompute: Recompute) -> KeptFormats:
    """What a recipe keeps under a recompute mode."""
    if recompute not in get_args(Recompute):
        raise ConfigError(f"recompute must be none, activation or experts, got {recompute!r}")
    own: Format = "mxfp4" if recipe.precision == "fp4" else recipe.precision
    return KeptFormats(
        input=own,
        gathered=recipe.precision != "fp4" and recompute == "none",
        z=None if recompute == "experts" else recipe.kept_z,
        fc2_input=own if recipe.keep_fc2_input and recompute == "none" else None,
    )


def kept_bytes(
    recipe: Recipe, recompute: Recompute, *, tokens: int, top_k: int, experts: int, hidden: int, width: int
) -> int:
    """Bytes kept for backward by one bank of experts, and only them.

    Not counted: the weights, the routing (12 bytes per copy), and in the bf16 recipe that keeps FC1's input once
    per token, that input, which is the layer's own.

    Raises:
        ConfigError: no recipe, sizes that it cannot hold, or counts below one.
    """
    if not isinstance(recipe, Recipe):
        raise ConfigError(f"recipe must be a Recipe, such as Recipe.fp4(), got {recipe!r}")
    recipe.check_sizes(hidden, width)
    if min(tokens, top_k, experts) < 1:
        raise ConfigError(f"tokens {tokens}, top_k {top_k} and experts {experts} must be at least one")
    shapes = kept_shapes(recipe, recompute, tokens, row_bound(tokens * top_k, experts), experts, hidden, width)
    return sum(prod(shape) for shape in shapes)


def kept_shapes(
    recipe: Recipe, recompute: Recompute, tokens: int, rows: int, experts: int, hidden: int, width: int, halves: int = 2
) -> list[tuple[int, ...]]:
    """Shapes of the byte tensors that forward hands to backward; FC1's output is `halves` times as wide as FC2's."""
    kept = kept_formats(recipe, recompute)
    parts = [(kept.z, rows, halves * width), (kept.fc2_input, rows, width)]
    if not kept.own_input:
        parts.insert(0, (kept.input, rows if kept.gathered else tokens, hidden))
    shapes: list[tuple[int, ...]] = []
    for format_, count, channels in parts:
        if format_ == "bf16":
            shapes.append((count, 2 * channels))
        elif format_ == "fp8":
            shapes += [(count, channels), (count, 1)]
        elif format_ == "mxfp4":
            shapes.append((count, mxfp4_row_bytes(channels)))
    # With FP8 weights, the largest scale byte of each expert's two matrices.
    return shapes if recipe.precision == "bf16" else [*shapes, (experts,), (experts,)]


def to_bytes(*stored: Stored | Tensor | None) -> list[Tensor]:
    """The bytes of matrices, in order, as `kept_shapes` says."""
    tensors = []
    for item in stored:
        if isinstance(item, Fp8Tensor):
            tensors += [item.codes, item.scales[:, None]]
        elif isinstance(item, MxFp4Tensor):
            tensors.append(item.data)
        elif item is not None:
            tensors.append(item.view(torch.uint8))
    return tensors


def from_bytes(tensors: list[Tensor], format_: Format | None, channels: int) -> Stored | None:
    """Take the next stored matrix off the front of `tensors`."""
    if format_ is None:
        return None
    data = tensors.pop(0)
    if format_ == "fp8":
        return Fp8Tensor(data, tensors.pop(0)[:, 0], Granularity.ROW)
    return MxFp4Tensor(data, channels) if format_ == "mxfp4" else data.view(torch.bfloat16)
