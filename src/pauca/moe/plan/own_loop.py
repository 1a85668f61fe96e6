"""What a step of `pauca moe train` takes besides what any training must: small operations, casts, the loss, clipping.

A plan counts what a training needs whose small operations are fused by hand. Pauca's own loop runs many of PyTorch's
operations one by one, launched by Python (`eager`: `--no-graph`) or recorded (`recorded`), or fused by `torch.compile`
and recorded (`compiled`: `--compile`). Counts of bytes are from the code, but for `SMALL_BYTES`, which are
fitted to trainings of `base` alone; see docs/moe/plan.md for how well they foretell others.
"""

from typing import Literal

from pauca.moe.layer.recipe import Precision
from pauca.moe.models.shapes import ModelShape
from pauca.moe.plan.memory import Load
from pauca.moe.plan.speed import Rates, Seconds

Loop = Literal["fused", "compiled", "recorded", "eager"]

SMALL_BYTES = {"compiled": 470.0, "recorded": 560.0, "eager": 560.0}
"""Moved by casts, residual sums, routing and their like, for each token and channel of a layer."""
ROWS_BESIDE_PRODUCTS = 0.8
"""Share of a product's reading and writing of rows that its operations do not hide: fitted to the experts of six
models, `bf16` and `fp8` (docs/moe/measured.md)."""
LOSS_BYTES = 36
"""For each logit, chunk by chunk: written, read and cast some ten times."""
CLIP_BYTES = 12
"""For each parameter: its gradient is read for the norm, read again and written."""
HALF_RATE_CONTEXT = 750
"""Tokens of context at which attention reaches half of its rate: 260 and 340 TFLOP/s at 1,024 and 2,048 (H200)."""
WIDE_HEADS = 1.42
"""How much faster attention is with heads of 128 channels than of 64: 540 TFLOP/s in `xl` at 4,096 (H200, profiled)."""
LAUNCH_MS = {"alone": 9.0, "sharded": 13.0, "exchanging": 16.0}
"""Python's time for a layer, forward and backward, with what stands between layers: on one GPU (9.1 and 9.2 on a quiet
host, 8 to 12 on a busy one), under FSDP2 (12.6 and 14.0), and where tokens travel to experts (14.4 to 17.3)."""
MOST_RECORDED_EP = 2
"""With more GPUs that share a layer's experts a step is not recorded (`BOUNDED_RANKS` of the trainer)."""
LEAST_MS = 0.3
"""The least time of a layer's kernels, forward and backward, recorded as a CUDA graph; assumed: 150 of 2 us."""


def layer_time(
    shape: ModelShape, recipe: Precision, tokens: int, context: int, load: Load | None, rates: Rates, loop: Loop
) -> Seconds:
    """Forward and backward of a layer: what stands beside `attention_time` and `feed_forward_time`.

    Args:
        load: of the layer's experts; None in a dense layer.
    """
    attention, hidden = shape.attention, shape.hidden
    channels = attention.query_channels + attention.output_channels
    scores = 3.5 * tokens * context * channels / (rates.attention_tflops * 1e12)
    faster = WIDE_HEADS if attention.query_channels >= 128 * attention.heads else 1.0
    banks = (
        [(tokens, shape.dense_width)] if load is None else [(load.copies, shape.width), (tokens, shape.shared_width)]
    )
    element = 2 if recipe == "bf16" else 1
    rows = sum((element + 1) * copies * (4 * hidden + 6 * width) for copies, width in banks if width)
    rows += 6 * tokens * (2 * hidden + channels)  # of attention's projections
    return {
        "small operations": rates.bytes(SMALL_BYTES[loop] * tokens * hidden),
        "rows of products": ROWS_BESIDE_PRODUCTS * rates.bytes(rows),
        "attention": scores * ((1 + HALF_RATE_CONTEXT / context) / faster - 1),  # the rest of `attention_time`'s
    }


def head_time(shape: ModelShape, tokens: int, rates: Rates) -> float:
    """The loss, beside the head's products."""
    return rates.bytes(LOSS_BYTES * tokens * shape.vocabulary)


def cast_time(experts: int | float, others: int | float, recipe: Precision, rates: Rates) -> float:
    """Of FP32 weights in one pass: BF16 copies in forward and backward, and gradients from BF16 to FP32.

    Args:
        experts: parameters of the experts on this GPU, which few-bit recipes quantize from FP32 directly.
        others: all other parameters.
        recipe: numerics of the experts.
        rates: the GPU's.
    """
    return rates.bytes((18 if recipe == "bf16" else EXPERTS_CAST_BYTES) * experts + 18 * others)


EXPERTS_CAST_BYTES = 10
"""For each of the experts' FP32 weights under `fp8` and `fp4`, beside what quantizing them from BF16 would move."""
