"""The verb `pauca moe plan`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

from tyro.conf import arg

from pauca import moe
from pauca.errors import ConfigError
from pauca.moe.plan import parse_memory
from pauca.moe.plan_tables import plan_lines
from pauca.runs import atomic_write


def plan(
    model: str,
    gpus: int = 8,
    memory: str = "80GB",
    tokens: int = 4096,
    context: int = 4096,
    ep: int | None = None,
    pp: int | None = None,
    dp: int | None = None,
    assumptions: moe.Assumptions = moe.Assumptions(),  # noqa: B008 - frozen
    out: Path | None = None,
    force: bool = False,
    as_json: Annotated[bool, arg(name="json")] = False,
) -> None:
    """Say what fits: the fastest way to train a model on given GPUs, for each recipe, with the reasons.

    Args:
        model: a name (deepseek-v3, deepseek-v2-lite, 16b, qwen3-30b, qwen3-235b, mixtral, mixtral-8x22b, or a size of
            `pauca moe train`), the config.json of a Hugging Face model, or the config.yaml of a training's run.
        gpus: how many there are.
        memory: of one of them, as in 80GB (10^9) or 79.6GiB (2^30).
        tokens: on each GPU in one micro-batch.
        context: length of a sequence, for the time of attention.
        ep: GPUs that share the experts of a layer; tried out, if not given. So are the next two.
        pp: pipeline stages.
        dp: GPUs of one stage, each with tokens of its own: all GPUs over pp.
        assumptions: what is taken for granted.
        out: chart to write (.png, .pdf or .svg).
        force: replace the chart if it is there already.
        as_json: machine-readable output, in bytes and seconds.
    """
    if out is not None and out.suffix.lower() not in (".png", ".pdf", ".svg"):
        raise ConfigError(f"{out}: charts are written as .png, .pdf or .svg")
    task = moe.PlanTask(moe.model_shape(model), gpus, parse_memory(memory), tokens, context, ep, pp, dp, assumptions)
    plans = moe.find_plans(task)
    if as_json:
        print(json.dumps({recipe: found.to_dict() for recipe, found in plans.items()}, indent=2))
    else:
        print("\n".join(plan_lines(task, plans)))
    if out is not None:
        from pauca.moe.plots import plan_figure

        with atomic_write(out, force) as temporary:
            plan_figure(task, plans).savefig(temporary, dpi=120)
