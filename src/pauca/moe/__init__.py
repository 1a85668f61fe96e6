"""Mixture-of-experts training with few bits: MXFP4 kept and sent, FP8 computed, on Hopper GPUs.

`MoE` is the layer, `Recipe` its numerics. On a CPU everything runs with the same quantisation decisions.
"""

from pauca.moe import ops
from pauca.moe.data.token_files import DataConfig, TokenData, TokenFile, prepare_tokens
from pauca.moe.data.tokenizers import END, BpeTokenizer, ByteTokenizer, Tokenizer, load_tokenizer
from pauca.moe.layer.autograd import apply_experts
from pauca.moe.layer.kept import KeptFormats, kept_bytes, kept_formats
from pauca.moe.layer.moe import Experts, MoE, auxiliary_loss, frozen_weights, update_biases
from pauca.moe.layer.permutation import Permutation, sort_by_expert
from pauca.moe.layer.recipe import Format, Precision, Recipe, Recompute
from pauca.moe.layer.router import Router, RouterConfig, Routing
from pauca.moe.layer.weights import prepare_weights
from pauca.moe.models.blocks import LayersConfig, Recomputation
from pauca.moe.models.huggingface import convert, unconvert
from pauca.moe.models.lm import LM_SIZES, LMConfig, LMLosses, MoELM
from pauca.moe.models.vit import MoEViT, ViTConfig
from pauca.moe.ops.formats import Fp8Tensor, Granularity, Layout, MxFp4Tensor, ScaleRule
from pauca.moe.parallel.experts import ParallelExperts
from pauca.moe.parallel.gradients import average_gradients, clip_gradients
from pauca.moe.parallel.model import parallelise
from pauca.moe.parallel.optimizer_state import load_optimizer_state, optimizer_state
from pauca.moe.parallel.wire import WireBytes, wire_bytes
from pauca.moe.plan.config_files import model_shape
from pauca.moe.plan.memory import RecomputePolicy
from pauca.moe.plan.search import Assumptions, ParallelLayout, Plan, PlanTask, Way, find_plans
from pauca.moe.plan.shapes import SHAPES, GroupedQueryAttention, LatentAttention, ModelShape
from pauca.moe.plan.speed import Rates
from pauca.moe.training.checkpoints import load_checkpoint, load_model, save_checkpoint, save_model
from pauca.moe.training.diagnosis import diagnose
from pauca.moe.training.health import FormatLosses, RouterLoad, format_losses, quantisation_health, router_loads
from pauca.moe.training.loop import TrainResult, train
from pauca.moe.training.trainer import Diverged, TrainConfig, Trainer, TrainStep

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
