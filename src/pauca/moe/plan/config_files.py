"""The shape of a model by its name, or from the config file of a Hugging Face model or of a training."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal

from pauca.errors import ConfigError, InputError
from pauca.moe.models.lm import LM_SIZES, LMConfig
from pauca.moe.models.shapes import GroupedQueryAttention, LatentAttention, ModelShape
from pauca.moe.plan.published import ALIASES, SHAPES
from pauca.runs import from_yaml


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
        return replace(LM_SIZES[name].shape, name=name)
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
        InputError: the file cannot be read, is not such a config, or its model has no layer of experts.
    """
    path = Path(path)
    try:
        model = from_yaml(_TrainingRun, path).model
    except ConfigError as error:
        raise InputError(f"{error}; give the config.yaml of a `pauca moe train` run") from error
    try:
        shape = replace(model.shape, name=_model_name(path))
        shape.require_experts()
    except ConfigError as error:
        raise InputError(f"{path}: {error}") from error
    return shape


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
        shape = ModelShape(_model_name(path), **sizes)
        shape.require_experts()
    except KeyError as error:
        raise InputError(f"{path}: {error.args[0]!r} is missing") from error
    except ConfigError as error:
        raise InputError(f"{path}: {error}") from error
    return shape


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
