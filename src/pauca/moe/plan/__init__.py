"""What fits on which GPUs, and how fast it trains: shapes of models, memory, speed, and the search."""

from pauca.moe.models.shapes import GroupedQueryAttention, LatentAttention, ModelShape
from pauca.moe.plan.config_files import model_shape
from pauca.moe.plan.families import FAMILIES
from pauca.moe.plan.gpus import GPUS, Gpu
from pauca.moe.plan.published import SHAPES
from pauca.moe.plan.search import find_plans
from pauca.moe.plan.speed import Rates
from pauca.moe.plan.task import Assumptions, ParallelLayout, Plan, PlanTask, Way, parse_memory

__all__ = [
    "FAMILIES",
    "GPUS",
    "SHAPES",
    "Assumptions",
    "Gpu",
    "GroupedQueryAttention",
    "LatentAttention",
    "ModelShape",
    "ParallelLayout",
    "Plan",
    "PlanTask",
    "Rates",
    "Way",
    "find_plans",
    "model_shape",
    "parse_memory",
]
