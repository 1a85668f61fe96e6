"""GPUs by name, what they cannot run, and what holds a plan up besides products: launches, the host's memory."""

import json
from dataclasses import replace

import pytest

from pauca import cli
from pauca.errors import ConfigError
from pauca.moe.models.lm import LM_SIZES
from pauca.moe.plan import GPUS, SHAPES, Assumptions, PlanTask, Rates, find_plans
from pauca.moe.plan.gpus import gpu_of, rates_on

MIXTRAL = ["moe", "plan", "--model", "mixtral-8x7b", "--gpus", "16", "--pp", "2", "--ep", "8"]


def test_the_h100_is_the_default():
    assert rates_on(gpu_of("h100"), Rates()) == Rates()
    with pytest.raises(ConfigError, match="gpu must be one of h100, h200, b200, got 'a100'"):
        gpu_of("a100")


def test_given_rates_win_over_a_gpus_own():
    rates = rates_on(GPUS["h200"], replace(Rates(), bf16_tflops=700.0))
    assert (rates.bf16_tflops, rates.memory_tb_s) == (700.0, GPUS["h200"].rates.memory_tb_s)


def test_recipes_that_a_gpu_cannot_run_are_left_out_and_named(capsys):
    assert cli.main([*MIXTRAL, "--gpu", "b200"]) == 0
    out = capsys.readouterr().out
    assert "of 180 GB" in out
    assert "B200: bf16 alone; pauca's FP8 and FP4 recipes need a Hopper GPU" in out
    assert "fp4" not in out.split("B200:")[0]
    assert cli.main([*MIXTRAL, "--gpu", "h200", "--json"]) == 0
    plans = json.loads(capsys.readouterr().out)
    assert {plan["budget"] for plan in plans.values()} == {141 * 10**9}
    assert set(plans) == {"bf16", "fp8", "fp4"}


def test_a_toy_is_bound_by_launches_and_says_so(capsys):
    assert cli.main(["moe", "plan", "--model", "toy", "--gpus", "1"]) == 0
    out = capsys.readouterr().out
    assert "launches bound it: the GPU waits" in out
    assert max(map(len, out.splitlines())) <= 100
    task = PlanTask(LM_SIZES["toy"].shape, 1, 80 * 10**9)
    plan = find_plans(task)["bf16"]
    # 2 layers of 5 ms for 4,096 tokens
    assert plan.tokens_per_second == pytest.approx(409_600, rel=0.02)
    graph = replace(task, assumptions=Assumptions(rates=Rates(launch_ms=0.0)))
    assert find_plans(graph)["bf16"].tokens_per_second > 100 * plan.tokens_per_second
    with pytest.raises(ConfigError, match="launch_ms must be 0 or more, got -1"):
        Rates(launch_ms=-1.0)


def test_base_in_python_is_as_fast_as_measured():
    """390 k tokens/s without, 700 k with a CUDA graph, 16,384 tokens a step on one H100."""
    task = PlanTask(LM_SIZES["base"].shape, 1, 80 * 10**9, tokens=16_384, context=1024)
    assert find_plans(task)["fp4"].tokens_per_second == pytest.approx(390e3, rel=0.2)


def test_large_layers_hide_their_launches():
    task = PlanTask(SHAPES["deepseek-v3"], 256, 80 * 10**9, tokens=2048, pp=32, ep=8)
    for plan in find_plans(task).values():
        assert plan.time["waiting for launches"] == 0


def test_an_optimizer_with_the_host_frees_memory_and_takes_time():
    task = PlanTask(SHAPES["mixtral-8x7b"], 16, 80 * 10**9, pp=2, ep=8)
    usual = find_plans(task)["fp4"]
    offloaded = find_plans(replace(task, assumptions=Assumptions(offload_optimizer=True)))["fp4"]
    assert (usual.memory["optimizer"] > 0, offloaded.memory["optimizer"]) == (True, 0)
    one_step = replace(task, assumptions=Assumptions(batch_tokens=16 * 4096))
    seconds = [
        16 * 4096 / find_plans(replace(one_step, assumptions=given))["fp4"].tokens_per_second
        for given in (Assumptions(batch_tokens=16 * 4096), Assumptions(batch_tokens=16 * 4096, offload_optimizer=True))
    ]
    # 46.7 B parameters on 16 GPUs, 30 bytes of state, gradient and weight each through 40 GB/s of the host's memory
    assert seconds[1] - seconds[0] > 0.5 * 16 * 46.7e9 / 16 * 30 / 40e9


def test_projections_in_the_recipes_format_keep_less(capsys):
    assert cli.main([*MIXTRAL, "--projections", "recipe"]) == 0
    assert "attention's projections in the recipe's format" in capsys.readouterr().out
    task = PlanTask(SHAPES["mixtral-8x7b"], 16, 80 * 10**9, pp=2, ep=8)
    usual, fewer = (find_plans(replace(task, projections=of)) for of in ("bf16", "recipe"))
    assert usual["bf16"] == fewer["bf16"]
    assert fewer["fp4"].total <= usual["fp4"].total or fewer["fp4"].tokens_per_second > usual["fp4"].tokens_per_second
