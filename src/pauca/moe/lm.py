"""A compact mixture-of-experts language model: the modern decoder, read from top to bottom.

Tokens are embedded; each layer adds causal attention (grouped queries, rotary positions) and a feed-forward of experts
to the residual stream, each on its RMS-normalised copy; a last norm and a linear head give the next token's logits.
No biases, no dropout.

Precision: parameters are FP32 (or BF16) master weights; the residual stream and the attention run in BF16; norms,
rotation, softmax, routing and cross entropy in FP32; the experts as their `Recipe` says.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint

from pauca.errors import ConfigError, InputError
from pauca.moe.layer import Experts, MoE, auxiliary_loss
from pauca.moe.recipe import Recipe, Recompute
from pauca.moe.router import RouterConfig


@dataclass(frozen=True)
class Recomputation:
    """What backward computes again in each layer of a model, to keep less. Never the routing."""

    norms: bool = False
    """RMSNorm's outputs; only its inputs, the residual stream, are kept. Under `torch.compile` the compiler decides."""
    attention: bool = False
    """The attention block, from the residual stream: norm, projections, rotation and attention itself."""
    experts: Recompute = "none"
    """Of routed, shared and dense experts; see `Recompute`."""


@dataclass(frozen=True)
class LayersConfig:
    """Sizes and numerics of a stack of layers, each attention and a feed-forward of experts."""

    layers: int = 2
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
    """Channels inside that."""
    rope_base: float = 10_000.0
    """Wavelengths of the rotary positions run from 2 pi to 2 pi times this."""
    balance_weight: float = 0.01
    """Weight in the loss of the balancing losses' mean over the layers."""
    router: RouterConfig = field(default_factory=RouterConfig)
    """How tokens choose experts."""
    recipe: Recipe = field(default_factory=Recipe)
    """Numerics of the experts."""
    recompute: Recomputation = field(default_factory=Recomputation)
    """What backward computes again."""

    def __post_init__(self) -> None:
        self._check_positive("layers", "hidden", "heads", "kv_heads", "head_dim", "expert_width")
        if self.heads % self.kv_heads:
            raise ConfigError(f"heads must be a multiple of kv_heads, got {self.heads} and {self.kv_heads}")
        if self.head_dim % 2:
            raise ConfigError(f"head_dim must be even, as rotary positions turn pairs of channels; got {self.head_dim}")
        if not 0 <= self.dense_layers <= self.layers:
            raise ConfigError(f"dense_layers must lie in 0..layers, got {self.dense_layers} of {self.layers}")
        if self.dense_layers and self.dense_width < 1:
            raise ConfigError(f"dense_layers {self.dense_layers} need a positive dense_width, got {self.dense_width}")

    def _check_positive(self, *names: str) -> None:
        for name in names:
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} of a model must be positive, got {getattr(self, name)}")

    def products(self, experts: int) -> int:
        """Weights of the layers' products, if each had so many routed experts."""
        attention = 2 * self.hidden * (self.heads + self.kv_heads) * self.head_dim
        moe = self.hidden * (self.experts + 3 * self.expert_width * (experts + self.shared_experts))
        dense = 3 * self.hidden * self.dense_width
        return self.layers * attention + self.dense_layers * dense + (self.layers - self.dense_layers) * moe


@dataclass(frozen=True)
class LMConfig(LayersConfig):
    """Sizes and numerics of a `MoELM`: those of its layers (`LayersConfig`), and these."""

    vocabulary: int = 256
    """Different tokens; 256 for bytes."""
    context: int = 256
    """Longest sequence."""
    tied: bool = True
    """Use the embedding as the head, too."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_positive("vocabulary", "context")

    @property
    def parameters(self) -> int:
        """All parameters."""
        norms = (2 * self.layers + 1) * self.hidden
        return self.products(self.experts) + norms + (1 if self.tied else 2) * self.vocabulary * self.hidden

    @property
    def active_parameters(self) -> int:
        """Those that take part in the computation of one token."""
        return self.parameters - self.products(self.experts) + self.products(self.top_k)

    @property
    def flops_per_token(self) -> int:
        """Operations of forward and backward at full context, without recomputation: those of all products.

        Two a weight that a token meets in forward and twice as many in backward; in causal attention a token meets
        half of the context on average.
        """
        head = self.vocabulary * self.hidden
        attention = self.layers * self.heads * self.head_dim * self.context
        return 6 * (self.products(self.top_k) + head + attention)


LM_SIZES: dict[str, LMConfig] = {
    # 0.26 M parameters, 0.12 M of them active: learns within seconds on a CPU
    "toy": LMConfig(),
    # 218 M, 42 M of them active: convergence in minutes on a GPU
    "base": LMConfig(
        vocabulary=8192,
        layers=8,
        hidden=512,
        heads=8,
        kv_heads=4,
        head_dim=64,
        experts=32,
        top_k=4,
        expert_width=512,
        context=1024,
    ),
    # 1.1 B, 0.2 B active
    "large": LMConfig(
        vocabulary=32_768,
        layers=16,
        hidden=1024,
        heads=16,
        kv_heads=4,
        head_dim=64,
        experts=64,
        top_k=6,
        expert_width=320,
        shared_experts=2,
        context=2048,
    ),
    # 3.5 B, 1.0 B active
    "xl": LMConfig(
        vocabulary=65_536,
        layers=20,
        hidden=2048,
        heads=16,
        kv_heads=4,
        head_dim=128,
        experts=32,
        top_k=4,
        expert_width=768,
        shared_experts=1,
        dense_layers=1,
        dense_width=8192,
        context=4096,
        rope_base=100_000.0,
        tied=False,
    ),
}


def _product(a: Tensor, b: Tensor) -> Tensor:
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
        return _product(x.flatten(0, -2), weight.to(x.dtype).t()).view(*x.shape[:-1], len(weight))

    @staticmethod
    @once_differentiable
    def backward(ctx, *gradients: Tensor) -> tuple[Tensor, Tensor]:  # pyright: ignore[reportIncompatibleMethodOverride]
        x, weight = ctx.saved_tensors
        gradient = gradients[0].flatten(0, -2)
        d_weight = _product(gradient.t(), x.flatten(0, -2))
        return _product(gradient, weight.to(x.dtype)).view_as(x), d_weight.to(weight.dtype)


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
        values = x.float()
        inverse = torch.rsqrt(values.square().mean(-1, keepdim=True) + epsilon)
        ctx.save_for_backward(x, weight, inverse)
        return (values * inverse * weight.float()).to(x.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx, *gradients: Tensor) -> tuple:  # pyright: ignore[reportIncompatibleMethodOverride]
        x, weight, inverse = ctx.saved_tensors
        gradient, normal = gradients[0].float(), x.float() * inverse
        scaled = gradient * weight.float()
        dx = inverse * (scaled - normal * (scaled * normal).mean(-1, keepdim=True))
        d_weight = (gradient * normal).flatten(0, -2).sum(0)
        return dx.to(x.dtype), d_weight.to(weight.dtype), None


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
    frequencies = base ** -(torch.arange(0, channels, 2, device=positions.device) / channels)
    angles = positions[:, None] * frequencies
    return angles.cos(), angles.sin()


def rotate(
    x: Float[Tensor, "batch time heads channels"], cosine: Float[Tensor, "time half"], sine: Float[Tensor, "time half"]
) -> Float[Tensor, "batch time heads channels"]:
    """Turn channel i and channel i + half of each head together, in FP32."""
    cosine, sine = cosine[:, None], sine[:, None]  # the same for all heads
    first, second = x.chunk(2, dim=-1)
    turned = torch.cat([first * cosine - second * sine, second * cosine + first * sine], dim=-1)
    return turned.to(x.dtype)


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


class Attention(nn.Module):
    """Attention with grouped queries and rotary positions."""

    def __init__(self, hidden: int, heads: int, kv_heads: int, head_dim: int, causal: bool = True) -> None:
        super().__init__()
        self.heads, self.kv_heads, self.head_dim, self.causal = heads, kv_heads, head_dim, causal
        self.qkv = Linear(hidden, (heads + 2 * kv_heads) * head_dim)
        self.out = Linear(heads * head_dim, hidden)

    def forward(
        self,
        x: Float[Tensor, "batch time hidden"],
        rotation: tuple[Float[Tensor, "time half"], Float[Tensor, "time half"]],
        cache: KeyValueCache | None = None,
    ) -> Float[Tensor, "batch time hidden"]:
        heads = self.qkv(x).unflatten(-1, (-1, self.head_dim))
        q, k, v = heads.split([self.heads, self.kv_heads, self.kv_heads], dim=2)
        # Attention's output takes the layout of q: heads within a token, so that `out` reads it as it is. A copy of v
        # lets go of the tensor that also holds q and k before their rotation.
        q, k, v = (h.transpose(1, 2) for h in (rotate(q, *rotation), rotate(k, *rotation), v.contiguous()))
        causal = self.causal and x.shape[1] > 1
        if cache is not None:
            k, v = cache.append(k, v)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=causal, enable_gqa=self.heads != self.kv_heads)
        return self.out(y.transpose(1, 2).flatten(2))


class FeedForward(nn.Module):
    """A dense SwiGLU: one expert that every token visits."""

    def __init__(self, hidden: int, width: int, recipe: Recipe | None = None, recompute: Recompute = "none") -> None:
        super().__init__()
        self.experts = Experts(hidden, width, 1, recipe, recompute)

    def forward(self, x: Float[Tensor, "*batch hidden"]) -> Float[Tensor, "*batch hidden"]:
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
    ) -> Float[Tensor, "batch time hidden"]:
        attend = (self.attention_norm, self.attention, x, rotation, cache)
        if self.recompute.attention and torch.is_grad_enabled():
            x = x + checkpoint(_normed, *attend, use_reentrant=False, preserve_rng_state=False)
        else:
            x = x + self._branch(*attend)
        return x + self._branch(self.feed_forward_norm, self.feed_forward, x)

    def _branch(self, norm: RMSNorm, module: nn.Module, x: Tensor, *arguments: Any) -> Tensor:
        if not self.recompute.norms or torch.compiler.is_compiling():
            return _normed(norm, module, x, *arguments)
        normed = norm(x)
        with _recomputed(norm, x, normed):
            return module(normed, *arguments)


def _normed(norm: RMSNorm, module: nn.Module, x: Tensor, *arguments: Any) -> Tensor:
    return module(norm(x), *arguments)


@dataclass(frozen=True)
class LMLosses:
    """What training minimises, and its parts."""

    total: Float[Tensor, ""]  # cross_entropy + balance_weight * balance
    cross_entropy: Float[Tensor, ""]  # nats per token
    balance: Float[Tensor, ""]  # mean over the layers; 1 when all experts are equally busy


class MoELM(nn.Module):
    """A decoder of mixture-of-experts layers.

    Examples:
        >>> model = MoELM(replace(LM_SIZES["toy"], recipe=Recipe.fp4()))
        >>> tokens = torch.randint(256, (2, 33))
        >>> model.loss(tokens[:, :-1], tokens[:, 1:]).total.backward()
    """

    def __init__(self, config: LMConfig) -> None:
        """Build with random weights; seed torch before."""
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.vocabulary, config.hidden)
        self.blocks = nn.ModuleList(build_block(config, layer) for layer in range(config.layers))
        self.norm = RMSNorm(config.hidden)
        self.head = Linear(config.hidden, config.vocabulary)
        if config.tied:
            self.head.weight = self.embedding.weight  # pyright: ignore[reportAttributeAccessIssue]
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Every product keeps its input's variance, and all layers together add about one to the residual stream's."""
        initialise(self, self.config.layers)
        if not self.config.tied:  # as the head, its rows must be small: logits start with a variance of one
            nn.init.normal_(self.embedding.weight)

    def forward(self, tokens: Int[Tensor, "batch time"]) -> Float[Tensor, "batch time vocabulary"]:
        """Logits of each position's next token."""
        return self.head(self.hidden_states(tokens)).float()

    def hidden_states(
        self, tokens: Int[Tensor, "batch time"], caches: list[KeyValueCache] | None = None
    ) -> Float[Tensor, "batch time hidden"]:
        """What the head reads; with `caches`, tokens follow those in the caches."""
        start = caches[0].length if caches else 0
        stop = start + tokens.shape[1]
        if stop > self.config.context:
            raise InputError(f"{stop} tokens are longer than the model's context of {self.config.context}")
        # Not a buffer, which `model.bfloat16()` would round.
        positions = torch.arange(start, stop, dtype=torch.float32, device=tokens.device)
        rotation = rotary_table(positions, self.config.head_dim, self.config.rope_base)
        x = self.embedding(tokens).bfloat16()
        for layer, block in enumerate(self.blocks):
            x = block(x, rotation, caches[layer] if caches else None)
        return self.norm(x)

    def loss(self, tokens: Int[Tensor, "batch time"], targets: Int[Tensor, "batch time"]) -> LMLosses:
        """Mean cross entropy of the targets, each the token after the one at its place, and the balancing loss."""
        hidden = self.hidden_states(tokens)
        cross_entropy = chunked_cross_entropy(hidden.flatten(0, 1), self.head.weight, targets.flatten())
        layers = max(1, self.config.layers - self.config.dense_layers)
        balance = torch.as_tensor(auxiliary_loss(self) / layers, device=hidden.device)
        return LMLosses(cross_entropy + self.config.balance_weight * balance, cross_entropy, balance.detach())

    @torch.no_grad()
    def generate(
        self,
        prompt: Int[Tensor, "batch time"],
        count: int,
        temperature: float = 1.0,
        top_k: int | None = None,
        generator: torch.Generator | None = None,
    ) -> Int[Tensor, "batch longer"]:
        """Continue prompts of equal length.

        Args:
            prompt: at least one token.
            count: tokens to add, 0 or more; with the prompt, at most the model's context.
            temperature: 0 or more; below 1 the likely become likelier; 0 always takes the likeliest.
            top_k: choose among so many likeliest tokens only; at least 1, or None for all.
            generator: of the random choices; on the prompt's device.

        Raises:
            ConfigError: count, temperature or top_k lies outside its range.
            InputError: the prompt is empty, or too long for the model's context.
        """
        for name, value, least in (("count", count, 0), ("temperature", temperature, 0), ("top_k", top_k, 1)):
            if value is not None and not value >= least:  # nor NaN
                raise ConfigError(f"{name} must be at least {least}, got {value}")
        batch, length = prompt.shape
        if length < 1 or length + count > self.config.context:
            raise InputError(
                f"a prompt of {length} tokens and {count} more do not fit: the prompt needs at least one, and the "
                f"model's context holds {self.config.context}"
            )
        sizes = (batch, self.config.kv_heads, length + count, self.config.head_dim)
        caches = [KeyValueCache(*sizes, prompt.device) for _ in self.blocks]
        tokens = new = prompt
        for _ in range(count):
            logits = self.head(self.hidden_states(new, caches)[:, -1]).float()
            new = _choose(logits, temperature, top_k, generator)
            tokens = torch.cat([tokens, new], dim=1)
        return tokens


def build_block(config: LayersConfig, layer: int, causal: bool = True) -> Block:
    """One layer of a model."""
    attention = Attention(config.hidden, config.heads, config.kv_heads, config.head_dim, causal)
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


@torch.no_grad()
def initialise(model: nn.Module, layers: int) -> None:
    """Normal weights of variance one over the inputs; where a product ends a residual branch, over 2 `layers` more."""
    for name, weight in model.named_parameters():
        if weight.ndim > 1:
            is_last = name.endswith(("attention.out.weight", ".down"))
            nn.init.normal_(weight, std=(weight.shape[-1] * (2 * layers if is_last else 1)) ** -0.5)
        else:
            nn.init.ones_(weight)


def _choose(
    logits: Float[Tensor, "batch vocabulary"], temperature: float, top_k: int | None, generator: torch.Generator | None
) -> Int[Tensor, "batch 1"]:
    if temperature == 0:
        return logits.argmax(-1, keepdim=True)
    everything = logits.shape[-1]
    choices = logits.topk(everything if top_k is None else min(top_k, everything))
    place = torch.multinomial((choices.values / temperature).softmax(-1), 1, generator=generator)
    return choices.indices.gather(1, place)


# FP32 logits at once: 2**26 are 256 MiB, and as much again for their gradient.
LOGITS_AT_ONCE = 2**26


def chunked_cross_entropy(
    hidden: Float[Tensor, "tokens hidden"], weight: Float[Tensor, "vocabulary hidden"], targets: Int[Tensor, " tokens"]
) -> Float[Tensor, ""]:
    """Mean cross entropy, in nats, of targets under the logits `hidden @ weight.T`; never holds all logits at once."""
    if torch.is_grad_enabled():
        return _CrossEntropy.apply(hidden, weight, targets)
    weight = weight.to(hidden.dtype)
    chunks = zip(_chunks(hidden, weight), _chunks(targets, weight), strict=True)
    return torch.stack([_loss_and_error(_product(x, weight.t()), y)[0] for x, y in chunks]).sum() / len(hidden)


def _chunks(rows: Tensor, weight: Tensor) -> tuple[Tensor, ...]:
    return rows.split(max(1, LOGITS_AT_ONCE // len(weight)))


def _loss_and_error(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Summed cross entropy, and its gradient in the logits: the probabilities, less one at the target."""
    log_probabilities = logits.float().log_softmax(-1)
    at_target = log_probabilities.gather(1, targets[:, None])
    error = log_probabilities.exp_().scatter_(1, targets[:, None], at_target.exp() - 1)  # in place: these are large
    return -at_target.sum(), error.to(logits.dtype)


class _CrossEntropy(torch.autograd.Function):
    """Takes the gradients while a chunk's logits are there, so that they are neither kept nor computed again."""

    @staticmethod
    def forward(ctx, hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
        master, weight = weight, weight.to(hidden.dtype)
        d_hidden, d_weight = [], torch.zeros_like(weight, dtype=torch.float32)
        total = torch.zeros((), dtype=torch.float32, device=hidden.device)
        for x, y in zip(_chunks(hidden, weight), _chunks(targets, weight), strict=True):
            loss, error = _loss_and_error(_product(x, weight.t()), y)
            total = total + loss
            d_hidden.append(_product(error, weight))
            d_weight += _product(error.t(), x)
        ctx.save_for_backward(torch.cat(d_hidden), d_weight)
        ctx.master_dtype = master.dtype
        return total / len(hidden)

    @staticmethod
    @once_differentiable
    def backward(ctx, *gradients: Tensor) -> tuple:  # pyright: ignore[reportIncompatibleMethodOverride]
        d_hidden, d_weight = ctx.saved_tensors
        scale = gradients[0] / len(d_hidden)
        return (d_hidden * scale).to(d_hidden.dtype), (d_weight * scale).to(ctx.master_dtype), None
