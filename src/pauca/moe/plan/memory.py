"""The memory of a model's parts on one GPU, in bytes: what a pass keeps for its backward, and what backward needs.

The formulas follow `MoELM` tensor by tensor (`models/`, `layer/passes.py`); latent attention, which `MoELM` lacks, is
counted as DeepSeek-V3's authors describe theirs. Everything is per micro-batch of `tokens` tokens on this GPU.
"""

from dataclasses import dataclass
from math import comb, prod

from pauca.moe.layer.kept import kept_formats, kept_shapes
from pauca.moe.layer.permutation import row_bound
from pauca.moe.layer.recipe import Precision, Recipe, Recompute
from pauca.moe.models.config import Recomputation
from pauca.moe.models.cross_entropy import LOGITS_AT_ONCE
from pauca.moe.models.shapes import GroupedQueryAttention, LatentAttention, ModelShape
from pauca.moe.ops.formats import mxfp4_row_bytes

Bytes = dict[str, int]
"""Bytes by what they hold."""


@dataclass(frozen=True)
class Load:
    """What the experts on one GPU get to do in one pass."""

    received: int
    """Tokens that arrive, each once however many of these experts it visits."""
    copies: int
    """Visits of tokens to these experts."""
    experts: int

    @property
    def rows(self) -> int:
        return row_bound(self.copies, self.experts)


def routed_load(shape: ModelShape, tokens: int, ep: int = 1, imbalance: float = 1.0) -> Load:
    """The load of a GPU that shares a layer's experts with `ep - 1` others.

    Args:
        tokens: on each of these GPUs.
        imbalance: load of this GPU over the mean.
    """
    local = shape.experts // ep
    # Of all choices of top_k experts, those that leave this GPU's out.
    elsewhere = comb(shape.experts - local, shape.top_k) / comb(shape.experts, shape.top_k)
    received = tokens * ep * (1 - elsewhere) * imbalance
    most = tokens * ep * min(shape.top_k, local)  # so that experts that nobody shares are not more than busy
    return Load(round(min(received, tokens * ep)), round(min(tokens * shape.top_k * imbalance, most)), local)


def dense_load(tokens: int) -> Load:
    """That of a shared expert or a dense feed-forward: one expert which every token visits."""
    return Load(tokens, tokens, 1)


# What is kept from forward to backward


def kept_by_bank(recipe: Recipe, mode: Recompute, load: Load, hidden: int, width: int) -> Bytes:
    """What a bank of experts keeps: activations in the recipe's formats, and the order of its rows."""
    shapes = kept_shapes(recipe, mode, load.received, load.rows, load.experts, hidden, width)
    return {"experts": sum(map(prod, shapes)), "routing": 8 * load.rows + 8 * load.copies + 4 * load.experts}


def kept_by_attention(shape: ModelShape, policy: Recomputation, tokens: int, projected: Precision = "bf16") -> Bytes:
    """What one layer's attention keeps, with its norm; its projections' numerics are `projected`."""
    kept = {"residual": 2 * tokens * shape.hidden}
    if policy.attention is True:
        return kept
    norms = 4 * tokens + (0 if policy.norms or projected != "bf16" else 2 * tokens * shape.hidden)
    inputs = _projection_inputs(shape, tokens, projected)
    if isinstance(shape.attention, LatentAttention):
        latent_norms, heads = _latent_attention(shape.attention, policy, tokens, projected)
        norms += latent_norms
    else:
        heads = _grouped_attention(shape.attention, tokens)
    output = 2 * tokens * shape.attention.output_channels + 4 * tokens * shape.attention.heads  # and log-sum-exp
    return kept | {"norms": norms, "attention": inputs + heads + output}


def _projection_inputs(shape: ModelShape, tokens: int, projected: Precision) -> int:
    """What projections in few bits keep of what they read: rows in their format, in place of the norms' results.

    The last one keeps nothing of its own: it reads what attention keeps in BF16.
    """
    if projected == "bf16":
        return 0
    attention, widths = shape.attention, [shape.hidden]
    if isinstance(attention, LatentAttention):
        widths += [rank for rank in (attention.query_rank, attention.kv_rank) if rank]
    row = mxfp4_row_bytes if projected == "fp4" else (lambda channels: channels + 1)
    return tokens * sum(map(row, widths)) + len(widths) + 1  # and the largest scale byte of each weight


def _grouped_attention(attention: GroupedQueryAttention, tokens: int) -> int:
    """Rotated queries and keys, and values; where there are norms, also queries and keys before them."""
    rotated = attention.query_channels + attention.kv_channels
    norms = {"none": 0, "head": attention.heads + attention.kv_heads, "all": 2}[attention.qk_norm]
    return tokens * (2 * (rotated + attention.kv_channels) + (2 * rotated if norms else 0) + 4 * norms)


def _latent_attention(
    attention: LatentAttention, policy: Recomputation, tokens: int, projected: Precision
) -> tuple[int, int]:
    """What the latents' norms keep, and what the rest keeps but for the output."""
    ranks = attention.query_rank + attention.kv_rank
    results = 0 if policy.norms or projected != "bf16" else 2 * tokens * ranks
    norms = 4 * tokens * (1 + (attention.query_rank > 0)) + results
    latents = 2 * tokens * (ranks + attention.rope_dim)
    heads = 2 * tokens * (2 * attention.query_channels + attention.output_channels)  # queries, keys, values
    return norms, latents + (0 if policy.attention == "up" else heads)


def kept_by_feed_forward(
    shape: ModelShape, recipe: Recipe, policy: Recomputation, tokens: int, load: Load | None
) -> Bytes:
    """What one layer's feed-forward keeps, with its norm: experts under `load`, or the dense one if that is None."""
    # With FC1's input kept in BF16 once per token, the bank keeps the norm's output; so does the router.
    kept = {"residual": 2 * tokens * shape.hidden, "norms": 4 * tokens}
    own_input = kept_formats(recipe, policy.experts).own_input
    if not policy.norms and (load is not None or own_input):
        kept["norms"] += 2 * tokens * shape.hidden
    if load is None:
        return _sum(kept, kept_by_bank(recipe, policy.experts, dense_load(tokens), shape.hidden, shape.dense_width))
    kept["router"] = tokens * (4 * shape.experts + 12 * shape.top_k + 4)  # scores; ids and weights, before and after
    kept = _sum(kept, kept_by_bank(recipe, policy.experts, load, shape.hidden, shape.width))
    if shape.shared_width:
        shared = kept_by_bank(recipe, policy.experts, dense_load(tokens), shape.hidden, shape.shared_width)
        kept = _sum(kept, {"shared experts": shared["experts"], "routing": shared["routing"]})
    return kept


def kept_by_layer(
    shape: ModelShape,
    recipe: Recipe,
    policy: Recomputation,
    tokens: int,
    load: Load | None,
    projected: Precision = "bf16",
) -> Bytes:
    """What one layer keeps, its input included: an MoE layer under `load`, or a dense layer where that is None."""
    attention = kept_by_attention(shape, policy, tokens, projected)
    return _sum(attention, kept_by_feed_forward(shape, recipe, policy, tokens, load))


def kept_by_head(shape: ModelShape, tokens: int) -> Bytes:
    """What the last norm and the loss keep; the loss holds gradients: FP32 of the head, BF16 of the hidden states."""
    return {"loss": 2 * (2 * tokens * shape.hidden) + 4 * tokens + 4 * shape.embedding_parameters}


# What backward needs besides, at its height


def bank_working_set(recipe: Recipe, mode: Recompute, load: Load, hidden: int, width: int, parameter_bytes: int) -> int:
    """What a bank's backward needs, from the output's gradient to the gradients of weights and input."""
    if recipe.precision == "bf16":
        return _bf16_working_set(mode, load, hidden, width, parameter_bytes)
    return _fp8_working_set(recipe, mode, load, hidden, width, parameter_bytes)


def _bf16_working_set(mode: Recompute, load: Load, hidden: int, width: int, parameter_bytes: int) -> int:
    rows, h_rows, matrix = load.rows * hidden, load.rows * width, load.experts * hidden * width
    cast = 6 * matrix if parameter_bytes == 4 else 0
    again = (2 * rows + 2 * h_rows if mode != "none" else 0) + (4 * h_rows if mode == "experts" else 0)
    stages = (
        again + 2 * rows + 2 * h_rows + 2 * matrix,  # dy by row, the activation's gradient, FC2's
        again + 6 * h_rows + 6 * matrix,  # z's gradient, FC1's
        again + 6 * h_rows + 6 * matrix + 2 * rows + 2 * load.received * hidden,  # x's, by row and by token
    )
    wide = 18 * matrix + 2 * load.received * hidden if parameter_bytes == 4 else 0  # weight gradients in FP32, too
    return max(cast + max(stages), wide) + 2 * load.received * hidden


def _fp8_working_set(recipe: Recipe, mode: Recompute, load: Load, hidden: int, width: int, parameter_bytes: int) -> int:
    rows, h_rows, matrix = load.rows * hidden, load.rows * width, load.experts * hidden * width
    tokens = load.received * hidden
    cast = 2 if parameter_bytes == 4 else 0  # a BF16 copy while weights are quantized
    z = 4 * h_rows if mode == "experts" else 0
    again = kept_formats(recipe, mode).fc2_input is None
    columns = 5 * h_rows  # z's gradient by row and by column, FC2's input by column
    stages = (
        z + rows + (1 + cast) * 2 * matrix if mode == "experts" else 0,  # FC1 again
        z + rows + (1 + cast) * matrix + 2 * h_rows,  # dy by row, the activation's gradient
        z + 2 * h_rows + columns + again * h_rows,  # SwiGLU, both directions
        columns + rows + 2 * matrix,  # FC2's gradient
        4 * h_rows + rows + 6 * matrix,  # FC1's
        2 * h_rows + 6 * matrix + (1 + cast) * 2 * matrix + 2 * rows,  # x's, by row
        2 * h_rows + 6 * matrix + 2 * rows + 2 * tokens,  # and by token
        18 * matrix + 2 * tokens if parameter_bytes == 4 else 0,  # weight gradients in FP32, too
    )
    return max(stages) + 3 * tokens  # with dy in BF16 and in FP8


def attention_working_set(shape: ModelShape, policy: Recomputation, tokens: int) -> int:
    """What the attention block's backward needs: what it computes again, and gradients of queries, keys and values."""
    attention = shape.attention
    everything = kept_by_attention(shape, Recomputation(policy.norms), tokens)
    again = sum(everything.values()) - sum(kept_by_attention(shape, policy, tokens).values())
    heads = 2 * attention.query_channels + attention.output_channels
    # In BF16 for all heads, those of shared keys and values summed afterwards; in FP32 the queries' once more.
    gradients = tokens * (2 * heads + 4 * attention.query_channels + 2 * attention.output_channels)
    return again + max(gradients, norm_working_set(shape, tokens))


def norm_working_set(shape: ModelShape, tokens: int) -> int:
    """What an RMSNorm's backward needs: five FP32 tensors of the residual stream's size and its gradient."""
    return 22 * tokens * shape.hidden


def loss_working_set(shape: ModelShape, tokens: int, parameter_bytes: int) -> int:
    """What the head and the cross entropy need; it goes through the vocabulary in chunks of tokens."""
    rows = min(tokens, max(1, LOGITS_AT_ONCE // shape.vocabulary))
    # In BF16 the logits, and if there are several chunks the last one's gradient; in FP32 the logits and the logarithms
    # of the probabilities.
    chunk = (10 + 2 * (rows < tokens)) * rows * shape.vocabulary
    cast = 2 * shape.embedding_parameters if parameter_bytes == 4 else 0
    return max(chunk + cast + 2 * tokens * shape.hidden, 4 * shape.embedding_parameters)


def working_set(
    shape: ModelShape,
    recipe: Recipe,
    policy: Recomputation,
    tokens: int,
    load: Load | None,
    parameter_bytes: int = 2,
) -> int:
    """The most that one layer's backward needs besides all that the layer keeps, some of which has gone by then."""
    residual = 2 * tokens * shape.hidden
    kept = kept_by_feed_forward(shape, recipe, policy, tokens, load)
    attention = attention_working_set(shape, policy, tokens) + residual - sum(kept.values())
    numerics = (recipe, policy.experts)
    if load is None:
        dense = bank_working_set(*numerics, dense_load(tokens), shape.hidden, shape.dense_width, parameter_bytes)
        return max(attention, dense)
    routed = bank_working_set(*numerics, load, shape.hidden, shape.width, parameter_bytes)
    if not shape.shared_width:
        return max(attention, routed)
    # The shared experts' backward comes first; what it gives for the input waits for the routed experts'.
    shared = bank_working_set(*numerics, dense_load(tokens), shape.hidden, shape.shared_width, parameter_bytes)
    return max(attention, shared, routed + residual - kept["shared experts"])


def _sum(first: Bytes, second: Bytes) -> Bytes:
    return {name: first.get(name, 0) + second.get(name, 0) for name in [*first, *(n for n in second if n not in first)]}
