"""In which formats tokens and gradients travel between ranks, and how many bytes that takes."""

from dataclasses import dataclass

from pauca.errors import ConfigError
from pauca.moe.layer.kept import kept_formats
from pauca.moe.layer.recipe import Format, Recipe
from pauca.moe.ops.formats import mxfp4_row_bytes


@dataclass(frozen=True)
class WireBytes:
    """Bytes that one row takes: one token on its way to one rank, or back, in forward and in backward."""

    tokens: int
    """Forward, to the experts: the token's codes and scales."""
    routing: int
    """Forward, beside the token: an expert and a weight, of 4 bytes each, for each choice."""
    outputs: int
    """Forward, back: the weighted sum of that rank's experts."""
    output_gradients: int
    """Backward, to the experts: the output's gradient."""
    input_gradients: int
    """Backward, back: the token's gradient."""
    routing_gradients: int
    """Backward, back: the gradients of the choices' weights."""


def wire_bytes(recipe: Recipe, hidden: int, top_k: int, dispatch: Format | None = None) -> WireBytes:
    """What expert parallelism sends per row; `dispatch` as for `parallelize`.

    Examples:
        >>> wire_bytes(Recipe.fp4(), hidden=7168, top_k=8).tokens  # 7168 / 2 + 7168 / 32, a multiple of 16
        3808
    """
    row = {"bf16": 2 * hidden, "fp8": hidden + 1, "mxfp4": mxfp4_row_bytes(hidden)}
    return WireBytes(
        tokens=row[wire_format(recipe, dispatch)],
        routing=8 * top_k,
        outputs=2 * hidden,
        output_gradients=row[gradient_format(recipe)],
        input_gradients=2 * hidden,
        routing_gradients=4 * top_k,
    )


def wire_format(recipe: Recipe, dispatch: Format | None) -> Format:
    """The format of tokens on their way to their experts: what was asked for, or what the recipe keeps them in."""
    own = kept_formats(recipe, "none").input
    allowed = {"bf16": ("bf16",), "fp8": ("bf16", "fp8"), "mxfp4": ("bf16", "fp8", "mxfp4")}[own]
    if dispatch is not None and dispatch not in allowed:
        raise ConfigError(f"tokens of the {recipe.precision} recipe travel in {' or '.join(allowed)}, not {dispatch!r}")
    return dispatch or own


def gradient_format(recipe: Recipe) -> Format:
    """The format of the outputs' gradients on their way to the experts."""
    return "bf16" if recipe.precision == "bf16" else "fp8"
