"""One mixture-of-experts layer on one device: its numerics, its router, its experts, and what it keeps for backward."""

from pauca.moe.layer.autograd import apply_experts
from pauca.moe.layer.experts import ExpertBank, Experts
from pauca.moe.layer.gradient_sums import SummedInFp32, sum_gradients_in_fp32
from pauca.moe.layer.kept import KeptFormats, kept_bytes, kept_formats
from pauca.moe.layer.linear import QuantizedLinear, apply_linear
from pauca.moe.layer.moe import MoE, auxiliary_loss, frozen_weights, moe_layers, update_biases
from pauca.moe.layer.once import QuantizedOnce, quantize_once
from pauca.moe.layer.permutation import Permutation, sort_by_expert
from pauca.moe.layer.recipe import RECIPES, Format, Precision, Recipe, Recompute
from pauca.moe.layer.router import Router, RouterConfig, Routing
from pauca.moe.layer.weights import prepare_weights

__all__ = [
    "RECIPES",
    "ExpertBank",
    "Experts",
    "Format",
    "KeptFormats",
    "MoE",
    "Permutation",
    "Precision",
    "QuantizedLinear",
    "QuantizedOnce",
    "Recipe",
    "Recompute",
    "Router",
    "RouterConfig",
    "Routing",
    "SummedInFp32",
    "apply_experts",
    "apply_linear",
    "auxiliary_loss",
    "frozen_weights",
    "kept_bytes",
    "kept_formats",
    "moe_layers",
    "prepare_weights",
    "quantize_once",
    "sort_by_expert",
    "sum_gradients_in_fp32",
    "update_biases",
]
