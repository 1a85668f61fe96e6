"""The sizes of mixture-of-experts models: published ones by name, others from a config file.

A shape is what a planner has to know of a model: how many layers, how wide, which attention. It holds no weights.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal

from pauca.errors import ConfigError, InputError
from pauca.moe.lm import LM_SIZES, LMConfig
from pauca.runs import from_yaml


@dataclass(frozen=True)
class GroupedQueryAttention:
    """Attention whose query heads share fewer key and value heads."""

    heads: int
    kv_heads: int
    head_dim: int
    qk_norm: Literal["none", "head", "all"] = "none"
    """RMSNorm of queries and keys before the rotation: of each head alone (Qwen3), or of all heads at once (OLMoE)."""

    def __post_init__(self) -> None:
        _check_positive(self)
        if self.heads % self.kv_heads:
            raise ConfigError(f"{self.heads} query heads cannot share {self.kv_heads} key and value heads evenly")

    @property
    def query_channels(self) -> int:
        return self.heads * self.head_dim

    @property
    def kv_channels(self) -> int:
        """Of keys, and again of values."""
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
        """Of the queries, and of the keys once they are projected up."""
        return self.heads * (self.nope_dim + self.rope_dim)

    @property
    def output_channels(self) -> int:
        return self.heads * self.value_dim

    @property
    def up_parameters(self) -> int:
        """From the latents to the heads."""
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
    router_bias: bool = False
    """A balancing bias per expert counts as a parameter (DeepSeek-V3)."""
    tied: bool = False
    """The head is the embedding."""

    def __post_init__(self) -> None:
        _check_positive(self, optional=("shared_width", "dense_layers", "dense_width"))
        if self.dense_layers >= self.layers:
            raise ConfigError(f"{self.name}: of {self.layers} layers {self.dense_layers} are dense; one must be MoE")
        if self.dense_layers and not self.dense_width:
            raise ConfigError(f"{self.name}: its {self.dense_layers} dense layer(s) need dense_width")
        if self.top_k > self.experts:
            raise ConfigError(f"{self.name}: a token cannot visit {self.top_k} of {self.experts} experts")

    @property
    def moe_layers(self) -> int:
        return self.layers - self.dense_layers

    @property
    def expert_parameters(self) -> int:
        """Of one routed expert."""
        return 3 * self.hidden * self.width

    @property
    def attention_parameters(self) -> int:
        """Of one layer, with the norms before attention and before what follows it."""
        return self.attention.parameters(self.hidden) + 2 * self.hidden

    @property
    def dense_layer_parameters(self) -> int:
        return self.attention_parameters + 3 * self.hidden * self.dense_width

    @property
    def moe_layer_parameters(self) -> int:
        """Of one MoE layer but for its routed experts: what data parallelism replicates."""
        router = self.experts * (self.hidden + self.router_bias)
        return self.attention_parameters + router + 3 * self.hidden * self.shared_width

    @property
    def embedding_parameters(self) -> int:
        """Of the embedding, and again of the head unless they are tied."""
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
    """Refuse a size that is no positive integer; one of `optional` may be 0."""
    for field in fields(shape):  # pyright: ignore[reportArgumentType]
        value = getattr(shape, field.name)
        if field.type != "int":
            continue
        if not isinstance(value, int) or isinstance(value, bool) or value < (field.name not in optional):
            kind = "a whole number, 0 or more" if field.name in optional else "a positive whole number"
            raise ConfigError(f"{field.name} must be {kind}, got {value!r}")


def _deepseek_v3_attention() -> LatentAttention:
    return LatentAttention(heads=128, kv_rank=512, nope_dim=128, rope_dim=64, value_dim=128, query_rank=1536)


def _lite_attention() -> LatentAttention:
    return LatentAttention(heads=16, kv_rank=512, nope_dim=128, rope_dim=64, value_dim=128)


# Sizes as in the models' published config.json files.
SHAPES: dict[str, ModelShape] = {
    shape.name: shape
    for shape in (
        ModelShape(
            "deepseek-v3", vocabulary=129280, layers=61, hidden=7168, attention=_deepseek_v3_attention(),
            experts=256, top_k=8, width=2048, shared_width=2048, dense_layers=3, dense_width=18432, router_bias=True,
        ),
        ModelShape(
            "deepseek-v2-lite", vocabulary=102400, layers=27, hidden=2048, attention=_lite_attention(),
            experts=64, top_k=6, width=1408, shared_width=2816, dense_layers=1, dense_width=10944,
        ),
        ModelShape(
            "moonlight-16b-a3b", vocabulary=163840, layers=27, hidden=2048, attention=_lite_attention(),
            experts=64, top_k=6, width=1408, shared_width=2816, dense_layers=1, dense_width=11264, router_bias=True,
        ),
        ModelShape(
            "qwen3-235b-a22b", vocabulary=151936, layers=94, hidden=4096,
            attention=GroupedQueryAttention(heads=64, kv_heads=4, head_dim=128, qk_norm="head"),
            experts=128, top_k=8, width=1536,
        ),
        ModelShape(
            "qwen3-30b-a3b", vocabulary=151936, layers=48, hidden=2048,
            attention=GroupedQueryAttention(heads=32, kv_heads=4, head_dim=128, qk_norm="head"),
            experts=128, top_k=8, width=768,
        ),
        ModelShape(
            "mixtral-8x7b", vocabulary=32000, layers=32, hidden=4096,
            attention=GroupedQueryAttention(heads=32, kv_heads=8, head_dim=128),
            experts=8, top_k=2, width=14336,
        ),
        ModelShape(
            "mixtral-8x22b", vocabulary=32000, layers=56, hidden=6144,
            attention=GroupedQueryAttention(heads=48, kv_heads=8, head_dim=128),
            experts=8, top_k=2, width=16384,
        ),
    )
}  # fmt: skip
"""Published models by name."""


ALIASES = {
    "16b": "moonlight-16b-a3b",
    "671b": "deepseek-v3",
    "mixtral": "mixtral-8x7b",
    "moonlight": "moonlight-16b-a3b",
    "qwen3-30b": "qwen3-30b-a3b",
    "qwen3-235b": "qwen3-235b-a22b",
}
"""Short names of `SHAPES`."""


def model_shape(model: str) -> ModelShape:
    """The shape of a model, by its name or from a file.

    Args:
        model: a name of `SHAPES`, `ALIASES` or `LM_SIZES`, in upper or lower case; or the path of a Hugging Face
            config.json, of the config.yaml of a `pauca moe train` run, or of the folder that holds one of them.

    Raises:
        InputError: there is neither such a name nor such a file, or the file is of no known kind.
    """
    name = ALIASES.get(model.lower(), model.lower())
    if name in SHAPES:
        return SHAPES[name]
    if name in LM_SIZES:
        return from_lm(LM_SIZES[name], name)
    path = Path(model)
    if path.is_dir():
        path = path / ("config.yaml" if (path / "config.yaml").exists() else "config.json")
    if path.suffix in (".yaml", ".yml"):
        return from_run_config(path)
    if path.suffix == ".json" or path.exists():
        return from_config_json(path)
    names = sorted([*SHAPES, *ALIASES, *LM_SIZES])
    near = get_close_matches(name, names, n=1)
    raise InputError(
        f"unknown model {model!r}{f' (did you mean {near[0]}?)' if near else ''}: neither a file nor one of "
        f"{', '.join(names)}; for another model give its config.json (Hugging Face) or config.yaml (`pauca moe train`)"
    )


def from_lm(config: LMConfig, name: str = "lm") -> ModelShape:
    """The shape of a `MoELM`."""
    return ModelShape(
        name,
        vocabulary=config.vocabulary,
        layers=config.layers,
        hidden=config.hidden,
        attention=GroupedQueryAttention(config.heads, config.kv_heads, config.head_dim),
        experts=config.experts,
        top_k=config.top_k,
        width=config.expert_width,
        shared_width=config.shared_experts * config.expert_width,
        dense_layers=config.dense_layers,
        dense_width=config.dense_width,
        tied=config.tied,
    )


@dataclass(frozen=True)
class _TrainingRun:
    """The config.yaml of a `pauca moe train` run, of which only the model matters here."""

    data: dict[str, Any]
    model: LMConfig
    train: dict[str, Any]


def from_run_config(path: str | Path) -> ModelShape:
    """The shape of a model that `pauca moe train` trains.

    Args:
        path: its config.yaml, as it stands in the run's folder.

    Raises:
        InputError: the file cannot be read, is no such config, or its model has no layer of experts.
    """
    path = Path(path)
    try:
        model = from_yaml(_TrainingRun, path).model
    except ConfigError as error:
        raise InputError(f"{error}; give the config.yaml of a `pauca moe train` run") from error
    try:
        return from_lm(model, _model_name(path))
    except ConfigError as error:
        raise InputError(f"{path}: {error}") from error


def from_config_json(path: str | Path) -> ModelShape:
    """The shape of a model of the families Qwen3-MoE, Mixtral, DeepSeek-V2 and V3 and OLMoE.

    Args:
        path: its config.json, as Hugging Face models carry it.

    Raises:
        InputError: the file cannot be read, is of another family, or lacks an entry.
    """
    path = Path(path)
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise InputError(f"{path} is not JSON: {error}; the config of a `pauca moe train` run ends in .yaml") from error
    family = config.get("model_type") if isinstance(config, dict) else None
    if family not in _FAMILIES:
        raise InputError(f"{path}: model_type is {family!r}; known are {', '.join(_FAMILIES)}")
    try:
        sizes = _common(config) | _FAMILIES[family](config)
        for name, size in sizes.items():
            if isinstance(size, str):  # or arithmetic would complain in words of its own
                raise ConfigError(f"{name} must be a positive whole number, got {size!r}")
        return ModelShape(_model_name(path), **sizes)
    except KeyError as error:
        raise InputError(f"{path}: {error.args[0]!r} is missing") from error
    except ConfigError as error:
        raise InputError(f"{path}: {error}") from error


def _model_name(path: Path) -> str:
    """A config file is called like its folder, unless it has a name of its own."""
    return path.parent.resolve().name if path.stem == "config" else path.stem


def _common(config: dict[str, Any]) -> dict[str, Any]:
    return {
        "vocabulary": config["vocab_size"],
        "layers": config["num_hidden_layers"],
        "hidden": config["hidden_size"],
        "top_k": config["num_experts_per_tok"],
        "tied": config.get("tie_word_embeddings", False),
    }


def _grouped(config: dict[str, Any], qk_norm: Literal["none", "head", "all"]) -> GroupedQueryAttention:
    heads = config["num_attention_heads"]
    head_dim = config.get("head_dim") or config["hidden_size"] // heads
    return GroupedQueryAttention(heads, config.get("num_key_value_heads") or heads, head_dim, qk_norm)


def _mixtral(config: dict[str, Any]) -> dict[str, Any]:
    return {
        "attention": _grouped(config, "none"),
        "experts": config["num_local_experts"],
        "width": config["intermediate_size"],
    }


def _olmoe(config: dict[str, Any]) -> dict[str, Any]:
    return {
        "attention": _grouped(config, "all"),
        "experts": config["num_experts"],
        "width": config["intermediate_size"],
    }


def _qwen3(config: dict[str, Any]) -> dict[str, Any]:
    step, dense = config.get("decoder_sparse_step", 1), set(config.get("mlp_only_layers") or ())
    layers = range(config["num_hidden_layers"])
    return {
        "attention": _grouped(config, "head"),
        "experts": config["num_experts"],
        "width": config["moe_intermediate_size"],
        "dense_layers": sum(layer in dense or (layer + 1) % step != 0 for layer in layers),
        "dense_width": config["intermediate_size"],
    }


def _deepseek(config: dict[str, Any]) -> dict[str, Any]:
    return {
        "attention": LatentAttention(
            config["num_attention_heads"],
            config["kv_lora_rank"],
            config["qk_nope_head_dim"],
            config["qk_rope_head_dim"],
            config["v_head_dim"],
            config.get("q_lora_rank") or 0,
        ),
        "experts": config["n_routed_experts"],
        "width": config["moe_intermediate_size"],
        "shared_width": (config.get("n_shared_experts") or 0) * config["moe_intermediate_size"],
        "dense_layers": config.get("first_k_dense_replace", 0),
        "dense_width": config["intermediate_size"],
        "router_bias": config["model_type"] == "deepseek_v3",
    }


_FAMILIES = {
    "qwen3_moe": _qwen3,
    "mixtral": _mixtral,
    "deepseek_v2": _deepseek,
    "deepseek_v3": _deepseek,
    "olmoe": _olmoe,
}
