from dataclasses import replace

import pytest
import torch

from pauca.errors import ConfigError
from pauca.moe import Recipe
from pauca.moe.models.config import Recomputation
from pauca.moe.plan.memory import Load, routed_load
from pauca.moe.plan.published import SHAPES
from pauca.moe.plan.search import find_plans
from pauca.moe.plan.speed import (
    Rates,
    all_to_all_bytes,
    all_to_all_time,
    attention_time,
    bank_time,
    feed_forward_time,
    other_nodes,
)
from pauca.moe.plan.task import Assumptions, PlanTask

V3, LITE = Load(4096, 32768, 8), Load(4096, 24576, 64)

# Forward and backward of the routed experts, ms, on an H100 (docs/moe/measured.md, balanced routing).
MEASURED = [
    (V3, 7168, 2048, "bf16", 13.45),
    (V3, 7168, 2048, "fp8", 9.32),
    (V3, 7168, 2048, "fp4", 9.35),
    (LITE, 2048, 1408, "bf16", 3.08),
    (LITE, 2048, 1408, "fp8", 3.56),
    (LITE, 2048, 1408, "fp4", 3.61),
]


@pytest.mark.parametrize(("load", "hidden", "width", "recipe", "milliseconds"), MEASURED)
def test_the_layers_time_is_the_measured_one_within_a_tenth(load, hidden, width, recipe, milliseconds):
    time = bank_time(getattr(Recipe, recipe)(), "none", load, hidden, width, Rates())
    assert 1e3 * sum(time.values()) == pytest.approx(milliseconds, rel=0.1)


@pytest.mark.parametrize("recipe", ["bf16", "fp8", "fp4"])
def test_recomputing_more_takes_longer(recipe):
    recipe = getattr(Recipe, recipe)()
    times = [sum(bank_time(recipe, m, V3, 7168, 2048, Rates()).values()) for m in ("none", "activation", "experts")]
    assert times[0] <= times[1] < times[2]
    fc1 = 4 * V3.copies * 7168 * 2048  # of 18 such operations
    rate = Rates().bf16_tflops if recipe.precision == "bf16" else Rates().fp8_tflops
    assert times[2] - times[0] > fc1 / rate / 1e12


def test_prepared_weights_cost_nothing_in_a_pass():
    once = bank_time(Recipe.fp4(), "none", V3, 7168, 2048, Rates(), prepared=True)
    assert "quantizing weights" not in once
    each = bank_time(Recipe.fp4(), "none", V3, 7168, 2048, Rates())
    assert each["quantizing weights"] == pytest.approx(6 * 3 * 8 * 7168 * 2048 / 3e12 / 0.8)


def test_the_wire_carries_what_the_formats_say():
    """A row of DeepSeek-V3's 7168 channels: BF16 14336 bytes, FP8 and its scale 7169, MXFP4 3584 + 224 = 3808; with it
    travel 8 bytes for each of 8 choices, and 4 come back."""
    shape = SHAPES["deepseek-v3"]
    rows = routed_load(shape, 4096, ep=32).received * 31 // 32
    dispatch, gradient = {"bf16": 14336, "fp8": 7169, "fp4": 3808}, {"bf16": 14336, "fp8": 7169, "fp4": 7169}
    for name, size in dispatch.items():
        sizes = {
            "dispatch": size + 64,
            "combine": 14336,
            "backward dispatch": gradient[name],
            "backward combine": 14336 + 32,
        }
        sent = all_to_all_bytes(getattr(Recipe, name)(), shape, 4096, ep=32)
        assert sent == {direction: rows * size for direction, size in sizes.items()}
    assert set(all_to_all_bytes(Recipe.fp4(), shape, 4096, ep=1).values()) == {0}


def test_attention_of_deepseek_v3_is_counted():
    """187 M parameters of projections at two operations each, three times for forward and backward."""
    shape = SHAPES["deepseek-v3"]
    time = attention_time(shape, Recomputation(), 4096, 4096, Rates())
    scores = 3.5 * 4096 * 4096 * 128 * (192 + 128) / 450e12
    assert time["attention"] == pytest.approx(6 * 4096 * 187.1e6 / 770e12 + scores, rel=1e-3)
    again = attention_time(shape, Recomputation(norms=True, attention=True), 4096, 4096, Rates())
    up = attention_time(shape, Recomputation(attention="up"), 4096, 4096, Rates())
    assert 0 < up["recomputing attention and norms"] < again["recomputing attention and norms"] < time["attention"]


def test_shared_experts_add_their_time():
    shape, load = SHAPES["deepseek-v3"], routed_load(SHAPES["deepseek-v3"], 4096, ep=32)
    time = feed_forward_time(shape, Recipe.bf16(), Recomputation(), 4096, load, Rates(), prepared=False)
    alone = bank_time(Recipe.bf16(), "none", load, 7168, 2048, Rates())
    assert time["experts"] / alone["experts"] == pytest.approx(9 / 8, rel=0.02)  # one shared beside 8 routed visits


@pytest.mark.parametrize(
    ("rates", "message"),
    [
        ({"bf16_tflops": 0.0}, "bf16_tflops must be positive"),
        ({"overlap_cost": 1.0}, "overlap_cost is a share below 1"),
        ({"overlap": 1.5}, "overlap and conversions are shares"),
        ({"conversions": 0.0}, "overlap and conversions are shares"),
        ({"node_gpus": 0}, "node_gpus must be at least one"),
    ],
)
def test_impossible_rates_are_refused(rates, message):
    with pytest.raises(ConfigError, match=message):
        Rates(**rates)


def test_links_are_slower_between_nodes():
    assert Rates().link_bytes_per_second(8) == 150e9
    assert Rates().link_bytes_per_second(16) == 45e9


def _travel(ep: int = 64, computing: float = 1.0, **rates) -> float:
    shape = SHAPES["deepseek-v3"]
    sent = sum(all_to_all_bytes(Recipe.fp8(), shape, 4096, ep).values())
    return all_to_all_time(sent, shape, 4096, ep, Rates(**rates), computing)


def test_a_token_crosses_to_another_node_once():
    """By counting: 8 of 256 experts, drawn among those of 4 of 8 nodes, of which one is the token's own."""
    shape, generator = SHAPES["deepseek-v3"], torch.Generator().manual_seed(0)
    visited = 0
    for _ in range(4000):
        nodes = torch.randperm(8, generator=generator)[:4]
        experts = torch.randperm(4 * 32, generator=generator)[:8]
        visited += len(set(nodes[experts // 32].tolist()) - {0})
    assert other_nodes(shape, 8) == pytest.approx(visited / 4000, rel=0.03)
    assert other_nodes(replace(shape, groups=1), 8) > 1.3 * other_nodes(shape, 8)
    assert other_nodes(shape, 1) == 0


def test_passing_on_within_the_node_saves_traffic_between_nodes():
    assert _travel(node_aware=True) < 0.5 * _travel()
    assert _travel(node_aware=True, node_gb_s=1e-3) > 100 * _travel()  # then the node's own links are the limit
    assert _travel(ep=8, node_aware=True) == _travel(ep=8)


def test_hidden_traffic_slows_the_products_that_hide_it():
    travel = _travel()
    assert _travel(overlap=1.0, overlap_cost=0.0) == 0
    assert _travel(overlap=0.5, overlap_cost=0.2) == pytest.approx(travel / 2 + travel / 2 / 4)
    assert _travel(overlap=1.0, overlap_cost=0.0, computing=travel / 3) == pytest.approx(travel * 2 / 3)


def test_deepseek_v3_on_2048_gpus_trains_about_as_fast_as_its_authors_say():
    """1,543 tokens/s a GPU (arXiv 2412.19437: 180,000 GPU hours for 10^12 tokens); 15,360 sequences of 4,096 a step."""
    found = {}
    for overlap in (0.0, 1.0):
        given = Assumptions(batch_tokens=15_360 * 4096, rates=Rates(node_aware=True, overlap=overlap))
        task = PlanTask(SHAPES["deepseek-v3"], 2048, 80 * 10**9, ep=64, pp=16, assumptions=given, recipes=("fp8",))
        found[overlap] = find_plans(task)["fp8"].tokens_per_second
    assert found[0.0] == pytest.approx(1543, rel=0.15)
    assert found[1.0] < 1.45 * 1543  # their traffic is hidden, ours assumes products at full rate: too fast by 40 %
