import pytest

from pauca.moe.plan import Assumptions, PlanTask, find_plans
from pauca.moe.plan_tables import fastest, plan_lines
from pauca.moe.plots import plan_figure
from pauca.moe.shapes import SHAPES


@pytest.fixture(scope="module")
def task():
    given = Assumptions(optimiser_bytes=8)
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
    task = PlanTask(SHAPES["deepseek-v2-lite"], 8, 48_800_000_000, pp=1, ep=8)  # at its leanest, fp8 takes 49.2 GB
    plans = find_plans(task)
    assert [recipe for recipe, plan in plans.items() if plan.lacks > 0] == ["fp8"]
    lines = plan_lines(task, plans)
    assert "fp8: nothing fits; its leanest plan lacks 0.4 GB" in lines
    assert any(line.startswith("fp8 ") and line.endswith("lacks 0.4 GB") for line in lines)


def test_the_chart_has_a_bar_for_each_part_and_recipe(task, plans):
    memory, speed = plan_figure(task, plans).axes
    assert len(memory.patches) == len(plans) * len(next(iter(plans.values())).memory)
    ends = [patch.get_x() + patch.get_width() for patch in memory.patches]
    assert max(ends) == pytest.approx(max(plan.total for plan in plans.values()) / 1e9)
    assert len(speed.patches) == len(plans)
