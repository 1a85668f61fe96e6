import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from pauca.errors import ConfigError, InputError, PaucaError
from pauca.moe import LM_SIZES
from pauca.moe.models.config import Recomputation
from pauca.moe.plan.evaluate import evaluate
from pauca.moe.plan.published import SHAPES
from pauca.moe.plan.search import find_plans, ladder, policies, why_not_less
from pauca.moe.plan.task import Assumptions, ParallelLayout, PlanTask, Way, parse_memory

GB = 10**9
# DeepSeek-V3 on 256 GPUs, as in the paper, whose micro-batch, layout and optimizer's precision are not known to us.
PAPER = PlanTask(SHAPES["deepseek-v3"], 256, 80 * GB, tokens=2048, pp=32, ep=8)
LAYOUT = ParallelLayout(256, 32, 8)
FULL = Recomputation(True, True, "experts")
UP = Recomputation(attention="up")


def test_the_papers_finding_at_equal_memory_fp4_recomputes_less():
    """arXiv 2603.02731, second-hand: with full recomputation BF16, FP8 and FP4 all fit (68, 74 and 59 % of 80 GB);
    recomputing only the up-projection of latent attention fits in FP4 alone."""
    full = {recipe: evaluate(PAPER, Way(recipe, LAYOUT, FULL)) for recipe in ("bf16", "fp8", "fp4")}
    up = {recipe: evaluate(PAPER, Way(recipe, LAYOUT, UP)) for recipe in ("bf16", "fp8", "fp4")}
    assert all(plan.lacks <= 0 for plan in full.values())
    assert [recipe for recipe, plan in up.items() if plan.lacks <= 0] == ["fp4"]
    assert full["fp4"].total < full["fp8"].total
    assert up["fp4"].tokens_per_second > 1.1 * full["fp8"].tokens_per_second  # the paper: 1302 and 1157 a second


def test_the_best_plan_fits_and_fp4_is_fastest():
    plans = find_plans(PAPER)
    assert all(plan.lacks <= 0 for plan in plans.values())
    speeds = [plans[recipe].tokens_per_second for recipe in ("bf16", "fp8", "fp4")]
    assert speeds == sorted(speeds)
    again = [sum(t for part, t in plans[r].time.items() if "recomputing" in part) for r in ("fp8", "fp4")]
    assert again[1] < 0.6 * again[0]


def test_what_would_be_faster_lacks_memory():
    for plan in find_plans(PAPER).values():
        rather = why_not_less(PAPER, plan)
        assert rather is not None
        assert rather.lacks > 0
        assert rather.tokens_per_second > plan.tokens_per_second


def test_with_memory_enough_nothing_is_recomputed():
    task = replace(PAPER, memory=10_000 * GB)
    for plan in find_plans(task).values():
        assert plan.way.policy == Recomputation()
        assert why_not_less(task, plan) is None


@pytest.mark.parametrize("loop", ["fused", "eager", "recorded"])
def test_where_launches_bound_all_plans_nothing_is_recomputed_for_no_gain(loop):
    shape = LM_SIZES["toy"].shape
    plans = find_plans(PlanTask(shape, 1, 80 * GB, context=256, assumptions=Assumptions(loop=loop)))
    assert all(plan.time["waiting for launches"] > 0 for plan in plans.values())
    assert {plan.way.policy for plan in plans.values()} == {Recomputation()}
    assert not any(plan.way.prepared for plan in plans.values())


def test_all_parameters_are_somewhere():
    """Weights of one GPU times GPUs, but for what data parallelism copies: routed experts are held once."""
    task = PlanTask(SHAPES["qwen3-30b-a3b"], 8, 80 * GB)
    shape = task.shape
    plan = evaluate(task, Way("bf16", ParallelLayout(8, 1, 8)))
    experts = shape.layers * shape.experts * shape.expert_parameters
    assert plan.memory["weights"] == 2 * (shape.parameters - experts + experts // 8)
    assert plan.memory["gradients"] == 2 * plan.memory["weights"]
    assert plan.memory["optimizer"] == pytest.approx(12 * shape.parameters / 8, rel=1e-6)


def test_stages_hold_all_layers_and_the_first_the_most_activations():
    task = replace(PAPER, pp=8, ep=32)
    deep = evaluate(task, Way("fp4", ParallelLayout(256, 8, 32)))
    flat = evaluate(replace(task, pp=1, ep=None), Way("fp4", ParallelLayout(256, 1, 256)))
    # 8 stages with 8 micro-batches in flight in the first hold as many activations as one stage with all layers.
    assert deep.memory["activations"] == pytest.approx(flat.memory["activations"], rel=0.15)


def test_pipelines_idle_while_they_fill():
    few = replace(PAPER, assumptions=replace(PAPER.assumptions, batch_tokens=2**19))
    many = replace(PAPER, assumptions=replace(PAPER.assumptions, batch_tokens=2**26))
    way = Way("fp8", LAYOUT, FULL)
    assert evaluate(few, way).tokens_per_second < 0.6 * evaluate(many, way).tokens_per_second


def test_imbalance_costs_memory_and_time():
    busy = replace(PAPER, assumptions=replace(PAPER.assumptions, imbalance=1.5))
    for recipe in ("bf16", "fp8", "fp4"):
        even, uneven = (evaluate(task, Way(recipe, LAYOUT, FULL)) for task in (PAPER, busy))
        assert uneven.total > even.total
        assert uneven.tokens_per_second < even.tokens_per_second


def test_more_recomputation_never_keeps_more():
    for recipe in ("bf16", "fp8", "fp4"):
        kept = [evaluate(PAPER, Way(recipe, LAYOUT, policy)).memory["activations"] for policy in ladder(PAPER.shape)]
        assert kept == sorted(kept, reverse=True)


def test_only_latent_attention_has_an_up_projection():
    assert len(policies(SHAPES["deepseek-v3"])) == 18
    assert len(policies(SHAPES["qwen3-30b-a3b"])) == 12
    assert all(policy.attention != "up" for policy in ladder(SHAPES["mixtral-8x7b"]))


def test_layouts_are_those_that_divide():
    layouts = PlanTask(SHAPES["mixtral-8x7b"], 8, 80 * GB).layouts()
    assert {(layout.pp, layout.ep) for layout in layouts} == {
        (1, 1), (1, 2), (1, 4), (1, 8), (2, 1), (2, 2), (2, 4), (4, 1), (4, 2), (8, 1),
    }  # fmt: skip
    assert all(layout.dp * layout.pp == 8 for layout in layouts)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"pp": 3}, "PP 3 does not divide the 8 GPUs"),
        ({"dp": 5}, "DP 5 does not divide the 8 GPUs"),
        ({"pp": 2, "dp": 2}, "PP 2 x DP 2 is 4, not the 8 GPUs"),
        ({"ep": 3}, "EP 3 does not divide the 8 experts"),
        ({"pp": 4, "ep": 4}, "EP 4 does not divide the 2 GPUs of one stage"),
        ({"gpus": 64, "pp": 64}, "64 stages are more than the 32 layers"),
        ({"gpus": 3, "ep": 2}, "no layout of 3 GPUs has EP 2"),
        ({"tokens": 0}, "tokens must be positive, got 0"),
        ({"context": 0}, "context must be positive, got 0"),
        (
            {"tokens": 2048, "context": 4096},
            r"of 2,048 tokens \(--tokens\) is no whole number of sequences of 4,096 \(",
        ),
        ({"tokens": 6143}, r"of 6,143 tokens \(--tokens\) is no whole number of sequences of 4,096: give a multiple"),
        ({"tokens": 2**17, "context": 2**16}, "of 65,536 .* is longer than the 32,768 tokens that mixtral-8x7b has"),
    ],
)
def test_layouts_that_do_not_divide_are_refused(given, message):
    with pytest.raises(ConfigError, match=message):
        PlanTask(**({"shape": SHAPES["mixtral-8x7b"], "gpus": 8, "memory": 80 * GB} | given)).layouts()


def test_when_nothing_fits_the_nearest_plan_says_what_it_lacks():
    task = PlanTask(SHAPES["deepseek-v3"], 32, 80 * GB, pp=4, ep=8)
    with pytest.raises(
        PaucaError, match=r"does not fit 32 GPU\(s\) of 80 GB: the nearest plan \(.*\) lacks [\d.]+ GB a GPU"
    ):
        find_plans(task)


@pytest.mark.parametrize(
    "wrong", [{"parameter_bytes": 3}, {"imbalance": 0.5}, {"batch_tokens": 0}, {"reserved_gb": -1.0}]
)
def test_impossible_assumptions_are_refused(wrong):
    with pytest.raises(ConfigError):
        Assumptions(**wrong)


def test_memory_is_read_with_its_unit():
    assert parse_memory("80GB") == parse_memory("80") == parse_memory("80 gb") == 80 * GB
    assert parse_memory("79.5GiB") == round(79.5 * 2**30)
    for text in ("80 apples", "-1GB", "0GB", "", "GB"):
        with pytest.raises(InputError, match="memory must be a size such as 80GB"):
            parse_memory(text)


def test_a_plan_goes_into_json():
    found = json.loads(json.dumps(evaluate(PAPER, Way("fp4", LAYOUT, UP)).to_dict()))
    assert found["fits"]
    assert found["way"]["layout"] == {"gpus": 256, "pp": 32, "ep": 8}
    assert found["way"]["recomputes"] == "MLA up-projection"
    assert found["total"] == sum(found["memory"].values())


def test_a_step_has_a_micro_batch_for_every_gpu_of_a_stage():
    """A step of fewer tokens was planned as if it had one for every GPU: three times as fast as it can be."""
    few = replace(PAPER, gpus=256, tokens=2048, assumptions=replace(PAPER.assumptions, batch_tokens=100_000))
    assert all(layout.dp * few.tokens <= 100_000 for layout in few.layouts())
    layout = max(few.layouts(), key=lambda layout: layout.dp)
    assert few.micro_batches(layout) == 100_000 // (2048 * layout.dp) > 0
    with pytest.raises(ConfigError, match=r"a step of 1,000 tokens .* is less than a micro-batch of 2,048 .* at least"):
        replace(few, assumptions=replace(few.assumptions, batch_tokens=1000)).layouts()


def test_a_micro_batch_is_whole_sequences_by_default():
    """A micro-batch of 2,048 tokens was planned with attention over sequences of 4,096, which it cannot hold."""
    assert (PAPER.sequence, replace(PAPER, tokens=8192).sequence, replace(PAPER, tokens=512).sequence) == (
        2048,
        4096,
        512,
    )
    assert PlanTask(LM_SIZES["toy"].shape, 1, 80 * GB).sequence == LM_SIZES["toy"].context == 256
    odd = replace(LM_SIZES["toy"].shape, context=100)  # 4,096 tokens, the default, were refused
    assert (PlanTask(odd, 1, 80 * GB).sequence, replace(PAPER, tokens=6144).sequence) == (64, 3072)
    assert all(replace(PAPER, tokens=2**k, context=None).sequence == min(2**k, 4096) for k in range(20))
    unknown = replace(SHAPES["mixtral-8x7b"], context=0)
    assert PlanTask(unknown, 8, 80 * GB, 2**20, 2**20).sequence == 2**20
    short = evaluate(replace(PAPER, tokens=4096), Way("fp4", LAYOUT, FULL))
    packed = evaluate(replace(PAPER, tokens=4096, context=2048), Way("fp4", LAYOUT, FULL))
    assert packed.time["attention"] < short.time["attention"]
    assert evaluate(PAPER, Way("fp4", LAYOUT, FULL)).time["attention"] == pytest.approx(packed.time["attention"] / 2)


def test_micro_batches_of_a_pipeline_need_be_no_multiple_of_its_stages():
    given = replace(PAPER.assumptions, batch_tokens=2048 * 8 * 11)
    task = replace(PAPER, gpus=64, pp=8, ep=None, tokens=2048, assumptions=given)
    assert {task.micro_batches(layout) for layout in task.layouts()} == {11}


def test_the_page_on_several_hosts_says_what_the_planner_does():
    """Of each row GPUs, EP, and tokens/s a GPU under each recipe."""
    page = (Path(__file__).parents[3] / "docs" / "moe" / "cluster.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\d+) \| (\d+) \| ([\d,]+) \| ([\d,]+) \| ([\d,]+) \|$", page, re.MULTILINE)
    assert len(rows) == 6
    given = Assumptions(batch_tokens=4194304)
    for gpus, ep, *said in rows:
        task = PlanTask(SHAPES["qwen3-30b-a3b"], int(gpus), 80 * GB, ep=int(ep), pp=1, assumptions=given)
        assert [f"{plan.tokens_per_second:,.0f}" for plan in find_plans(task).values()] == said
