"""Mixture-of-experts training with few bits: MXFP4 kept and sent, FP8 computed, on Hopper GPUs.

`MoE` is the layer, `Recipe` its numerics. On a CPU everything runs with the same quantisation decisions.
"""

from pauca.moe import ops
from pauca.moe.convert import convert, unconvert
from pauca.moe.experts import apply_experts
from pauca.moe.formats import Fp8Tensor, Granularity, Layout, MxFp4Tensor, ScaleRule
from pauca.moe.kept import KeptFormats, kept_bytes, kept_formats
from pauca.moe.layer import Experts, MoE, auxiliary_loss, frozen_weights, update_biases
from pauca.moe.lm import LM_SIZES, LayersConfig, LMConfig, LMLosses, MoELM, Recomputation
from pauca.moe.permute import Permutation, sort_by_expert
from pauca.moe.recipe import Format, Precision, Recipe, Recompute
from pauca.moe.router import Router, RouterConfig, Routing
from pauca.moe.vit import MoEViT, ViTConfig
from pauca.moe.weights import prepare_weights

__all__ = [
    "LM_SIZES",
    "Experts",
    "Format",
    "Fp8Tensor",
    "Granularity",
    "KeptFormats",
    "LMConfig",
    "LMLosses",
    "LayersConfig",
    "Layout",
    "MoE",
    "MoELM",
    "MoEViT",
    "MxFp4Tensor",
    "Permutation",
    "Precision",
    "Recipe",
    "Recomputation",
    "Recompute",
    "Router",
    "RouterConfig",
    "Routing",
    "ScaleRule",
    "ViTConfig",
    "apply_experts",
    "auxiliary_loss",
    "convert",
    "frozen_weights",
    "kept_bytes",
    "kept_formats",
    "ops",
    "prepare_weights",
    "sort_by_expert",
    "unconvert",
    "update_biases",
]
