"""Plans of `pauca moe train` itself, beside whole trainings on one H200 (docs/moe/measured.md)."""

from dataclasses import replace

import pytest

from pauca import cli
from pauca.errors import ConfigError, PaucaError
from pauca.moe import LM_SIZES
from pauca.moe.plan.evaluate import evaluate
from pauca.moe.plan.gpus import GPUS
from pauca.moe.plan.own_loop import MOST_RECORDED_EP
from pauca.moe.plan.search import find_plans
from pauca.moe.plan.task import Assumptions, ParallelLayout, PlanTask, Way
from pauca.moe.training.trainer import BOUNDED_RANKS

NO_LAUNCHES = replace(GPUS["h200"].rates, launch_ms=0.0)
SEQUENCES = {"toy": 4, "base": 32, "large": 8, "xl": 4}
FITTED = {("base", "fp4", "recorded"): 734e3, ("base", "fp4", "compiled"): 777e3}
HELD_OUT = {
    **{("large", "fp4", "compiled"): 158e3, ("large", "fp4", "recorded"): 152e3, ("xl", "fp4", "recorded"): 60.4e3},
    **{("base", "fp4", "eager"): 449e3, ("large", "fp4", "eager"): 111e3, ("xl", "fp4", "eager"): 59.0e3},
    **{("base", "bf16", "eager"): 515e3, ("large", "bf16", "eager"): 114e3},  # on a host that others kept busy
    **{("base", "bf16", "recorded"): 728e3, ("base", "bf16", "compiled"): 773e3, ("large", "bf16", "recorded"): 152e3},
    **{("xl", "fp4", "compiled"): 61.6e3, ("xl", "bf16", "recorded"): 56.2e3, ("large", "bf16", "compiled"): 159e3},
}
FOUR_PASSES = {("base", "bf16", "recorded"): 759e3, ("base", "fp4", "recorded"): 780e3}
MORE_TOKENS = {("fp4", "recorded"): 199e3, ("fp4", "compiled"): 209e3}  # `large`, 32 sequences of 2,048
TWO_GPUS = {  # size, loop, ep: tokens/s of both
    **{("base", "recorded", 1): 1374e3, ("large", "recorded", 1): 269e3, ("xl", "recorded", 1): 104e3},
    **{("base", "eager", 1): 586e3, ("large", "eager", 1): 162e3},
    **{("base", "eager", 2): 513e3, ("large", "eager", 2): 142e3, ("xl", "eager", 2): 101e3},
    **{("base", "recorded", 2): 1163e3, ("large", "recorded", 2): 267e3, ("xl", "recorded", 2): 112e3},
}


def _tokens_per_second(
    size: str, recipe, loop, gpu: str = "h200", gpus: int = 1, ep: int = 1, sequences: int = 0, **besides
) -> float:
    config, tokens = LM_SIZES[size], (sequences or SEQUENCES[size]) * LM_SIZES[size].context
    given = Assumptions(4, 4, 8, batch_tokens=gpus * tokens, reserved_gb=0, loop=loop, rates=GPUS[gpu].rates)
    task = PlanTask(config.shape, gpus, 2**37, tokens, config.context, assumptions=replace(given, **besides))
    return gpus * evaluate(task, Way(recipe, ParallelLayout(gpus, 1, ep))).tokens_per_second


@pytest.mark.parametrize(("case", "measured"), FITTED.items(), ids=str)
def test_what_the_constants_were_fitted_to(case, measured):
    assert _tokens_per_second(*case) == pytest.approx(measured, rel=0.07)


@pytest.mark.parametrize(("case", "measured"), HELD_OUT.items(), ids=str)
def test_what_they_foretell_is_within_20_percent(case, measured):
    assert _tokens_per_second(*case) == pytest.approx(measured, rel=0.2)


@pytest.mark.parametrize(("case", "measured"), FOUR_PASSES.items(), ids=str)
def test_several_passes_share_the_optimizers_step(case, measured):
    assert _tokens_per_second(*case, batch_tokens=4 * 2**15) == pytest.approx(measured, rel=0.2)


@pytest.mark.parametrize(("case", "measured"), MORE_TOKENS.items(), ids=str)
def test_more_tokens_a_step_are_foretold_within_20_percent(case, measured):
    assert _tokens_per_second("large", *case, sequences=32) == pytest.approx(measured, rel=0.2)


@pytest.mark.parametrize(("case", "measured"), TWO_GPUS.items(), ids=str)
def test_two_gpus_are_foretold_within_20_percent(case, measured):
    size, loop, ep = case
    assert _tokens_per_second(size, "fp4", loop, gpus=2, ep=ep) == pytest.approx(measured, rel=0.2)


@pytest.mark.parametrize("loop", ["eager", "recorded", "compiled"])
def test_launches_bound_a_toy(loop):
    """Not 80 million tokens a second."""
    assert _tokens_per_second("toy", "fp4", loop) < 3e6


@pytest.mark.parametrize("size", ["base", "large", "xl"])
def test_a_loop_that_is_fused_further_is_faster(size):
    eager, recorded, compiled = (_tokens_per_second(size, "fp4", loop) for loop in ("eager", "recorded", "compiled"))
    fused = _tokens_per_second(size, "fp4", "fused", rates=NO_LAUNCHES)
    assert eager <= recorded < compiled < fused


def test_weights_in_bf16_are_not_cast():
    assert _tokens_per_second("xl", "fp4", "compiled", parameter_bytes=2) > _tokens_per_second("xl", "fp4", "compiled")


@pytest.mark.parametrize("loop", ["eager", "recorded", "compiled"])
def test_a_time_of_launches_is_refused_where_it_would_not_count(loop):
    with pytest.raises(ConfigError, match=rf"launch_ms 0.0 counts in the loop fused alone: {loop} has"):
        Assumptions(loop=loop, rates=NO_LAUNCHES)


def test_a_plan_that_waits_for_python_names_what_its_loop_can_be_given(capsys):
    toy = ["moe", "plan", "--model", "toy", "--gpus", "1", "--parameter-bytes", "4", "--optimizer-bytes", "8"]
    advice = {"fused": "(--launch-ms 0)", "eager": "(--loop recorded or compiled)"}
    for loop, words in advice.items():
        assert cli.main([*toy, "--loop", loop]) == 0
        assert f"or count on one CUDA graph {words}" in capsys.readouterr().out


def test_plans_of_pauca_s_own_loop_are_what_it_can_do():
    """No pipeline, no recording with experts shared by many, and nothing quantized beforehand for a single pass."""
    shape, given = LM_SIZES["xl"].shape, Assumptions(4, 4, 8, loop="recorded")
    task = PlanTask(shape, 8, 40 * 10**9, 4096, assumptions=given)
    assert {(layout.pp, layout.ep) for layout in task.layouts()} == {(1, 1), (1, MOST_RECORDED_EP)}
    assert MOST_RECORDED_EP == BOUNDED_RANKS
    eager = replace(task, assumptions=replace(given, loop="eager"))
    assert {(layout.pp, layout.ep) for layout in eager.layouts()} == {(1, 1), (1, 2), (1, 4), (1, 8)}
    for wrong, message in (
        ({"pp": 2}, "PP 2: `pauca moe train` has no pipeline"),
        ({"dp": 4}, "PP 2: `pauca moe train` has no pipeline"),
        ({"ep": 4}, "EP 4: the loop recorded plans steps that are recorded"),
    ):
        with pytest.raises(ConfigError, match=message):
            replace(task, **wrong).layouts()
    large = PlanTask(LM_SIZES["large"].shape, 1, 2**37, 16384, 2048, assumptions=replace(given, batch_tokens=16384))
    assert not any(plan.way.prepared for plan in find_plans(large).values())
    several = replace(large, assumptions=replace(given, batch_tokens=4 * 16384))
    assert find_plans(several)["fp4"].way.prepared


@pytest.mark.parametrize("gpus", [8, 2])
def test_where_recorded_steps_do_not_fit_the_loop_that_does_is_named(gpus):
    """More than two GPUs share experts in `eager` alone; nothing is advised that would not fit either."""
    given = Assumptions(4, 4, 8, loop="recorded")
    task = PlanTask(LM_SIZES["xl"].shape, gpus, 20 * 10**9, 4096, assumptions=given)
    with pytest.raises(PaucaError, match="does not fit") as caught:
        find_plans(task)
    assert str(caught.value).endswith("or plan for the loop eager, which fits with EP 8") == (gpus == 8)
