"""Mixture-of-experts training with few bits: MXFP4 kept and sent, FP8 computed, on Hopper GPUs.

`MoE` is the layer, `Recipe` its numerics. On a CPU everything runs with the same quantisation decisions.
"""

from pauca.moe.experts import KeptFormats, apply_experts, kept_bytes, kept_formats
from pauca.moe.formats import Fp8Tensor, MxFp4Tensor, ScaleRule
from pauca.moe.layer import Experts, MoE, auxiliary_loss, update_biases
from pauca.moe.permute import Permutation, sort_by_expert
from pauca.moe.recipe import Format, Precision, Recipe, Recompute
from pauca.moe.router import Router, RouterConfig, Routing

__all__ = [
    "Experts",
    "Format",
    "Fp8Tensor",
    "KeptFormats",
    "MoE",
    "MxFp4Tensor",
    "Permutation",
    "Precision",
    "Recipe",
    "Recompute",
    "Router",
    "RouterConfig",
    "Routing",
    "ScaleRule",
    "apply_experts",
    "auxiliary_loss",
    "kept_bytes",
    "kept_formats",
    "sort_by_expert",
    "update_biases",
]
