"""Mixture-of-experts training with few bits: MXFP4 kept and sent, FP8 computed, on Hopper GPUs.

`MoE` is the layer, `Recipe` its numerics. On a CPU everything runs with the same quantization decisions. What most
programs need is here; the rest lies in the rooms `ops`, `layer`, `parallel`, `models`, `data`, `training` and `plan`.
"""

import warnings
from importlib import import_module

from pauca.moe import ops
from pauca.moe.data import DataConfig, TokenData, load_tokenizer, prepare_tokens
from pauca.moe.layer import (
    RECIPES,
    Experts,
    Format,
    MoE,
    Precision,
    Recipe,
    Recompute,
    RouterConfig,
    auxiliary_loss,
    frozen_weights,
    kept_bytes,
    quantize_once,
    sum_gradients_in_fp32,
    update_biases,
)
from pauca.moe.models import LM_SIZES, LMConfig, MoELM, MoEViT, Recomputation, ViTConfig, convert, unconvert
from pauca.moe.parallel import parallelize
from pauca.moe.training import Diverged, TrainConfig, Trainer, TrainResult, load_model, save_model, train

__all__ = [
    "LM_SIZES",
    "RECIPES",
    "DataConfig",
    "Diverged",
    "Experts",
    "Format",
    "LMConfig",
    "MoE",
    "MoELM",
    "MoEViT",
    "Precision",
    "Recipe",
    "Recomputation",
    "Recompute",
    "RouterConfig",
    "TokenData",
    "TrainConfig",
    "TrainResult",
    "Trainer",
    "ViTConfig",
    "auxiliary_loss",
    "convert",
    "frozen_weights",
    "kept_bytes",
    "load_model",
    "load_tokenizer",
    "ops",
    "parallelize",
    "prepare_tokens",
    "quantize_once",
    "save_model",
    "sum_gradients_in_fp32",
    "train",
    "unconvert",
    "update_biases",
]

# Where names of version 0.1 are that this face no longer shows; they leave it with version 0.3.
_MOVED = {
    "data": "BpeTokenizer ByteTokenizer END TokenFile Tokenizer",
    "layer": "KeptFormats Permutation Router Routing apply_experts kept_formats prepare_weights sort_by_expert",
    "models": "LMLosses LayersConfig",
    "ops": "Fp8Tensor Granularity Layout MxFp4Tensor ScaleRule",
    "parallel": "ParallelExperts WireBytes average_gradients clip_gradients load_optimizer_state optimizer_state "
    "wire_bytes",
    "plan": "Assumptions GroupedQueryAttention LatentAttention ModelShape ParallelLayout Plan PlanTask Rates "
    "SHAPES Way find_plans model_shape",
    "training": "FormatLosses RouterLoad TrainStep diagnose format_losses quantization_health router_loads",
    "runs.checkpoints": "load_checkpoint save_checkpoint",
}
_RENAMED = {
    "RecomputePolicy": "Recomputation",
    "parallelise": "parallelize",
    "quantisation_health": "quantization_health",
}
_PLACES = {
    name: f"pauca.{room}" if room.startswith("runs") else f"pauca.moe.{room}"
    for room, names in _MOVED.items()
    for name in names.split()
}


def __getattr__(name: str) -> object:
    """Names of version 0.1, with a warning that says where they are now."""
    if name not in _RENAMED and name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    new = _RENAMED.get(name, name)
    place = _PLACES.get(new, __name__)
    warnings.warn(f"{__name__}.{name} is now {place}.{new}; the old name goes with version 0.3", DeprecationWarning, 2)
    return getattr(import_module(place), new)
