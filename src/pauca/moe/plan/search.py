"""What fits: the memory and speed of training a model on given GPUs, recipe by recipe, before anything is bought.

A plan is a layout (pipeline stages, expert parallelism, the rest data parallel), a recipe, and what backward computes
again. `find_plans` tries all of them and finds, for each recipe, the fastest that fits.
"""

from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from typing import get_args

from pauca.errors import PaucaError
from pauca.moe.layer.recipe import Precision, Recompute
from pauca.moe.models.config import Recomputation
from pauca.moe.models.shapes import LatentAttention, ModelShape
from pauca.moe.plan.evaluate import evaluate
from pauca.moe.plan.task import Plan, PlanTask, Way


def find_plans(task: PlanTask) -> dict[Precision, Plan]:
    """Find the fastest plan that fits for each recipe; where none does, the one that lacks least.

    Raises:
        ConfigError: layouts that do not divide.
        PaucaError: nothing fits.
    """
    best: dict[Precision, Plan] = {
        recipe: _best([evaluate(task, way) for way in _ways(task, recipe)]) for recipe in task.recipes
    }
    nearest = min(best.values(), key=lambda plan: plan.lacks)
    if nearest.lacks > 0:
        raise PaucaError(
            f"{task.shape.name} does not fit {task.gpus} GPU(s) of {task.memory / 1e9:.4g} GB: the nearest plan "
            f"({nearest.way}) lacks {nearest.lacks / 1e9:,.1f} GB a GPU; give more GPUs or memory, or fewer tokens"
            f"{_if_launched(task)}"
        )
    return best


def _if_launched(task: PlanTask) -> str:
    """The loop that would fit where steps that are recorded do not, which share experts among two GPUs at most."""
    if not task.assumptions.is_recorded:
        return ""
    try:
        found = find_plans(replace(task, assumptions=replace(task.assumptions, loop="eager")))
    except PaucaError:
        return ""
    plan = min((plan for plan in found.values() if plan.lacks <= 0), key=lambda plan: plan.way.layout.ep)
    return f", or plan for the loop eager, which fits with EP {plan.way.layout.ep}"


def _best(plans: list[Plan]) -> Plan:
    fitting = [plan for plan in plans if plan.lacks <= 0]
    if fitting:
        return max(fitting, key=_merit)
    return min(plans, key=lambda plan: plan.lacks)


def _merit(plan: Plan) -> tuple[float, int, int]:
    """Speed; of equally fast plans, which launches bound, then how little is recomputed, and then of memory needed."""
    policy = plan.way.policy
    steps = policy.norms + (False, "up", True).index(policy.attention) + get_args(Recompute).index(policy.experts)
    return float(f"{plan.tokens_per_second:.9g}"), -steps, -plan.total


def _ways(task: PlanTask, recipe: Precision) -> Iterator[Way]:
    for layout, policy, prepared in product(task.layouts(), policies(task.shape), (False, True)):
        # `pauca moe train` quantizes once a step where a step has several passes.
        once = recipe != "bf16" and (task.assumptions.loop == "fused" or task.micro_batches(layout) > 1)
        if once or not prepared:
            yield Way(recipe, layout, policy, prepared)


def policies(shape: ModelShape) -> list[Recomputation]:
    """All that a model's layers may recompute."""
    attention = (False, "up", True) if isinstance(shape.attention, LatentAttention) else (False, True)
    return [Recomputation(*choice) for choice in product((False, True), attention, get_args(Recompute))]


def ladder(shape: ModelShape) -> list[Recomputation]:
    """The steps of a table, from recomputing nothing to recomputing most."""
    latent = isinstance(shape.attention, LatentAttention)
    return [
        Recomputation(),
        *([Recomputation(attention="up")] if latent else [Recomputation(norms=True)]),
        *([Recomputation(norms=True, attention="up")] if latent else []),
        Recomputation(norms=True, attention=True),
        Recomputation(norms=True, attention=True, experts="activation"),
        Recomputation(norms=True, attention=True, experts="experts"),
    ]


def why_not_less(task: PlanTask, plan: Plan) -> Plan | None:
    """The nearest to fitting among the faster ways with the same recipe and layout; None if the fastest fits."""
    others = (evaluate(task, replace(plan.way, policy=policy)) for policy in policies(task.shape))
    faster = [other for other in others if other.tokens_per_second > plan.tokens_per_second and other.lacks > 0]
    return min(faster, key=lambda other: other.lacks, default=None)
