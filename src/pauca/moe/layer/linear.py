"""A linear layer in few bits: its products run in FP8, and its input is kept in MXFP4 (or FP8) for backward.

What `passes` does for experts, for one matrix that every token meets: attention's projections. Forward multiplies FP8
rows, quantized from BF16 or made from the kept MXFP4. Backward quantizes the output's gradient once, and turns its rows
and those of the kept input into columns by shifting exponents: what the weight's gradient is a product of.
"""

from collections.abc import Sequence
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.weak import WeakIdKeyDictionary

from pauca.errors import ConfigError, InputError
from pauca.moe import ops
from pauca.moe.layer.derivatives import first_derivative_only
from pauca.moe.layer.kept import from_bytes, to_bytes
from pauca.moe.layer.passes import quantize
from pauca.moe.layer.permutation import PADDING
from pauca.moe.layer.recipe import Format, Recipe
from pauca.moe.layer.weights import backward_weights, forward_weights
from pauca.moe.ops import products
from pauca.moe.ops.formats import GROUP_ROWS, Fp8Tensor, MxFp4Tensor, Quantized, Stored, mxfp4_row_bytes


def apply_linear(
    x: Float[Tensor, "*batch inputs"],
    weight: Float[Tensor, "outputs inputs"],
    recipe: str,
    kept: Format = "mxfp4",
    from_kept: bool = False,
    stored: Sequence[Tensor] | None = None,
) -> Float[Tensor, "*batch outputs"]:
    """x @ weight.T in FP8, differentiable once in both.

    Args:
        x: BF16; inputs are a multiple of 32.
        weight: BF16 or FP32 (then rounded to BF16 for each use); outputs are a multiple of 16.
        recipe: `Recipe.to_json()`, of which the scale rule, the rounding and the accumulation count.
        kept: format in which x is kept for the weight's gradient. `bf16` keeps x itself: nothing more, where something
            else keeps it too.
        from_kept: make the FP8 rows from the kept MXFP4 rather than from x: one matrix less to read, with its error.
        stored: `quantize_input` of x, if several layers read it: it is then kept once. Not under `torch.compile`.
    """
    rows = x.reshape(-1, x.shape[-1])
    if len(rows) == 0:
        return x @ weight.to(x.dtype).t()
    keep = torch.is_grad_enabled() and weight.requires_grad
    if torch.compiler.is_compiling():
        y = _linear_forward(rows, weight, recipe, kept, from_kept, keep)[0]
    else:
        y = _Linear.apply(rows.contiguous(), weight, recipe, kept, from_kept, keep, *(stored or ()))
    return y.view(*x.shape[:-1], len(weight))


_STORED = WeakIdKeyDictionary()
"""What inputs were quantized to, while those inputs live."""


@torch.no_grad()
def quantize_input(x: Float[Tensor, "*batch inputs"], recipe: str, kept: Format) -> list[Tensor]:
    """x as `apply_linear` keeps it, in bytes: made once for all layers that read the same tensor in the same format."""
    version = None if x.is_inference() else x._version
    known = _STORED.get(x)
    if known is not None and known[0] == (version, recipe, kept):
        return known[1]
    rows = x.reshape(-1, x.shape[-1]).bfloat16().contiguous()
    tensors = [] if kept == "bf16" or len(rows) == 0 else to_bytes(quantize(rows, kept, Recipe.from_json(recipe)))
    _STORED[x] = (version, recipe, kept), tensors
    return tensors


class QuantizedLinear(nn.Module):
    """A linear layer without a bias, computed by `apply_linear`; what it returns is of its input's type."""

    def __init__(
        self, inputs: int, outputs: int, recipe: Recipe, kept: Format = "mxfp4", from_kept: bool = False
    ) -> None:
        """Build with random weights, FP32.

        Args:
            inputs: channels of a token, a multiple of 32.
            outputs: a multiple of 32, too, as backward's product sums over them.
            recipe: numerics, fp8 or fp4.
            kept: see `apply_linear`.
            from_kept: see `apply_linear`.
        """
        super().__init__()
        if from_kept and kept != "mxfp4":
            raise ConfigError(f"from_kept makes rows from a kept MXFP4 matrix, but this layer keeps {kept}")
        for name, size in (("inputs", inputs), ("outputs", outputs)):
            if size < 1 or size % 32:
                raise ConfigError(f"{name} of a quantized linear layer must be a multiple of 32, got {size}")
        self.weight = nn.Parameter(torch.empty(outputs, inputs))
        self.recipe, self.from_kept = recipe, from_kept
        self.kept: Format = kept
        nn.init.normal_(self.weight, std=inputs**-0.5)

    @property
    def recipe(self) -> Recipe:
        return self._recipe

    @recipe.setter
    def recipe(self, recipe: Recipe) -> None:
        if recipe.precision == "bf16":
            raise ConfigError("a quantized linear layer needs an fp8 or fp4 recipe; for bf16 use torch.nn.Linear")
        self._recipe, self._recipe_text = recipe, recipe.to_json()

    def forward(self, x: Float[Tensor, "*batch inputs"]) -> Float[Tensor, "*batch outputs"]:
        if x.shape[-1] != self.weight.shape[1] or x.dtype not in (torch.bfloat16, torch.float32):
            raise InputError(
                f"x must be bfloat16 or float32 with {self.weight.shape[1]} channels, got {x.dtype} {tuple(x.shape)}"
            )
        products.require_fp8(x.device)
        with torch.autocast(x.device.type, enabled=False):
            y = apply_linear(x.bfloat16(), self.weight, self._recipe_text, self.kept, self.from_kept)
        return y.to(x.dtype)

    def extra_repr(self) -> str:
        outputs, inputs = self.weight.shape
        return f"{inputs} to {outputs}, {self.recipe.precision}, keeps {self.kept}"


def _forward(
    x: Tensor, weight: Tensor, recipe: Recipe, kept: Format, from_kept: bool, given: Sequence[Tensor] = ()
) -> tuple[Tensor, list[Tensor]]:
    """The output, and as bytes what backward needs: x as it is kept, and the weight's largest scale byte.

    `given` is x as it is kept, if that has been made.
    """
    stored = _stored(kept, list(given), x.shape[1]) if given else quantize(x, kept, recipe)
    if isinstance(stored, Fp8Tensor):
        rows = stored
    elif from_kept:
        rows = ops.gather_mxfp4_to_fp8_rows(cast(MxFp4Tensor, stored))
    else:
        rows = ops.quantize_fp8_rowwise(x)
    operand, largest = forward_weights(weight[None])
    y = products.fp8_product(
        rows.values, rows.scales_float32(), operand.values[0], operand.scales[0], recipe.fast_accumulate
    )
    return y, [*(given or ([] if kept == "bf16" else to_bytes(stored))), largest]


def _backward(
    dy: Tensor, weight: Tensor, recipe: Recipe, stored: Stored | None, largest: Tensor, wanted_x: bool
) -> tuple[Tensor | None, Tensor | None]:
    """The gradients of x and, where something was kept of x, of the weight."""
    gradient = ops.quantize_fp8_rowwise(dy)
    dx = d_weight = None
    if wanted_x:
        operand = backward_weights(weight[None], largest)
        dx = products.fp8_product(
            gradient.values, gradient.scales_float32(), operand.values[0], operand.scales[0], recipe.fast_accumulate
        )
    if stored is not None:
        kept = ops.quantize_fp8_rowwise(stored) if isinstance(stored, Tensor) else stored
        a, b = _columns(gradient), _columns(kept)
        d_weight = products.fp8_product(
            a.values, a.scales_float32()[0], b.values, b.scales_float32()[0], recipe.fast_accumulate
        ).to(weight.dtype)
    return dx, d_weight


def _columns(rows: Quantized) -> Fp8Tensor:
    """All rows as one group, transposed, filled up with zeros to a multiple of 16: the length of a product's sum."""
    count = rows.shape[0]
    device = rows.codes.device
    padded = -(-count // GROUP_ROWS) * GROUP_ROWS
    offsets = torch.full((1,), padded, dtype=torch.int32, device=device)
    index = None
    if padded != count:
        index = torch.arange(padded, dtype=torch.int32, device=device)
        index = index.masked_fill(index >= count, PADDING)
    if isinstance(rows, MxFp4Tensor):
        return ops.gather_mxfp4_to_fp8_columns(rows, index, offsets)
    return ops.fp8_rows_to_columns(rows, offsets, index)


def _stored(kept: Format, tensors: list[Tensor], channels: int) -> Stored:
    """x as it was kept: the tensor itself under `bf16`, else from its bytes."""
    return tensors[0] if kept == "bf16" else cast(Stored, from_bytes(list(tensors), kept, channels))


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx, x: Tensor, weight: Tensor, recipe: str, kept: Format, from_kept: bool, keep: bool, *given: Tensor
    ) -> Tensor:
        y, tensors = _forward(x, weight, Recipe.from_json(recipe), kept, from_kept, given)
        *stored, largest = tensors
        ctx.recipe, ctx.kept, ctx.keep, ctx.given = recipe, kept, keep, len(given)
        ctx.save_for_backward(weight, largest, *(([x] if kept == "bf16" else stored) if keep else []))
        return y

    @staticmethod
    @first_derivative_only
    def backward(ctx, *gradients: Tensor) -> tuple:  # pyright: ignore[reportIncompatibleMethodOverride]
        weight, largest, *tensors = ctx.saved_tensors
        stored = _stored(ctx.kept, tensors, weight.shape[1]) if ctx.keep else None
        recipe, wanted_x = Recipe.from_json(ctx.recipe), ctx.needs_input_grad[0]
        found = _backward(gradients[0].contiguous(), weight, recipe, stored, largest, wanted_x)
        return *found, *(None,) * (4 + ctx.given)


# The same for a compiled graph, which sees two opaque operations of tensors and constants.


@torch.library.custom_op("pauca::linear_forward", mutates_args=())
def _linear_forward(
    x: Tensor, weight: Tensor, recipe: str, kept: str, from_kept: bool, keep: bool
) -> tuple[Tensor, list[Tensor]]:
    y, tensors = _forward(x.contiguous(), weight, Recipe.from_json(recipe), cast(Format, kept), from_kept)
    return y, tensors if keep else tensors[-1:]


@_linear_forward.register_fake
def _(x: Tensor, weight: Tensor, recipe: str, kept: str, from_kept: bool, keep: bool) -> tuple[Tensor, list[Tensor]]:
    tokens, inputs = x.shape
    shapes = {
        "bf16": [],
        "fp8": [(tokens, inputs), (tokens, 1)],
        "mxfp4": [(tokens, mxfp4_row_bytes(inputs))],
    }[kept if keep else "bf16"]
    y = x.new_empty(tokens, len(weight))
    return y, [x.new_empty(shape, dtype=torch.uint8) for shape in [*shapes, (1,)]]


@torch.library.custom_op("pauca::linear_backward", mutates_args=())
def _linear_backward(
    dy: Tensor, weight: Tensor, recipe: str, kept: str, tensors: list[Tensor], largest: Tensor
) -> tuple[Tensor, Tensor]:
    """Both gradients: a compiled graph asks before it can know which are wanted."""
    stored = _stored(cast(Format, kept), tensors, weight.shape[1]) if tensors else None
    dx, d_weight = _backward(dy.contiguous(), weight, Recipe.from_json(recipe), stored, largest, True)
    return cast(Tensor, dx), torch.zeros_like(weight) if d_weight is None else d_weight


@_linear_backward.register_fake
def _(
    dy: Tensor, weight: Tensor, recipe: str, kept: str, tensors: list[Tensor], largest: Tensor
) -> tuple[Tensor, Tensor]:
    return dy.new_empty(len(dy), weight.shape[1]), torch.empty_like(weight)


def _remember(ctx, inputs: tuple, output: tuple[Tensor, list[Tensor]]) -> None:
    x, weight, recipe, kept, _, keep = inputs
    *stored, largest = output[1]
    ctx.recipe, ctx.kept = recipe, kept
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(weight, largest, *(([x] if kept == "bf16" else stored) if keep else []))


def _opaque_backward(ctx, dy: Tensor, _: object) -> tuple:
    weight, largest, *tensors = ctx.saved_tensors
    return *_linear_backward(dy, weight, ctx.recipe, ctx.kept, tensors, largest), None, None, None, None


_linear_forward.register_autograd(_opaque_backward, setup_context=_remember)
