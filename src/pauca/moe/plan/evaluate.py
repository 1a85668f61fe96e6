"""The memory and the speed of one way to train, from those of its layers.

Layers are spread over the stages as evenly as whole layers allow; stages run one forward, one backward (1F1B), so that
the first of P stages holds the activations of P micro-batches; the optimizer's state is divided among all GPUs that
hold the same weights (ZeRO 1). Not modeled: tensor and context parallelism, the traffic between stages, fragmentation
beyond `reserved_gb`.
"""

from dataclasses import dataclass

from pauca.moe.layer.recipe import RECIPES
from pauca.moe.models.shapes import ModelShape
from pauca.moe.plan import own_loop, speed
from pauca.moe.plan.memory import (
    Bytes,
    kept_by_head,
    kept_by_layer,
    loss_working_set,
    routed_load,
    working_set,
)
from pauca.moe.plan.speed import Seconds
from pauca.moe.plan.task import ParallelLayout, Plan, PlanTask, Way


def evaluate(task: PlanTask, way: Way) -> Plan:
    """The memory and the speed of one way to train."""
    layout, given = way.layout, task.assumptions
    micro_batches = task.micro_batches(layout)
    stages = _stages(task.shape, layout, micro_batches)
    layers = {is_moe: _Layer.of(task, way, is_moe) for is_moe in (False, True)}
    memory = max((_memory(task, way, layers, stage) for stage in stages), key=lambda part: sum(part.values()))
    times = (_stage_time(task, way, layers, stage) for stage in stages)
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
            speed.attention_time(
                shape, way.policy, task.tokens, task.sequence, given.rates, task.projections_of(way.recipe)
            ),
            speed.feed_forward_time(*sizes, given.rates, way.prepared),
        )
        if given.loop != "fused":
            own = own_loop.layer_time(shape, way.recipe, task.tokens, task.sequence, load, given.rates, given.loop)
            time = speed.add(time, own)
        if is_moe and way.layout.ep > 1:
            sent = sum(speed.all_to_all_bytes(recipe, shape, task.tokens, way.layout.ep, given.imbalance).values())
            computing = sum(time.values())
            time["all-to-all"] = speed.all_to_all_time(sent, shape, task.tokens, way.layout.ep, given.rates, computing)
        kept = kept_by_layer(*sizes, task.projections_of(way.recipe))
        return cls(sum(kept.values()), working_set(*sizes, given.parameter_bytes), time)


def _memory(task: PlanTask, way: Way, layers: dict[bool, _Layer], stage: _Stage) -> Bytes:
    given = task.assumptions
    experts, others = _parameters(task.shape, way.layout, stage)
    dense, moe = layers[False], layers[True]
    state = given.optimizer_bytes * (experts * way.layout.ep + others) / way.layout.dp
    return {
        "weights": given.parameter_bytes * (experts + others),
        "gradients": given.gradient_bytes * (experts + others),
        "optimizer": 0 if given.offload_optimizer else round(state),
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


def _stage_time(task: PlanTask, way: Way, layers: dict[bool, _Layer], stage: _Stage) -> Seconds:
    """The time of one micro-batch, forward and backward."""
    given = task.assumptions
    time = speed.add({}, layers[False].time, stage.dense)
    time = speed.add(time, layers[True].time, stage.moe)
    if stage.last:
        time["head"] = speed.head_time(task.shape, task.tokens, task.assumptions.rates)
    launch_ms = given.rates.launch_ms
    if given.loop != "fused":
        if stage.last:
            time["loss"] = own_loop.head_time(task.shape, task.tokens, given.rates)
        if given.parameter_bytes == 4:
            time["casts of weights"] = own_loop.cast_time(
                *_parameters(task.shape, way.layout, stage), way.recipe, given.rates
            )
        how = "exchanging" if way.layout.ep > 1 else "sharded" if way.layout.dp > 1 else "alone"
        launch_ms = own_loop.LAUNCH_MS[how] if given.loop == "eager" else own_loop.LEAST_MS
    launching = 1e-3 * launch_ms * (stage.dense + stage.moe)
    return time | {"waiting for launches": max(0.0, launching - sum(time.values()))}


def _update_time(task: PlanTask, layout: ParallelLayout) -> float:
    """Once a step: gradients summed and weights sent between the GPUs that share them, and the optimizer's pass."""
    shape, given = task.shape, task.assumptions
    experts = shape.moe_layers * shape.experts * shape.expert_parameters / layout.pp
    others, copies = shape.parameters / layout.pp - experts, layout.dp // layout.ep
    shared = others * (layout.dp - 1) / layout.dp + experts / layout.ep * (copies - 1) / copies
    sent = (given.gradient_bytes + given.parameter_bytes) * shared
    # The state is read and written, gradients are read, weights written.
    state = 2 * given.optimizer_bytes + given.gradient_bytes + given.parameter_bytes
    if given.loop != "fused":
        state += own_loop.CLIP_BYTES + given.parameter_bytes  # weights are read, too
    owned = (experts + others) / layout.dp
    sending = sent / given.rates.link_bytes_per_second(layout.dp)
    if not given.offload_optimizer:
        return sending + given.rates.bytes(state * owned)
    # Gradients go to the host and weights come back, while the host's memory holds the state.
    travel = max(given.gradient_bytes, given.parameter_bytes) * owned / (1e9 * given.rates.host_gb_s)
    return sending + travel + state * owned / (1e9 * given.rates.host_memory_gb_s)
