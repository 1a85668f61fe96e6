"""Plans of `pauca moe train` itself, beside whole trainings on one H200 (docs/moe/measured.md)."""

from dataclasses import replace

import pytest

from pauca.moe import LM_SIZES
from pauca.moe.plan.evaluate import evaluate
from pauca.moe.plan.gpus import GPUS
from pauca.moe.plan.task import Assumptions, ParallelLayout, PlanTask, Way

SEQUENCES = {"toy": 4, "base": 32, "large": 8, "xl": 4}
FITTED = {
    ("base", "bf16", "eager"): 463e3,
    ("base", "fp4", "eager"): 470e3,
    ("base", "bf16", "compiled"): 710e3,
    ("base", "fp4", "compiled"): 739e3,
}
HELD_OUT = {
    ("base", "fp8", "eager"): 431e3,
    ("large", "bf16", "eager"): 110e3,
    ("large", "fp4", "eager"): 109e3,
    ("large", "bf16", "compiled"): 156e3,
    ("large", "fp4", "compiled"): 155e3,
    ("xl", "fp4", "eager"): 45.3e3,
    ("xl", "fp4", "compiled"): 60.1e3,
}


def _tokens_per_second(size: str, recipe, loop, gpu: str = "h200", **besides) -> float:
    config, tokens = LM_SIZES[size], SEQUENCES[size] * LM_SIZES[size].context
    given = Assumptions(4, 4, 8, batch_tokens=tokens, reserved_gb=0, loop=loop, rates=GPUS[gpu].rates)
    task = PlanTask(config.shape, 1, 2**37, tokens, config.context, assumptions=replace(given, **besides))
    return evaluate(task, Way(recipe, ParallelLayout(1, 1, 1))).tokens_per_second


@pytest.mark.parametrize(("case", "measured"), FITTED.items(), ids=str)
def test_what_the_constants_were_fitted_to(case, measured):
    assert _tokens_per_second(*case) == pytest.approx(measured, rel=0.07)


@pytest.mark.parametrize(("case", "measured"), HELD_OUT.items(), ids=str)
def test_what_they_foretell_is_within_20_percent(case, measured):
    assert _tokens_per_second(*case) == pytest.approx(measured, rel=0.2)


@pytest.mark.parametrize("loop", ["eager", "compiled"])
def test_launches_bound_a_toy(loop):
    """Not 80 million tokens a second."""
    assert _tokens_per_second("toy", "fp4", loop) < 3e6


@pytest.mark.parametrize("size", ["base", "large", "xl"])
def test_a_loop_that_is_fused_further_is_faster(size):
    eager, compiled, fused = (_tokens_per_second(size, "fp4", loop) for loop in ("eager", "compiled", "fused"))
    assert eager < compiled < fused


def test_weights_in_bf16_are_not_cast():
    assert _tokens_per_second("xl", "fp4", "compiled", parameter_bytes=2) > _tokens_per_second("xl", "fp4", "compiled")
