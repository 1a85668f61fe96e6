from dataclasses import replace

import pytest

from pauca.moe.layer.recipe import RECIPES
from pauca.moe.models.config import Recomputation
from pauca.moe.plan.evaluate import evaluate
from pauca.moe.plan.published import SHAPES
from pauca.moe.plan.search import find_plans
from pauca.moe.plan.tables import fastest, plan_lines
from pauca.moe.plan.task import Assumptions, ParallelLayout, PlanTask, Way
from pauca.moe.plots import plan_figure


@pytest.fixture(scope="module")
def task():
    given = Assumptions(optimizer_bytes=8)
    return PlanTask(SHAPES["deepseek-v3"], 256, 80 * 10**9, tokens=2048, pp=32, ep=8, assumptions=given)


@pytest.fixture(scope="module")
def plans(task):
    return find_plans(task)


def test_tables_fit_the_page_and_name_the_plan(task, plans):
    lines = plan_lines(task, plans)
    assert max(map(len, lines)) <= 100
    assert lines[-2] == f"the plan: {fastest(plans).way}"
    assert any(line.startswith("MLA up-projection") and "lacks" in line for line in lines)


def test_a_recipe_that_does_not_fit_says_by_how_much():
    shape, layout = SHAPES["deepseek-v2-lite"], ParallelLayout(8, 1, 8)
    task = PlanTask(shape, 8, 10**12, pp=1, ep=8)
    policy = Recomputation(True, True, "experts")
    leanest = {recipe: evaluate(task, Way(recipe, layout, policy)).total for recipe in RECIPES}
    *_, second, most = sorted(leanest.values())
    task = replace(task, memory=(second + most) // 2)
    plans = find_plans(task)
    (short,) = [recipe for recipe, plan in plans.items() if plan.lacks > 0]
    assert leanest[short] == most
    lacking = f"lacks {(most - task.memory) / 1e9:.1f} GB"
    lines = plan_lines(task, plans)
    assert f"{short}: nothing fits; its leanest plan {lacking}, less with fewer --tokens" in lines
    assert any(line.startswith(f"{short} ") and line.endswith(lacking) for line in lines)


def test_a_step_that_does_not_divide_into_micro_batches_says_what_is_left_of_it(task, plans):
    assert not any("whole micro-batches" in line for line in plan_lines(task, plans))
    uneven = replace(task, assumptions=replace(task.assumptions, batch_tokens=100_000))
    lines = plan_lines(uneven, find_plans(uneven))
    assert "a step has 98,304 of the 100,000 tokens: 6 whole micro-batches on each of 8 GPUs" in lines


def test_the_chart_has_a_bar_for_each_part_and_recipe(task, plans):
    memory, speed = plan_figure(task, plans).axes
    assert len(memory.patches) == len(plans) * len(next(iter(plans.values())).memory)
    ends = [patch.get_x() + patch.get_width() for patch in memory.patches]
    assert max(ends) == pytest.approx(max(plan.total for plan in plans.values()) / 1e9)
    assert len(speed.patches) == len(plans)
