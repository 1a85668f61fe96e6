"""Mixture-of-experts training with few bits: MXFP4 kept and sent, FP8 computed, on Hopper GPUs.

`MoE` is the layer, `Recipe` its numerics. On a CPU everything runs with the same quantisation decisions.
"""

from pauca.moe import ops
from pauca.moe.checkpoints import load_checkpoint, load_model, save_checkpoint, save_model
from pauca.moe.convert import convert, unconvert
from pauca.moe.cost import Rates
from pauca.moe.diagnosis import diagnose
from pauca.moe.experts import apply_experts
from pauca.moe.footprint import RecomputePolicy
from pauca.moe.formats import Fp8Tensor, Granularity, Layout, MxFp4Tensor, ScaleRule
from pauca.moe.gradients import average_gradients, clip_gradients
from pauca.moe.health import FormatLosses, RouterLoad, format_losses, quantisation_health, router_loads
from pauca.moe.kept import KeptFormats, kept_bytes, kept_formats
from pauca.moe.layer import Experts, MoE, auxiliary_loss, frozen_weights, update_biases
from pauca.moe.lm import LM_SIZES, LayersConfig, LMConfig, LMLosses, MoELM, Recomputation
from pauca.moe.parallel import ParallelExperts, parallelise
from pauca.moe.permute import Permutation, sort_by_expert
from pauca.moe.plan import Assumptions, ParallelLayout, Plan, PlanTask, Way, find_plans
from pauca.moe.recipe import Format, Precision, Recipe, Recompute
from pauca.moe.router import Router, RouterConfig, Routing
from pauca.moe.shapes import SHAPES, GroupedQueryAttention, LatentAttention, ModelShape, model_shape
from pauca.moe.states import load_optimizer_state, optimizer_state
from pauca.moe.tokens import (
    END,
    BpeTokenizer,
    ByteTokenizer,
    DataConfig,
    TokenData,
    TokenFile,
    Tokenizer,
    load_tokenizer,
    prepare_tokens,
)
from pauca.moe.train import TrainResult, train
from pauca.moe.trainer import Diverged, TrainConfig, Trainer, TrainStep
from pauca.moe.vit import MoEViT, ViTConfig
from pauca.moe.weights import prepare_weights
from pauca.moe.wire import WireBytes, wire_bytes

__all__ = [
    "END",
    "LM_SIZES",
    "SHAPES",
    "Assumptions",
    "BpeTokenizer",
    "ByteTokenizer",
    "DataConfig",
    "Diverged",
    "Experts",
    "Format",
    "FormatLosses",
    "Fp8Tensor",
    "Granularity",
    "GroupedQueryAttention",
    "KeptFormats",
    "LMConfig",
    "LMLosses",
    "LatentAttention",
    "LayersConfig",
    "Layout",
    "MoE",
    "MoELM",
    "MoEViT",
    "ModelShape",
    "MxFp4Tensor",
    "ParallelExperts",
    "ParallelLayout",
    "Permutation",
    "Plan",
    "PlanTask",
    "Precision",
    "Rates",
    "Recipe",
    "Recomputation",
    "Recompute",
    "RecomputePolicy",
    "Router",
    "RouterConfig",
    "RouterLoad",
    "Routing",
    "ScaleRule",
    "TokenData",
    "TokenFile",
    "Tokenizer",
    "TrainConfig",
    "TrainResult",
    "TrainStep",
    "Trainer",
    "ViTConfig",
    "Way",
    "WireBytes",
    "apply_experts",
    "auxiliary_loss",
    "average_gradients",
    "clip_gradients",
    "convert",
    "diagnose",
    "find_plans",
    "format_losses",
    "frozen_weights",
    "kept_bytes",
    "kept_formats",
    "load_checkpoint",
    "load_model",
    "load_optimizer_state",
    "load_tokenizer",
    "model_shape",
    "ops",
    "optimizer_state",
    "parallelise",
    "prepare_tokens",
    "prepare_weights",
    "quantisation_health",
    "router_loads",
    "save_checkpoint",
    "save_model",
    "sort_by_expert",
    "train",
    "unconvert",
    "update_biases",
    "wire_bytes",
]
