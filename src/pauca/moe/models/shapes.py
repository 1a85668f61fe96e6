"""The sizes of a mixture-of-experts language model, and how many parameters they make; no weights.

`LMConfig.shape` is that of a `MoELM`; `pauca.moe.plan` knows those of published models.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Literal

from pauca.errors import ConfigError


@dataclass(frozen=True)
class GroupedQueryAttention:
    """Attention whose query heads share fewer key and value heads."""

    heads: int
    kv_heads: int
    head_dim: int
    qk_norm: Literal["none", "head", "all"] = "none"
    """RMSNorm of queries and keys before the rotation: over each head alone (Qwen3), or all heads at once (OLMoE)."""

    def __post_init__(self) -> None:
        _check_positive(self)
        if self.heads % self.kv_heads:
            raise ConfigError(f"{self.heads} query heads cannot share {self.kv_heads} key and value heads evenly")

    @property
    def query_channels(self) -> int:
        return self.heads * self.head_dim

    @property
    def kv_channels(self) -> int:
        """Channels of the keys, and again of the values."""
        return self.kv_heads * self.head_dim

    @property
    def output_channels(self) -> int:
        return self.query_channels

    def parameters(self, hidden: int) -> int:
        norms = {"none": 0, "head": 2 * self.head_dim, "all": self.query_channels + self.kv_channels}[self.qk_norm]
        return 2 * hidden * (self.query_channels + self.kv_channels) + norms


@dataclass(frozen=True)
class LatentAttention:
    """Multi-head latent attention (DeepSeek-V2): queries, keys and values are projected up from narrow latents."""

    heads: int
    kv_rank: int
    nope_dim: int
    """Channels of a head's queries and keys without rotation."""
    rope_dim: int
    """Channels with it; the keys' are shared by all heads."""
    value_dim: int
    query_rank: int = 0
    """Width of the queries' latent; 0 projects queries straight from the hidden state (DeepSeek-V2-Lite)."""

    def __post_init__(self) -> None:
        _check_positive(self, optional=("query_rank",))

    @property
    def query_channels(self) -> int:
        """Channels of the queries, and of the keys once they are projected up."""
        return self.heads * (self.nope_dim + self.rope_dim)

    @property
    def output_channels(self) -> int:
        return self.heads * self.value_dim

    @property
    def up_parameters(self) -> int:
        """Parameters of the projections from the latents to the heads."""
        return self.query_rank * self.query_channels + self.kv_rank * self.heads * (self.nope_dim + self.value_dim)

    def parameters(self, hidden: int) -> int:
        queries = self.query_rank or self.query_channels
        down = hidden * (queries + self.kv_rank + self.rope_dim)
        norms = self.query_rank + self.kv_rank
        return down + norms + self.up_parameters + self.output_channels * hidden


Attention = GroupedQueryAttention | LatentAttention


@dataclass(frozen=True)
class ModelShape:
    """A decoder-only language model whose later layers are mixtures of experts."""

    name: str
    vocabulary: int
    layers: int
    hidden: int
    attention: Attention
    experts: int
    top_k: int
    width: int
    """Channels inside one routed expert."""
    shared_width: int = 0
    """Channels inside all shared experts of a layer together; 0 without any."""
    dense_layers: int = 0
    """Layers, the first ones, with one wide SwiGLU in place of experts."""
    dense_width: int = 0
    groups: int = 1
    """Groups of experts, of which a token visits those of `top_groups` alone."""
    top_groups: int = 1
    router_bias: bool = False
    """A balancing bias per expert counts as a parameter (DeepSeek-V3)."""
    tied: bool = False
    """The head is the embedding."""
    context: int = 0
    """Tokens of the longest sequence that it has positions for; 0 where that is not known."""
    note: str = ""
    """What of the model the planner takes for something simpler."""

    def __post_init__(self) -> None:
        _check_positive(self, optional=("shared_width", "dense_layers", "dense_width", "context"))
        if self.dense_layers > self.layers:
            raise ConfigError(f"{self.name}: {self.dense_layers} dense layers are more than its {self.layers} layers")
        if self.dense_layers and not self.dense_width:
            raise ConfigError(f"{self.name}: its {self.dense_layers} dense layer(s) need dense_width")
        if self.top_k > self.experts:
            raise ConfigError(f"{self.name}: a token cannot visit {self.top_k} of {self.experts} experts")

    def require_experts(self) -> None:
        """Refuse a model of dense layers alone.

        Raises:
            ConfigError: there is no layer of experts.
        """
        if not self.moe_layers:
            raise ConfigError(f"{self.name}: of {self.layers} layers {self.dense_layers} are dense; one must be MoE")

    @property
    def moe_layers(self) -> int:
        return self.layers - self.dense_layers

    @property
    def expert_parameters(self) -> int:
        """Parameters of one routed expert."""
        return 3 * self.hidden * self.width

    @property
    def attention_parameters(self) -> int:
        """Parameters of one layer's attention, with the norms before it and before what follows it."""
        return self.attention.parameters(self.hidden) + 2 * self.hidden

    @property
    def dense_layer_parameters(self) -> int:
        return self.attention_parameters + 3 * self.hidden * self.dense_width

    @property
    def moe_layer_parameters(self) -> int:
        """Parameters of one MoE layer but for its routed experts: what data parallelism replicates."""
        router = self.experts * (self.hidden + self.router_bias)
        return self.attention_parameters + router + 3 * self.hidden * self.shared_width

    @property
    def embedding_parameters(self) -> int:
        """Parameters of the embedding, and again of the head unless they are tied."""
        return self.vocabulary * self.hidden

    @property
    def parameters(self) -> int:
        return self._parameters(self.experts)

    @property
    def active_parameters(self) -> int:
        """Those that one token uses: `top_k` of the experts. Embedding and head are counted in."""
        return self._parameters(self.top_k)

    def _parameters(self, experts: int) -> int:
        tables = self.embedding_parameters * (1 if self.tied else 2) + self.hidden  # with the norm before the head
        moe = self.moe_layers * (self.moe_layer_parameters + experts * self.expert_parameters)
        return tables + self.dense_layers * self.dense_layer_parameters + moe


def _check_positive(shape: object, optional: tuple[str, ...] = ()) -> None:
    """Refuse a size that is not a positive integer; one of `optional` may be 0."""
    for field in fields(shape):  # pyright: ignore[reportArgumentType]
        value = getattr(shape, field.name)
        if field.type != "int":
            continue
        if not isinstance(value, int) or isinstance(value, bool) or value < (field.name not in optional):
            kind = "a whole number, 0 or more" if field.name in optional else "a positive whole number"
            raise ConfigError(f"{field.name} must be {kind}, got {value!r}")
