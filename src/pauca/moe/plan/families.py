"""What the config.json of a mixture-of-experts family says of its model's shape.

Families name the same sizes in a few ways, which one reader knows; a family's entry says what no config tells: which
norms its attention has, and what of it the planner does not model.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from pauca.errors import ConfigError
from pauca.moe.models.shapes import Attention, GroupedQueryAttention, LatentAttention


@dataclass(frozen=True)
class Family:
    """What a family's configs do not say."""

    qk_norm: Literal["none", "head", "all"] = "none"
    router_bias: bool = False
    note: str = ""
    width: str = "moe_intermediate_size"
    """The entry that is an expert's width: another one would be that of dense layers."""
    needs: tuple[str, ...] = ()
    """Entries without which a model of this family would be another: its own code has defaults for them. Of names with
    "or" between them one will do."""
    tied: bool = False
    """Whether embedding and head are one where no entry tells."""


_LINEAR = "its layers of linear attention are counted as layers of attention"
_INDEXED = "its sparse attention is counted as full attention, and its indexer not at all"

_ALL_ALIKE = "intermediate_size"  # the width of experts in families that have no dense layers, or name those apart
_LATENT = ("kv_lora_rank", "q_lora_rank", "n_shared_experts")
_GROUPED = ("num_key_value_heads",)
_SHARED = (*_GROUPED, "head_dim", "shared_expert_intermediate_size")

FAMILIES: dict[str, Family] = {
    "deepseek_v2": Family(needs=_LATENT),
    "deepseek_v3": Family(router_bias=True, needs=(*_LATENT, "first_k_dense_replace")),
    "deepseek_v32": Family(router_bias=True, note=_INDEXED, needs=_LATENT),
    "deepseek_v4": Family(
        note="its compressed attention is counted as attention with one shared key and value head",
        needs=(*_GROUPED, "head_dim", "n_shared_experts"),
    ),
    "dots1": Family("head", router_bias=True, needs=_GROUPED),
    "ernie4_5_moe": Family(
        router_bias=True, needs=(*_GROUPED, "moe_num_shared_experts", "moe_layer_start_index"), tied=True
    ),
    "flex_olmo": Family("all", width=_ALL_ALIKE),
    "glm4_moe": Family(router_bias=True, needs=(*_GROUPED, "n_shared_experts", "first_k_dense_replace")),
    "glm4_moe_lite": Family(router_bias=True, needs=(*_LATENT, "mlp_layer_types or first_k_dense_replace")),
    "glm_moe_dsa": Family(router_bias=True, note=_INDEXED, needs=_LATENT),
    "gpt_oss": Family(width=_ALL_ALIKE, needs=(*_GROUPED, "head_dim")),
    "granitemoe": Family(width=_ALL_ALIKE),
    "granitemoehybrid": Family(
        note="its Mamba layers are counted as layers of attention",
        width=_ALL_ALIKE,
        needs=("shared_intermediate_size",),
    ),
    "granitemoeshared": Family(width=_ALL_ALIKE),
    "hunyuan_v1_moe": Family("head", width=_ALL_ALIKE),
    "kimi_k2": Family(router_bias=True, needs=(*_LATENT, "first_k_dense_replace")),
    "kimi_k25": Family(router_bias=True, needs=(*_LATENT, "first_k_dense_replace")),
    "kimi_linear": Family(
        router_bias=True,
        note=_LINEAR,
        needs=("kv_lora_rank", "num_shared_experts", "mlp_layer_types or first_k_dense_replace"),
    ),
    "llama4": Family(width=_ALL_ALIKE, needs=_GROUPED),
    "llama4_text": Family(width=_ALL_ALIKE, needs=_GROUPED),
    "minimax_m2": Family("all", router_bias=True, width=_ALL_ALIKE, needs=(*_GROUPED, "head_dim")),
    "mixtral": Family(width=_ALL_ALIKE, needs=_GROUPED),
    "olmoe": Family("all", width=_ALL_ALIKE),
    "qwen2_moe": Family(needs=(*_GROUPED, "shared_expert_intermediate_size")),
    "qwen3_5_moe": Family("head", note=_LINEAR, needs=_SHARED),
    "qwen3_5_moe_text": Family("head", note=_LINEAR, needs=_SHARED),
    "qwen3_moe": Family("head", needs=_GROUPED),
    "qwen3_next": Family("head", note=_LINEAR, needs=_SHARED),
    "qwen3_vl_moe_text": Family("head", needs=(*_GROUPED, "tie_word_embeddings")),
}
"""By `model_type`."""


def family_of(config: dict[str, Any], like: str | None = None) -> tuple[str | None, dict[str, Any]]:
    """The family of a config, and the part that describes its language model.

    Args:
        config: a config.json; that of a model for pictures and text holds the language model's in `text_config`.
        like: the family whose reader is to be taken, whatever the config says.
    """
    text = config.get("text_config")
    if isinstance(text, dict):
        inherited = {name: config[name] for name in ("tie_word_embeddings",) if name in config}
        config = {"model_type": config.get("model_type"), **inherited, **text}
    said = config.get("model_type")
    return like or (said if isinstance(said, str) else None), config


def sizes(config: dict[str, Any], family: Family) -> dict[str, Any]:
    """The arguments of a `ModelShape` besides its name.

    Raises:
        KeyError: the name of a size that is missing.
    """
    for needed in family.needs:
        if not any(name in config for name in needed.split(" or ")):
            raise KeyError(needed)
    layers, width = config["num_hidden_layers"], config[family.width]
    dense = _dense_layers(config, layers)
    return {
        "vocabulary": config["vocab_size"],
        "layers": layers,
        "hidden": config["hidden_size"],
        "attention": _attention(config, family),
        "experts": _first(config, "num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts"),
        "top_k": _first(
            config, "num_experts_per_tok", "num_experts_per_token", "moe_topk", "moe_k", "num_selected_experts"
        ),
        "width": width,
        "shared_width": _shared_width(config, width),
        "dense_layers": dense,
        "dense_width": _first(config, "intermediate_size_mlp", "intermediate_size") if dense else 0,
        "groups": config.get("n_group") or 1,
        "top_groups": config.get("topk_group") or 1,
        "router_bias": family.router_bias,
        "tied": bool(config.get("tie_word_embeddings", family.tied)),
        "context": _context(config),
        "note": family.note,
    }


def _first(config: dict[str, Any], *names: str) -> Any:
    """The first of these entries that there is."""
    for name in names:
        if config.get(name) is not None:
            return config[name]
    raise KeyError(" or ".join(names))


def _context(config: dict[str, Any]) -> int:
    """Tokens of the longest sequence, 0 if that is not said. Some configs tell only by what positions are stretched."""
    longest = config.get("max_position_embeddings") or 0
    for name in ("rope_scaling", "rope_parameters"):
        scaling = config.get(name)
        scaling = scaling if isinstance(scaling, dict) else {}
        factor, original = scaling.get("factor"), scaling.get("original_max_position_embeddings")
        if longest and isinstance(factor, int | float) and isinstance(original, int):
            longest = max(longest, int(factor * original))
    return longest


def _attention(config: dict[str, Any], family: Family) -> Attention:
    heads = config["num_attention_heads"]
    if config.get("kv_lora_rank"):
        nope, rope, value = (config[f"{name}_head_dim"] for name in ("qk_nope", "qk_rope", "v"))
        return LatentAttention(heads, config["kv_lora_rank"], nope, rope, value, config.get("q_lora_rank") or 0)
    head_dim = config.get("head_dim") or config["hidden_size"] // heads
    norm = "head" if config.get("use_qk_norm") is True and family.qk_norm == "none" else family.qk_norm
    if config.get("model_type") in ("llama4", "llama4_text"):
        norm = "none"  # without weights
    return GroupedQueryAttention(heads, config.get("num_key_value_heads") or heads, head_dim, norm)


def _shared_width(config: dict[str, Any], width: Any) -> Any:
    for name in ("shared_expert_intermediate_size", "shared_intermediate_size"):
        if name in config:
            return config[name] or 0
    if config.get("model_type") in ("llama4", "llama4_text", "hunyuan_v1_moe"):  # one, which no entry tells
        return config["intermediate_size"]
    for name in ("n_shared_experts", "num_shared_experts", "moe_num_shared_experts", "num_shared_expert"):
        if config.get(name):
            return config[name] * width
    return 0


def _dense_layers(config: dict[str, Any], layers: Any) -> int:
    """How many layers have no experts. The planner takes them for the first ones."""
    if kinds := config.get("mlp_layer_types"):
        return sum(kind == "dense" for kind in kinds)
    if moe_layers := config.get("moe_layers"):
        return layers - len(moe_layers)
    if (step := config.get("interleave_moe_layer_step")) is not None:
        if not step > 0:
            raise ConfigError(f"interleave_moe_layer_step must be positive, got {step}")
        return layers - layers // step
    step, dense = config.get("decoder_sparse_step") or 1, set(config.get("mlp_only_layers") or ())
    names = ("first_k_dense_replace", "num_dense_layers", "moe_layer_start_index")
    first = next((config[name] for name in names if config.get(name)), 0)
    return first + sum(layer in dense or (layer + 1) % step != 0 for layer in range(layers))
