"""The planner's answer as lines of text: the plans, where memory and time go, and why not less is recomputed."""

from collections.abc import Iterable, Sequence

from pauca.moe.layer.recipe import Precision
from pauca.moe.plan.evaluate import evaluate
from pauca.moe.plan.search import ladder, why_not_less
from pauca.moe.plan.task import Plan, PlanTask, Way

Plans = dict[Precision, Plan]

_TIMES = {
    "products": ("attention", "experts", "head"),
    "other steps": (
        *("norms and residuals", "conversions, SwiGLU, sums", "quantizing weights"),
        *("small operations", "rows of products", "loss", "casts of weights"),
    ),
    "recomputing": ("recomputing attention and norms", "recomputing experts"),
    "all-to-all": ("all-to-all",),
    "launches": ("waiting for launches",),
}

_ONE_GRAPH = {"fused": "--launch-ms 0", "eager": "--loop recorded or compiled"}
"""How to plan without waiting for Python, in loops that do."""


def plan_lines(task: PlanTask, plans: Plans) -> list[str]:
    """All tables, at most 100 columns wide."""
    return [
        *_heading(task),
        "",
        *_plans(plans),
        "",
        *_memory(plans),
        "",
        *_time(plans),
        *_traffic(plans),
        "",
        *_ladder(task, fastest(plans)),
        "",
        *_reasons(task, plans),
    ]


def fastest(plans: Plans) -> Plan:
    """The best of those that fit."""
    return max((plan for plan in plans.values() if plan.lacks <= 0), key=lambda plan: plan.tokens_per_second)


def _heading(task: PlanTask) -> list[str]:
    shape, rates = task.shape, task.assumptions.rates
    return [
        f"{shape.name}: {_count(shape.parameters)} parameters, {_count(shape.active_parameters)} active",
        f"{task.gpus} GPU{'s' * (task.gpus > 1)} of {task.memory / 1e9:.4g} GB; {task.tokens:,} tokens a GPU in a "
        f"micro-batch, {_tokens(task.assumptions.batch_tokens)} in a step, {task.sequence:,} in a sequence",
        f"assumed, not measured: attention at {rates.attention_tflops:.0f} TFLOP/s, all-to-all at "
        f"{rates.node_gb_s:.0f} GB/s in a node and {rates.network_gb_s:.0f} between",
        *([f"note: {shape.note}"] if shape.note else []),
        *(["attention's projections in the recipe's format"] if task.projections == "recipe" else []),
        *(["the optimizer's state and step lie with the host"] if task.assumptions.offload_optimizer else []),
        *_whose_loop(task),
    ]


def _whose_loop(task: PlanTask) -> list[str]:
    given = task.assumptions
    if given.loop == "fused":
        return []
    flags = {"compiled": " --compile", "eager": " --no-graph"}.get(given.loop, "")
    missing = (
        ""
        if (given.parameter_bytes, given.optimizer_bytes) == (4, 8)
        else (", which needs --parameter-bytes 4 --optimizer-bytes 8")
    )
    return [f"a step of pauca moe train{flags}{missing}"]


def _count(parameters: int) -> str:
    return f"{parameters / 1e9:,.1f} B" if parameters >= 1e9 else f"{parameters / 1e6:,.1f} M"


def _tokens(count: int) -> str:
    return f"{count / 1e6:,.1f} M" if count >= 1e6 else f"{count:,.0f}"


def _gb(size: int) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 10**8 else f"{size / 1e9:.2f} GB"


def _plans(plans: Plans) -> list[str]:
    rows = [
        (
            recipe,
            str(plan.way.layout),
            str(plan.way.policy),
            f"{plan.total / 1e9:.1f}",
            f"{plan.total / plan.budget:.0%}",
            f"{plan.tokens_per_second:,.0f}" if plan.lacks <= 0 else f"lacks {_gb(plan.lacks)}",
        )
        for recipe, plan in plans.items()
    ]
    header = ("recipe", "layout", "recomputes", "GB", "of GPU", "tokens/s/GPU")
    return ["the fastest plan that fits, by recipe", *_table(header, rows)]


def _memory(plans: Plans) -> list[str]:
    parts = list(next(iter(plans.values())).memory)
    rows = [(r, *(f"{p.memory[part] / 1e9:.1f}" for part in parts), f"{p.total / 1e9:.1f}") for r, p in plans.items()]
    return ["memory of the fullest GPU, GB", *_table(("recipe", *parts, "all"), rows)]


def _time(plans: Plans) -> list[str]:
    rows = []
    for recipe, plan in plans.items():
        groups = [sum(plan.time.get(part, 0.0) for part in parts) for parts in _TIMES.values()]
        rows.append((recipe, *(f"{1e3 * seconds:.1f}" for seconds in [*groups, sum(groups)])))
    return ["time of one micro-batch in the slowest stage, ms", *_table(("recipe", *_TIMES, "all"), rows)]


def _traffic(plans: Plans) -> list[str]:
    directions = list(next(iter(plans.values())).all_to_all)
    if not any(sum(plan.all_to_all.values()) for plan in plans.values()):
        return []
    rows = [(r, *(f"{p.all_to_all[direction] / 1e6:,.0f}" for direction in directions)) for r, p in plans.items()]
    return ["", "all-to-all of one GPU in one MoE layer and micro-batch, MB", *_table(("recipe", *directions), rows)]


def _ladder(task: PlanTask, best: Plan) -> list[str]:
    rows = []
    for policy in ladder(task.shape):
        found = [evaluate(task, Way(recipe, best.way.layout, policy)) for recipe in task.recipes]
        rows.append((str(policy), *map(_cell, found)))
    title = f"in the layout {best.way.layout}: share of a GPU's memory and tokens/s/GPU, or what is lacking"
    return [title, *_table(("recomputing", *task.recipes), rows)]


def _cell(plan: Plan) -> str:
    if plan.lacks > 0:
        return f"lacks {_gb(plan.lacks)}"
    return f"{plan.total / plan.budget:.0%}, {plan.tokens_per_second:,.0f}"


def _reasons(task: PlanTask, plans: Plans) -> list[str]:
    best = fastest(plans)
    lines = []
    for recipe, plan in plans.items():
        rather = why_not_less(task, plan) if plan.lacks <= 0 else None
        if plan.lacks > 0:
            lines.append(f"{recipe}: nothing fits; its leanest plan lacks {_gb(plan.lacks)}, less with fewer --tokens")
        elif rather is None:
            lines.append(f"{recipe}: recomputes as little as its layout's fastest plan")
        else:
            lines.append(
                f"{recipe}: recomputing {rather.way.policy} instead would give {rather.tokens_per_second:,.0f} "
                f"tokens/s, but lacks {_gb(rather.lacks)}"
            )
    ratios = ", ".join(
        f"{best.tokens_per_second / plan.tokens_per_second:.2f} times {recipe}"
        for recipe, plan in plans.items()
        if plan is not best and plan.lacks <= 0
    )
    waiting = best.time.get("waiting for launches", 0.0)
    if waiting:
        step, loop = sum(best.time.values()), task.assumptions.loop
        how = "waits for Python" if loop in _ONE_GRAPH else "starts small kernels"
        besides = f", or count on one CUDA graph ({_ONE_GRAPH[loop]})" if loop in _ONE_GRAPH else ""
        lines.append(
            f"launches bound it: the GPU {how} for {1e3 * waiting:.1f} of {1e3 * step:.1f} ms;"
            f"\n  give more --tokens{besides}"
        )
    return [
        *lines,
        *_whole_step(task, best),
        f"the plan: {best.way}",
        f"{best.tokens_per_second:,.0f} tokens/s a GPU" + (f": {ratios}" if ratios else ""),
    ]


def _whole_step(task: PlanTask, plan: Plan) -> list[str]:
    """What a step's tokens come to where they do not divide into micro-batches."""
    layout, asked = plan.way.layout, task.assumptions.batch_tokens
    count = task.micro_batches(layout)
    whole = count * task.tokens * layout.dp
    if whole == asked:
        return []
    return [f"a step has {whole:,} of the {asked:,} tokens: {count:,} whole micro-batches on each of {layout.dp} GPUs"]


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Columns as wide as they need to be; numbers to the right."""
    texts = [header, *rows]
    widths = [max(len(row[column]) for row in texts) for column in range(len(header))]
    numeric = [all(row[column][:1].isdigit() for row in texts[1:]) for column in range(len(header))]
    return [
        "  ".join(
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(row, widths, numeric, strict=True)
        ).rstrip()
        for row in texts
    ]
