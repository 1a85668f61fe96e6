"""No setting of pauca.moe takes a number that is none, or lies outside its range."""

import dataclasses
import math

import pytest

from pauca.errors import ConfigError
from pauca.moe import LMConfig, RouterConfig, TrainConfig, ViTConfig
from pauca.moe.data import DataConfig
from pauca.moe.plan import SHAPES, Assumptions, GroupedQueryAttention, LatentAttention, ModelShape, PlanTask, Rates

from ..settings import wrong_numbers

SETTINGS = [
    RouterConfig(),
    LMConfig(),
    ViTConfig(),
    TrainConfig(),
    DataConfig(),
    Assumptions(),
    Rates(),
    PlanTask(SHAPES["mixtral-8x7b"], 8, 80 * 10**9),
    SHAPES["mixtral-8x7b"],
    *(next(shape.attention for shape in SHAPES.values() if isinstance(shape.attention, kind))
      for kind in (GroupedQueryAttention, LatentAttention)),
]  # fmt: skip
assert any(isinstance(settings, ModelShape) for settings in SETTINGS)

# Infinity has a meaning: never shorten a gradient, never stop, costs no time.
ENDLESS = {
    *(("TrainConfig", name) for name in ("clip", "spike")),
    *(("Rates", name) for name in ("bf16_tflops", "fp8_tflops", "memory_tb_s", "attention_tflops", "node_gb_s")),
    *(("Rates", name) for name in ("network_gb_s", "host_gb_s", "host_memory_gb_s")),
}


@pytest.mark.parametrize(
    ("settings", "name", "value"),
    [
        pytest.param(*case, id=f"{type(case[0]).__name__}.{case[1]}={case[2]}")
        for case in wrong_numbers(SETTINGS, ENDLESS)
    ],
)
def test_a_number_outside_its_range_is_refused_by_name(settings, name, value):
    with pytest.raises(ConfigError, match=name) as caught:
        dataclasses.replace(settings, **{name: value})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("kind", "name"), sorted(ENDLESS))
def test_infinity_is_taken_where_it_means_something(kind, name):
    settings = next(settings for settings in SETTINGS if type(settings).__name__ == kind)
    dataclasses.replace(settings, **{name: math.inf})
