"""A compact mixture-of-experts language model: the modern decoder, read from top to bottom.

Tokens are embedded; each layer adds causal attention (grouped queries, rotary positions) and a feed-forward of experts
to the residual stream, each on its RMS-normalized copy; a last norm and a linear head give the next token's logits.
No biases, no dropout.

Precision: parameters are FP32 (or BF16) master weights; the residual stream and the attention run in BF16; norms,
rotation, softmax, routing and cross entropy in FP32; the experts as their `Recipe` says.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from pauca.errors import ConfigError, InputError
from pauca.moe.layer.moe import auxiliary_loss, moe_layers
from pauca.moe.models.blocks import KeyValueCache, Linear, RMSNorm, build_block, initialize, rotary_table, visible_keys
from pauca.moe.models.config import LayersConfig
from pauca.moe.models.cross_entropy import IGNORED, chunked_cross_entropy
from pauca.moe.models.shapes import GroupedQueryAttention, ModelShape


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
    def shape(self) -> ModelShape:
        """The sizes alone, as counting and planning take them."""
        return ModelShape(
            "lm",
            vocabulary=self.vocabulary,
            layers=self.layers,
            hidden=self.hidden,
            attention=GroupedQueryAttention(self.heads, self.kv_heads, self.head_dim),
            experts=self.experts,
            top_k=self.top_k,
            width=self.expert_width,
            shared_width=self.shared_experts * self.expert_width,
            dense_layers=self.dense_layers,
            dense_width=self.dense_width,
            tied=self.tied,
            context=self.context,
        )

    @property
    def parameters(self) -> int:
        """All parameters."""
        return self.shape.parameters

    @property
    def active_parameters(self) -> int:
        """Those that take part in the computation of one token."""
        return self.shape.active_parameters

    @property
    def flops_per_token(self) -> int:
        """Operations of forward and backward at full context, without recomputation: those of all products.

        Two a weight that a token meets in forward and twice as many in backward; in causal attention a token meets
        half of the context on average.
        """
        norms, lookup = (2 * self.layers + 1) * self.hidden, 0 if self.tied else self.vocabulary * self.hidden
        attention = self.layers * self.heads * self.head_dim * self.context
        return 6 * (self.active_parameters - norms - lookup + attention)


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


@dataclass(frozen=True)
class LMLosses:
    """What training minimizes, and its parts."""

    total: Float[Tensor, ""]  # cross_entropy + balance_weight * (balance + weighted z-loss of the routers)
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
        initialize(self, self.config.layers)
        if not self.config.tied:  # as the head, its rows must be small: logits start with a variance of one
            nn.init.normal_(self.embedding.weight)

    def forward(
        self,
        tokens: Int[Tensor, "batch time"],
        mask: Bool[Tensor, "batch time"] | None = None,
        documents: Int[Tensor, "batch time"] | None = None,
    ) -> Float[Tensor, "batch time vocabulary"]:
        """Logits of each position's next token; `mask` and `documents` as of `loss`."""
        return self.head(self.hidden_states(tokens, mask=mask, documents=documents)).float()

    def hidden_states(
        self,
        tokens: Int[Tensor, "batch time"],
        caches: list[KeyValueCache] | None = None,
        mask: Bool[Tensor, "batch all"] | None = None,
        documents: Int[Tensor, "batch all"] | None = None,
    ) -> Float[Tensor, "batch time hidden"]:
        """What the head reads; with `caches`, tokens follow those in the caches, whose `mask` comes first."""
        start = caches[0].length if caches else 0
        stop = start + length_of(tokens, start, mask=mask, documents=documents)
        if stop > self.config.context:
            raise InputError(f"{stop} tokens are longer than the model's context of {self.config.context}")
        # Not a buffer, which `model.bfloat16()` would round.
        positions = torch.arange(start, stop, dtype=torch.float32, device=tokens.device)
        rotation = rotary_table(positions, self.config.head_dim, self.config.rope_base)
        visible = visible_keys(stop, stop - start, mask, documents, tokens.device)
        own_mask = None if mask is None else mask[:, start:]
        x = self.embedding(tokens).bfloat16()
        for layer, block in enumerate(self.blocks):
            x = block(x, rotation, caches[layer] if caches else None, own_mask, visible)
        return self.norm(x)

    def loss(
        self,
        tokens: Int[Tensor, "batch time"],
        targets: Int[Tensor, "batch time"],
        mask: Bool[Tensor, "batch time"] | None = None,
        documents: Int[Tensor, "batch time"] | None = None,
    ) -> LMLosses:
        """Mean cross entropy of the targets, each the token after the one at its place, and the balancing loss.

        Args:
            tokens: to read.
            targets: to predict; those of -100 do not count.
            mask: True where a token counts, False for padding, on either side: no token sees it, and it has no part in
                the cross entropy, in the balancing loss and in the load of the experts.
            documents: the number of the document that each token belongs to; no token sees another document's.

        Raises:
            InputError: tokens that are no whole numbers [batch, time], other shapes or types beside them, or more of
                them than the model's context.

        A mask or documents make attention slower: it then reads which tokens see which. Padding on the right alone,
        with targets of -100, changes no other token even without a mask, but for the balance of the experts.
        """
        length_of(tokens, targets=targets, mask=mask)
        if mask is not None:
            targets = torch.where(mask, targets, IGNORED)
        hidden = self.hidden_states(tokens, mask=mask, documents=documents)
        cross_entropy = chunked_cross_entropy(hidden.flatten(0, 1), self.head.weight, targets.flatten())
        layers = max(1, self.config.layers - self.config.dense_layers)
        auxiliary = torch.as_tensor(auxiliary_loss(self) / layers, device=hidden.device)
        z = sum(layer.z_loss for layer in moe_layers(self).values() if layer.z_loss is not None) / layers
        total = cross_entropy + self.config.balance_weight * auxiliary
        return LMLosses(total, cross_entropy, auxiliary.detach() - z)

    @torch.no_grad()
    def generate(
        self,
        prompt: Int[Tensor, "batch time"],
        count: int,
        temperature: float = 1.0,
        top_k: int | None = None,
        generator: torch.Generator | None = None,
        mask: Bool[Tensor, "batch time"] | None = None,
    ) -> Int[Tensor, "batch longer"]:
        """Continue prompts.

        Args:
            prompt: at least one token; shorter ones are padded on the left.
            count: tokens to add, 0 or more; with the prompt, at most the model's context.
            temperature: 0 or more; below 1 the likely become likelier; 0 always takes the likeliest.
            top_k: choose among so many likeliest tokens only; at least 1, or None for all.
            generator: draws the random choices; on the prompt's device.
            mask: False where a prompt is padded.

        Raises:
            ConfigError: count, temperature or top_k lies outside its range.
            InputError: the prompt is empty, padded on the right, or too long for the model's context.
        """
        for name, value, least in (("count", count, 0), ("temperature", temperature, 0), ("top_k", top_k, 1)):
            if value is not None and not value >= least:  # nor NaN
                raise ConfigError(f"{name} must be at least {least}, got {value}")
        batch, length = len(prompt), length_of(prompt, mask=mask)
        if length < 1 or length + count > self.config.context:
            raise InputError(
                f"a prompt of {length} tokens and {count} more do not fit: the prompt needs at least one, and the "
                f"model's context holds {self.config.context}"
            )
        if mask is not None and not bool(mask[:, -1].all()):
            raise InputError("a prompt ends in padding, where it should go on; pad shorter prompts on the left")
        sizes = (batch, self.config.kv_heads, length + count, self.config.head_dim)
        caches = [KeyValueCache(*sizes, prompt.device) for _ in self.blocks]
        tokens = new = prompt
        for _ in range(count):
            logits = self.head(self.hidden_states(new, caches, mask)[:, -1]).float()
            new = _choose(logits, temperature, top_k, generator)
            tokens = torch.cat([tokens, new], dim=1)
            mask = None if mask is None else nn.functional.pad(mask, (0, 1), value=True)
        return tokens


def length_of(tokens: Tensor, start: int = 0, **beside: Tensor | None) -> int:
    """How many tokens each row has.

    Args:
        tokens: to look at; their values are the embedding's to refuse, which costs a GPU no wait.
        start: how many came before, which what stands beside them covers as well.
        beside: what must have a value for each.

    Raises:
        InputError: another type, or another shape.
    """
    if tokens.ndim != 2 or tokens.dtype.is_floating_point or tokens.dtype == torch.bool:
        raise InputError(f"tokens of {tokens.dtype} and shape {tuple(tokens.shape)}; give whole numbers [batch, time]")
    rows, length = tokens.shape
    for name, given in beside.items():
        if given is None:
            continue
        if given.shape != (rows, start + length):
            raise InputError(f"{name} of shape {tuple(given.shape)} beside tokens of {(rows, start + length)}")
        if name == "mask" and given.dtype != torch.bool:
            raise InputError(f"a mask of {given.dtype}; give truth values, as attention_mask.bool() has them")
        if given.dtype.is_floating_point:
            raise InputError(f"{name} of {given.dtype}; give whole numbers")
    return length


def _choose(
    logits: Float[Tensor, "batch vocabulary"], temperature: float, top_k: int | None, generator: torch.Generator | None
) -> Int[Tensor, "batch 1"]:
    if temperature == 0:
        return logits.argmax(-1, keepdim=True)
    everything = logits.shape[-1]
    choices = logits.topk(everything if top_k is None else min(top_k, everything))
    place = torch.multinomial((choices.values / temperature).softmax(-1), 1, generator=generator)
    return choices.indices.gather(1, place)
