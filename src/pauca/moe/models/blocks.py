"""The parts of a decoder layer: products, norms, rotary positions, attention, feed-forward, and how they add up."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint

from pauca.moe import ops
from pauca.moe.layer.experts import Experts
from pauca.moe.layer.linear import QuantizedLinear
from pauca.moe.layer.moe import MoE
from pauca.moe.layer.recipe import RECIPES, Recipe, Recompute
from pauca.moe.models.config import LayersConfig, Recomputation
from pauca.moe.ops import reference


def product(a: Tensor, b: Tensor) -> Tensor:
    """A matrix product with FP32 sums, rounded to a's type."""
    if a.device.type == "cuda":
        return a @ b
    # A CPU without BF16 units multiplies BF16 thirty times as slowly as FP32.
    return (a.float() @ b.float()).to(a.dtype)


class _LinearFunction(torch.autograd.Function):
    """Rounds the master weights to x's type in forward and again in backward, so that no copy of them is kept."""

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return product(x.flatten(0, -2), weight.to(x.dtype).t()).view(*x.shape[:-1], len(weight))

    @staticmethod
    @once_differentiable
    def backward(ctx, *gradients: Tensor) -> tuple[Tensor, Tensor]:  # pyright: ignore[reportIncompatibleMethodOverride]
        x, weight = ctx.saved_tensors
        gradient = gradients[0].flatten(0, -2)
        d_weight = product(gradient.t(), x.flatten(0, -2))
        return product(gradient, weight.to(x.dtype)).view_as(x), d_weight.to(weight.dtype)


class Linear(nn.Module):
    """A product with FP32 (or BF16) master weights, computed in the type of its input."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(outputs, inputs))
        nn.init.normal_(self.weight, std=inputs**-0.5)

    def forward(self, x: Float[Tensor, "*batch inputs"]) -> Float[Tensor, "*batch outputs"]:
        return _LinearFunction.apply(x, self.weight)


class _RMSNormFunction(torch.autograd.Function):
    """Keeps its input as it came and one number a token; autograd would keep FP32 copies."""

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
        y, inverse = ops.rms_norm(x, weight, epsilon)
        ctx.save_for_backward(x, weight, inverse)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx, *gradients: Tensor) -> tuple:  # pyright: ignore[reportIncompatibleMethodOverride]
        return *ops.rms_norm_backward(gradients[0], *ctx.saved_tensors), None


class RMSNorm(nn.Module):
    """Divide each token by its root mean square; in FP32, returned like the input."""

    def __init__(self, hidden: int, epsilon: float = 1e-6) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(hidden))
        self.epsilon = epsilon

    def forward(self, x: Float[Tensor, "*batch hidden"]) -> Float[Tensor, "*batch hidden"]:
        return _RMSNormFunction.apply(x, self.weight, self.epsilon)


@dataclass(frozen=True)
class _Again:
    """Stands for a norm's output, of a given shape, among the tensors that autograd keeps."""

    shape: torch.Size


@contextmanager
def _recomputed(norm: RMSNorm, x: Tensor, normed: Tensor) -> Iterator[None]:
    """Whatever inside would keep `normed`, which is `norm(x)`, for backward keeps nothing: it is computed again."""
    its_place = normed.data_ptr(), normed.numel(), normed.dtype  # not itself, as the hooks live until backward

    def pack(tensor: Tensor) -> Tensor | _Again:
        same = (tensor.data_ptr(), tensor.numel(), tensor.dtype) == its_place and tensor.is_contiguous()
        return _Again(tensor.shape) if same else tensor

    @torch.no_grad()
    def unpack(kept: Tensor | _Again) -> Tensor:
        return norm(x).view(kept.shape) if isinstance(kept, _Again) else kept

    with torch.autograd.graph.saved_tensors_hooks(pack, unpack):
        yield


def rotary_table(
    positions: Float[Tensor, " time"], channels: int, base: float
) -> tuple[Float[Tensor, "time half"], Float[Tensor, "time half"]]:
    """Cosine and sine by which rotary positions (arXiv 2104.09864) turn each pair of `channels`."""
    # In FP32 whatever the default: in BF16, wavelengths would be rounded by up to 0.4 %.
    frequencies = base ** -(torch.arange(0, channels, 2, dtype=torch.float32, device=positions.device) / channels)
    angles = positions[:, None] * frequencies
    return angles.cos(), angles.sin()


def rotate(
    x: Float[Tensor, "batch time heads channels"], cosine: Float[Tensor, "time half"], sine: Float[Tensor, "time half"]
) -> Float[Tensor, "batch time heads channels"]:
    """Turn channel i and channel i + half of each head together, in FP32."""
    return reference.rotate_heads(x, cosine, sine, 1)


class _RotatedHeads(torch.autograd.Function):
    """Queries and keys turned and values copied, from one tensor of all heads; and their gradients back into one."""

    @staticmethod
    def forward(ctx, heads: Tensor, cosine: Tensor, sine: Tensor, sizes: list[int]) -> tuple[Tensor, ...]:
        ctx.save_for_backward(cosine, sine)
        ctx.sizes, ctx.shape = sizes, heads.shape
        parts = zip(heads.split(sizes, dim=2), _TURNS, strict=True)
        return tuple(ops.rotate_heads(part, cosine, sine, turn) for part, turn in parts)

    @staticmethod
    @once_differentiable
    def backward(ctx, *gradients: Tensor) -> tuple:  # pyright: ignore[reportIncompatibleMethodOverride]
        cosine, sine = ctx.saved_tensors
        heads = torch.empty(ctx.shape, dtype=gradients[0].dtype, device=gradients[0].device)
        for gradient, part, turn in zip(gradients, heads.split(ctx.sizes, dim=2), _TURNS, strict=True):
            ops.rotate_heads(gradient, cosine, sine, -turn, part)
        return heads, None, None, None


_TURNS = 1, 1, 0  # of queries, keys and values


class KeyValueCache:
    """Keys and values of the tokens so far, for generation: one layer's."""

    def __init__(self, batch: int, heads: int, longest: int, channels: int, device: torch.device) -> None:
        self.keys = torch.empty(batch, heads, longest, channels, dtype=torch.bfloat16, device=device)
        self.values = torch.empty_like(self.keys)
        self.length = 0

    def append(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Add those of new tokens; returns all."""
        new = slice(self.length, self.length + keys.shape[2])
        self.keys[:, :, new], self.values[:, :, new] = keys, values
        self.length = new.stop
        return self.keys[:, :, : new.stop], self.values[:, :, : new.stop]


def visible_keys(
    time: int,
    queries: int,
    mask: Bool[Tensor, "batch time"] | None,
    documents: Int[Tensor, "batch time"] | None,
    device: torch.device,
) -> Bool[Tensor, "batch 1 queries time"] | None:
    """Which of all tokens each of the last `queries` ones sees: earlier ones of its document that are not padding.

    And itself, padding too, as there must be something to see. None where it sees all earlier ones.
    """
    if mask is None and documents is None:
        return None
    place = torch.arange(time, device=device)
    itself = place[-queries:, None] == place
    seen = (place[-queries:, None] >= place)[None]
    if mask is not None:
        seen = seen & mask[:, None]
    if documents is not None:
        seen = seen & (documents[:, -queries:, None] == documents[:, None])
    return (seen | itself)[:, None]


class Attention(nn.Module):
    """Attention with grouped queries and rotary positions."""

    def __init__(
        self,
        hidden: int,
        heads: int,
        kv_heads: int,
        head_dim: int,
        causal: bool = True,
        projections: Recipe | None = None,
    ) -> None:
        """Build with random weights; `projections` computes them in FP8, by an fp8 or fp4 recipe, instead of BF16."""
        super().__init__()
        self.heads, self.kv_heads, self.head_dim, self.causal = heads, kv_heads, head_dim, causal
        sizes = (hidden, (heads + 2 * kv_heads) * head_dim), (heads * head_dim, hidden)
        if projections is None:
            self.qkv, self.out = (Linear(*pair) for pair in sizes)
        else:
            self.qkv = QuantizedLinear(*sizes[0], projections, "mxfp4" if projections.precision == "fp4" else "fp8")
            # Attention keeps its own output for its backward: a second copy in few bits would only add to it.
            self.out = QuantizedLinear(*sizes[1], projections, "bf16")

    def forward(
        self,
        x: Float[Tensor, "batch time hidden"],
        rotation: tuple[Float[Tensor, "time half"], Float[Tensor, "time half"]],
        cache: KeyValueCache | None = None,
        visible: Bool[Tensor, "batch 1 time keys"] | None = None,
    ) -> Float[Tensor, "batch time hidden"]:
        heads = self.qkv(x).unflatten(-1, (-1, self.head_dim))
        # Attention's output takes the layout of q: heads within a token, so that `out` reads it as it is. A copy of v
        # lets go of the tensor that also holds q and k before their rotation.
        q, k, v = (
            h.transpose(1, 2) for h in _RotatedHeads.apply(heads, *rotation, [self.heads, self.kv_heads, self.kv_heads])
        )
        causal = self.causal and x.shape[1] > 1 and visible is None
        if cache is not None:
            k, v = cache.append(k, v)
        grouped = self.heads != self.kv_heads
        y = F.scaled_dot_product_attention(q, k, v, visible, is_causal=causal, enable_gqa=grouped)
        return self.out(y.transpose(1, 2).flatten(2))


class FeedForward(nn.Module):
    """A dense SwiGLU: one expert that every token visits."""

    def __init__(self, hidden: int, width: int, recipe: Recipe | None = None, recompute: Recompute = "none") -> None:
        super().__init__()
        self.experts = Experts(hidden, width, 1, recipe, recompute)

    def forward(
        self, x: Float[Tensor, "*batch hidden"], mask: Bool[Tensor, "*batch"] | None = None
    ) -> Float[Tensor, "*batch hidden"]:
        """The one expert of every token, padding (`mask`, as of `MoE`) or not."""
        tokens = x.reshape(-1, x.shape[-1])
        everyone = torch.zeros(len(tokens), 1, dtype=torch.int64, device=x.device)
        return self.experts(tokens, everyone, torch.ones_like(everyone, dtype=torch.float32)).view(x.shape)


class Block(nn.Module):
    """One layer: attention, then feed-forward, each added to the residual stream."""

    def __init__(self, attention: Attention, feed_forward: nn.Module, recompute: Recomputation) -> None:
        super().__init__()
        hidden = attention.qkv.weight.shape[1]
        self.attention_norm, self.attention = RMSNorm(hidden), attention
        self.feed_forward_norm, self.feed_forward = RMSNorm(hidden), feed_forward
        self.recompute = recompute

    def forward(
        self,
        x: Float[Tensor, "batch time hidden"],
        rotation: tuple[Float[Tensor, "time half"], Float[Tensor, "time half"]],
        cache: KeyValueCache | None = None,
        mask: Bool[Tensor, "batch time"] | None = None,
        visible: Bool[Tensor, "batch 1 time keys"] | None = None,
    ) -> Float[Tensor, "batch time hidden"]:
        attend = (self.attention_norm, self.attention, x, rotation, cache, visible)
        if self.recompute.attention and torch.is_grad_enabled():
            x = x + checkpoint(_normed, *attend, use_reentrant=False, preserve_rng_state=False)
        else:
            x = x + self._branch(*attend)
        masked = () if mask is None else (mask,)
        return x + self._branch(self.feed_forward_norm, self.feed_forward, x, *masked)

    def _branch(self, norm: RMSNorm, module: nn.Module, x: Tensor, *arguments: Any) -> Tensor:
        if not self.recompute.norms or torch.compiler.is_compiling():
            return _normed(norm, module, x, *arguments)
        normed = norm(x)
        with _recomputed(norm, x, normed):
            return module(normed, *arguments)


def _normed(norm: RMSNorm, module: nn.Module, x: Tensor, *arguments: Any) -> Tensor:
    return module(norm(x), *arguments)


def build_block(config: LayersConfig, layer: int, causal: bool = True) -> Block:
    """One layer of a model."""
    sizes = (config.hidden, config.heads, config.kv_heads, config.head_dim)
    attention = Attention(*sizes, causal, _recipe_of_projections(config))
    if layer < config.dense_layers:
        feed_forward = FeedForward(config.hidden, config.dense_width, config.recipe, config.recompute.experts)
    else:
        feed_forward = MoE(
            config.hidden,
            config.expert_width,
            config.experts,
            config.top_k,
            shared_experts=config.shared_experts,
            recipe=config.recipe,
            recompute=config.recompute.experts,
            router=config.router,
        )
    return Block(attention, feed_forward, config.recompute)


def _recipe_of_projections(config: LayersConfig) -> Recipe | None:
    """The experts' rule and accumulation in the projections' precision; None for BF16."""
    if config.projections == "bf16":
        return None
    experts = config.recipe
    return replace(RECIPES[config.projections], scale_rule=experts.scale_rule, fast_accumulate=experts.fast_accumulate)


@torch.no_grad()
def initialize(model: nn.Module, layers: int) -> None:
    """Normal weights of variance one over the inputs; where a product ends a residual branch, over 2 `layers` more."""
    for name, weight in model.named_parameters():
        if weight.ndim > 1:
            is_last = name.endswith(("attention.out.weight", ".down"))
            nn.init.normal_(weight, std=(weight.shape[-1] * (2 * layers if is_last else 1)) ** -0.5)
        else:
            nn.init.ones_(weight)
