"""What fits: the memory and speed of training a model on given GPUs, recipe by recipe, before anything is bought.

A plan is a layout (pipeline stages, expert parallelism, the rest data parallel), a recipe, and what backward computes
again. `find_plans` tries all of them and finds, for each recipe, the fastest that fits. Layers are spread over the
stages as evenly as whole layers allow; stages run one forward, one backward (1F1B), so that the first of P stages
holds the activations of P micro-batches; the optimizer's state is divided among all GPUs that hold the same weights
(ZeRO 1). Not modeled: tensor and context parallelism, the traffic between stages, fragmentation beyond `reserved_gb`.
"""

import math
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from itertools import product
from typing import get_args

from pauca.errors import ConfigError, InputError, PaucaError
from pauca.moe.layer.recipe import RECIPES, Precision, Recompute
from pauca.moe.models.blocks import Recomputation
from pauca.moe.models.shapes import LatentAttention, ModelShape
from pauca.moe.plan import speed
from pauca.moe.plan.memory import (
    Bytes,
    kept_by_head,
    kept_by_layer,
    loss_working_set,
    routed_load,
    working_set,
)
from pauca.moe.plan.speed import Rates, Seconds
from pauca.renamed import formerly


@formerly(optimiser_bytes="optimizer_bytes")
@dataclass(frozen=True)
class Assumptions:
    """What a plan takes for granted; every number can be set."""

    parameter_bytes: int = 2
    """Bytes of one weight on the GPU: 2 (BF16) or 4 (FP32)."""
    gradient_bytes: int = 4
    """Bytes of one gradient summed over micro-batches: 2 (BF16) or 4 (FP32)."""
    optimizer_bytes: int = 12
    """Bytes of the optimizer's state for one parameter; 12: an FP32 master copy and Adam's two moments."""
    batch_tokens: int = 2**24
    """Tokens of one optimizer step over all GPUs; decides how many micro-batches fill the pipeline."""
    imbalance: float = 1.0
    """Load of the busiest GPU's experts over the mean load; 1 is balanced."""
    reserved_gb: float = 3.0
    """Memory of a GPU that others take (CUDA, libraries, communication buffers, fragmentation), in GB of 10^9 bytes."""
    rates: Rates = field(default_factory=Rates)
    """How fast a GPU and its links are."""

    def __post_init__(self) -> None:
        for name in ("parameter_bytes", "gradient_bytes"):
            if getattr(self, name) not in (2, 4):
                raise ConfigError(f"{name} must be 2 or 4, got {getattr(self, name)}")
        least = {"optimizer_bytes": 0, "reserved_gb": 0, "batch_tokens": 1, "imbalance": 1}
        for name, bound in least.items():
            if not bound <= getattr(self, name) < math.inf:  # nor NaN
                raise ConfigError(f"{name} must be at least {bound}, got {getattr(self, name)}")


@dataclass(frozen=True)
class ParallelLayout:
    """How a model is spread over GPUs."""

    gpus: int
    pp: int
    """Pipeline stages."""
    ep: int
    """GPUs of one stage that share the experts of a layer."""

    @property
    def dp(self) -> int:
        """GPUs of one stage: each has its own tokens."""
        return self.gpus // self.pp

    def __str__(self) -> str:
        return f"PP {self.pp} x DP {self.dp}, EP {self.ep}"


@dataclass(frozen=True)
class Way:
    """One way to train."""

    recipe: Precision
    layout: ParallelLayout
    policy: Recomputation = field(default_factory=Recomputation)
    prepared: bool = False
    """Expert weights are quantized once a step and kept (`frozen_weights`), not in every pass."""

    def __str__(self) -> str:
        once = ", FP8 weights kept" if self.prepared else ""
        return f"{self.recipe}, {self.layout}, recomputing {self.policy}{once}"


@dataclass(frozen=True)
class Plan:
    """What one way costs."""

    way: Way
    memory: Bytes
    """Bytes of the fullest GPU, by what they hold."""
    budget: int
    """Bytes of a GPU's memory."""
    time: Seconds
    """Seconds of one micro-batch in the slowest stage, by what takes them."""
    tokens_per_second: float
    """Per GPU."""
    all_to_all: dict[str, int]
    """Bytes that a GPU sends in one MoE layer, by direction."""

    @property
    def total(self) -> int:
        return sum(self.memory.values())

    @property
    def lacks(self) -> int:
        """Bytes above the budget; negative is room."""
        return self.total - self.budget

    def to_dict(self) -> dict[str, object]:
        """Plain values, for JSON."""
        attention = {False: "none", "up": "up", True: "all"}[self.way.policy.attention]
        policy = asdict(self.way.policy) | {"attention": attention}
        way = asdict(self.way) | {"policy": policy, "recomputes": str(self.way.policy), "dp": self.way.layout.dp}
        return asdict(self) | {"way": way, "total": self.total, "fits": self.lacks <= 0}


@dataclass(frozen=True)
class PlanTask:
    """What is asked: a model, GPUs, and what of the layout is given already."""

    shape: ModelShape
    gpus: int
    memory: int
    """Bytes of one GPU."""
    tokens: int = 4096
    """Tokens of one micro-batch on each GPU."""
    context: int = 4096
    """Length of a sequence, for attention's time."""
    ep: int | None = None
    pp: int | None = None
    dp: int | None = None
    assumptions: Assumptions = field(default_factory=Assumptions)

    def __post_init__(self) -> None:
        for name in ("gpus", "memory", "tokens", "context", "ep", "pp", "dp"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"{name} must be positive, got {value}")
        self.shape.require_experts()
        for recipe in RECIPES.values():
            for width in {self.shape.width, self.shape.shared_width, self.shape.dense_width} - {0}:
                recipe.check_sizes(self.shape.hidden, width)

    @property
    def micro_batches(self) -> int:
        """Micro-batches of one step in a layout without pipeline; a pipeline of P stages has P times as many."""
        return max(1, self.assumptions.batch_tokens // (self.tokens * self.gpus))

    def layouts(self) -> list[ParallelLayout]:
        """All that the GPUs, the layers and the experts allow.

        Raises:
            ConfigError: the given ones do not divide.
        """
        self._check_given()
        found = [
            ParallelLayout(self.gpus, pp, ep)
            for pp in _divisors(self.gpus)
            if pp <= self.shape.layers and self.pp in (None, pp) and self.dp in (None, self.gpus // pp)
            for ep in _divisors(self.gpus // pp)
            if self.shape.experts % ep == 0 and self.ep in (None, ep)
        ]
        if not found:
            raise ConfigError(
                f"no layout of {self.gpus} GPUs has EP {self.ep}: it must divide the GPUs of a stage, which are all "
                "GPUs over PP"
            )
        return found

    def _check_given(self) -> None:
        stages = self.pp or (self.gpus // self.dp if self.dp else None)
        for name, value in (("PP", self.pp), ("DP", self.dp)):
            if value and self.gpus % value:
                raise ConfigError(f"{name} {value} does not divide the {self.gpus} GPUs")
        if self.pp and self.dp and self.pp * self.dp != self.gpus:
            raise ConfigError(f"PP {self.pp} x DP {self.dp} is {self.pp * self.dp}, not the {self.gpus} GPUs")
        if stages and stages > self.shape.layers:
            raise ConfigError(f"{stages} stages are more than the {self.shape.layers} layers of {self.shape.name}")
        if self.ep and self.shape.experts % self.ep:
            raise ConfigError(f"EP {self.ep} does not divide the {self.shape.experts} experts of {self.shape.name}")
        if self.ep and stages and (self.gpus // stages) % self.ep:
            raise ConfigError(f"EP {self.ep} does not divide the {self.gpus // stages} GPUs of one stage")


def find_plans(task: PlanTask) -> dict[Precision, Plan]:
    """Find the fastest plan that fits for each recipe; where none does, the one that lacks least.

    Raises:
        ConfigError: layouts that do not divide.
        PaucaError: nothing fits.
    """
    best: dict[Precision, Plan] = {
        recipe: _best([evaluate(task, way) for way in _ways(task, recipe)]) for recipe in RECIPES
    }
    nearest = min(best.values(), key=lambda plan: plan.lacks)
    if nearest.lacks > 0:
        raise PaucaError(
            f"{task.shape.name} does not fit {task.gpus} GPU(s) of {task.memory / 1e9:.4g} GB: the nearest plan "
            f"({nearest.way}) lacks {nearest.lacks / 1e9:,.1f} GB a GPU; give more GPUs or memory, or fewer tokens"
        )
    return best


def _best(plans: list[Plan]) -> Plan:
    fitting = [plan for plan in plans if plan.lacks <= 0]
    if fitting:
        return max(fitting, key=lambda plan: (plan.tokens_per_second, -plan.total))
    return min(plans, key=lambda plan: plan.lacks)


def _ways(task: PlanTask, recipe: Precision) -> Iterator[Way]:
    choices = (False,) if recipe == "bf16" else (False, True)
    for layout, policy, prepared in product(task.layouts(), policies(task.shape), choices):
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


def evaluate(task: PlanTask, way: Way) -> Plan:
    """The memory and the speed of one way to train."""
    layout, given = way.layout, task.assumptions
    micro_batches = task.micro_batches * layout.pp
    stages = _stages(task.shape, layout, micro_batches)
    layers = {is_moe: _Layer.of(task, way, is_moe) for is_moe in (False, True)}
    memory = max((_memory(task, way, layers, stage) for stage in stages), key=lambda part: sum(part.values()))
    times = (_stage_time(task, layers, stage) for stage in stages)
    slowest = max(times, key=lambda time: sum(time.values()))
    step = (micro_batches + layout.pp - 1) * sum(slowest.values()) + _update_time(task, layout)
    return Plan(
        way,
        memory,
        task.memory,
        slowest,
        micro_batches * task.tokens / (layout.pp * step),
        speed.all_to_all_bytes(RECIPES[way.recipe], task.shape, task.tokens, layout.ep, given.imbalance),
    )


@dataclass(frozen=True)
class _Stage:
    """What one pipeline stage holds."""

    dense: int
    moe: int
    first: bool
    last: bool
    in_flight: int  # micro-batches between their forward and their backward


def _stages(shape: ModelShape, layout: ParallelLayout, micro_batches: int) -> list[_Stage]:
    """Whole layers as evenly as possible, the earlier stages getting one more; the dense layers come first."""
    stages, start = [], 0
    for index in range(layout.pp):
        layers = shape.layers // layout.pp + (index < shape.layers % layout.pp)
        dense = max(0, min(layers, shape.dense_layers - start))
        in_flight = min(layout.pp - index, micro_batches)
        stages.append(_Stage(dense, layers - dense, index == 0, index == layout.pp - 1, in_flight))
        start += layers
    return stages


@dataclass(frozen=True)
class _Layer:
    """What one layer, dense or MoE, costs a GPU in one micro-batch."""

    kept: int
    working_set: int
    time: Seconds

    @classmethod
    def of(cls, task: PlanTask, way: Way, is_moe: bool) -> "_Layer":
        shape, given, recipe = task.shape, task.assumptions, RECIPES[way.recipe]
        if not is_moe and not shape.dense_layers:
            return cls(0, 0, {})
        load = routed_load(shape, task.tokens, way.layout.ep, given.imbalance) if is_moe else None
        sizes = (shape, recipe, way.policy, task.tokens, load)
        time = speed.add(
            speed.attention_time(shape, way.policy, task.tokens, task.context, given.rates),
            speed.feed_forward_time(*sizes, given.rates, way.prepared),
        )
        if is_moe and way.layout.ep > 1:
            sent = sum(speed.all_to_all_bytes(recipe, shape, task.tokens, way.layout.ep, given.imbalance).values())
            exposed = 1 - given.rates.overlap
            time["all-to-all"] = exposed * sent / given.rates.link_bytes_per_second(way.layout.ep)
        kept = kept_by_layer(*sizes)
        return cls(sum(kept.values()), working_set(*sizes, given.parameter_bytes), time)


def _memory(task: PlanTask, way: Way, layers: dict[bool, _Layer], stage: _Stage) -> Bytes:
    given = task.assumptions
    experts, others = _parameters(task.shape, way.layout, stage)
    dense, moe = layers[False], layers[True]
    state = given.optimizer_bytes * (experts * way.layout.ep + others) / way.layout.dp
    return {
        "weights": given.parameter_bytes * (experts + others),
        "gradients": given.gradient_bytes * (experts + others),
        "optimizer": round(state),
        "FP8 weights": 2 * experts * way.prepared,
        "activations": stage.in_flight * (stage.dense * dense.kept + stage.moe * moe.kept),
        "working set": _working_set(task, layers, stage),
        "reserved": round(given.reserved_gb * 1e9),
    }


def _working_set(task: PlanTask, layers: dict[bool, _Layer], stage: _Stage) -> int:
    """The most that is needed besides what is kept: in a layer's backward, or in the loss before it."""
    shape = task.shape
    backward = max(layers[True].working_set if stage.moe else 0, layers[False].working_set if stage.dense else 0)
    if not stage.last:
        return backward
    if stage.first and shape.tied:  # the head's gradient waits for the embedding's
        backward += 4 * shape.embedding_parameters
    head = sum(kept_by_head(shape, task.tokens).values())
    return max(backward, head + loss_working_set(shape, task.tokens, task.assumptions.parameter_bytes))


def _parameters(shape: ModelShape, layout: ParallelLayout, stage: _Stage) -> tuple[int, int]:
    """Parameters on one GPU: those of its routed experts, and those that all GPUs of the stage have."""
    experts = stage.moe * shape.experts // layout.ep * shape.expert_parameters
    others = stage.dense * shape.dense_layer_parameters + stage.moe * shape.moe_layer_parameters
    tables = stage.first + stage.last - (stage.first and stage.last and shape.tied)
    return experts, others + tables * shape.embedding_parameters + stage.last * shape.hidden


def _stage_time(task: PlanTask, layers: dict[bool, _Layer], stage: _Stage) -> Seconds:
    """The time of one micro-batch, forward and backward."""
    time = speed.add({}, layers[False].time, stage.dense)
    time = speed.add(time, layers[True].time, stage.moe)
    if stage.last:
        time["head"] = speed.head_time(task.shape, task.tokens, task.assumptions.rates)
    return time


def _update_time(task: PlanTask, layout: ParallelLayout) -> float:
    """Once a step: gradients summed and weights sent between the GPUs that share them, and the optimizer's pass."""
    shape, given = task.shape, task.assumptions
    experts = shape.moe_layers * shape.experts * shape.expert_parameters / layout.pp
    others, copies = shape.parameters / layout.pp - experts, layout.dp // layout.ep
    shared = others * (layout.dp - 1) / layout.dp + experts / layout.ep * (copies - 1) / copies
    sent = (given.gradient_bytes + given.parameter_bytes) * shared
    # The state is read and written, gradients are read, weights written.
    state = 2 * given.optimizer_bytes + given.gradient_bytes + given.parameter_bytes
    passed = state * (experts + others) / layout.dp
    return sent / given.rates.link_bytes_per_second(layout.dp) + given.rates.bytes(passed)


def _divisors(number: int) -> list[int]:
    return [divisor for divisor in range(1, number + 1) if number % divisor == 0]


_UNITS = {"": 10**9, "GB": 10**9, "GIB": 2**30, "MB": 10**6, "MIB": 2**20, "TB": 10**12}


def parse_memory(text: str) -> int:
    """Bytes of `80GB` (10^9), `79.6 GiB` (2^30) or `80` (GB).

    Raises:
        InputError: something else.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*", text)
    unit = _UNITS.get(match[2].upper()) if match else None
    if match is None or unit is None or not float(match[1]):
        raise InputError(f"memory must be a size such as 80GB or 79.6GiB, got {text!r}")
    return round(float(match[1]) * unit)
