"""Health: counted by hand on matrices whose losses are known, and on a model."""

import math

import pytest
import torch
from torch import nn

from pauca.moe import MoE, Recipe, update_biases
from pauca.moe.layer import QuantizedLinear
from pauca.moe.ops.formats import ScaleRule
from pauca.moe.training.health import collapse, format_losses, quantization_health, router_load, router_loads


def test_load_of_a_balanced_and_of_a_lopsided_router():
    balanced = router_load(torch.tensor([5, 5, 5, 5]))
    assert (balanced.imbalance, balanced.entropy) == (1, pytest.approx(1))
    lopsided = router_load(torch.tensor([20, 0, 0, 0]))
    assert (lopsided.imbalance, lopsided.entropy) == (4, 0)
    half = router_load(torch.tensor([10, 10, 0, 0]))
    assert (half.imbalance, half.entropy) == (2, pytest.approx(math.log(2) / math.log(4)))
    assert router_load(torch.tensor([0, 0])).imbalance == 0
    assert router_load(torch.tensor([7])).imbalance == 1


def test_loads_are_those_since_the_biases_were_updated():
    torch.manual_seed(0)
    model = nn.Sequential(MoE(32, 32, 4, 1), MoE(32, 32, 4, 2))
    with torch.no_grad():
        model[0].router.weight.zero_()
        model[0].router.bias[2] = 1.0  # every token goes to expert 2
    model(torch.randn(10, 32))
    loads = router_loads(model)
    assert list(loads) == ["0", "1"]
    assert loads["0"].imbalance == 4
    assert loads["1"].imbalance < 2.1
    update_biases(model)
    assert router_loads(model)["0"].imbalance == 0
    assert router_loads(nn.Linear(2, 2)) == {}


def test_what_mxfp4_loses_is_counted():
    x = torch.zeros(2, 64, dtype=torch.bfloat16)
    x[0, :4] = torch.tensor([7.5, 1.0, 0.2, 0.0])  # floor: scale 1, so that 7.5 becomes 6 and 0.2 becomes 0
    x[1, 32:34] = torch.tensor([4.0, -0.3])  # scale 1: -0.3 becomes -0.5
    losses = format_losses(x, "mxfp4", ScaleRule.FLOOR)
    assert float(losses.underflows) == pytest.approx(1 / 5)
    assert float(losses.saturations) == pytest.approx(1 / 5)
    assert float(format_losses(x, "mxfp4", ScaleRule.CEIL).saturations) == 0


def test_what_fp8_loses_is_counted():
    # The largest sets the scale so that it lies below 448: 2**-18 of it is under half of the smallest, 2**-9.
    x = torch.zeros(1, 32, dtype=torch.bfloat16)
    x[0, :3] = torch.tensor([256.0, 2.0**-8, 2.0**-12])
    losses = format_losses(x, "fp8")
    assert float(losses.underflows) == pytest.approx(1 / 3)
    assert float(losses.saturations) == 0


def test_nothing_is_lost_by_bf16_or_of_zeros():
    zeros = torch.zeros(4, 32, dtype=torch.bfloat16)
    assert format_losses(zeros, "bf16") is None
    assert float(format_losses(zeros, "mxfp4").underflows) == 0


@pytest.mark.parametrize(
    ("recipe", "measured"),
    [
        (Recipe.bf16(), set()),
        (Recipe.fp8(), {"x", "dy"}),
        (Recipe.fp4(kept_z="bf16"), {"x", "dy", "rows", "columns"}),
        (Recipe.fp4(), {"x", "z", "dy", "rows", "columns"}),
    ],
    ids=lambda value: value.precision + value.kept_z if isinstance(value, Recipe) else "",
)
def test_each_recipe_is_measured_where_it_quantizes(recipe, measured):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(32, 32), MoE(32, 32, 4, 2, recipe=recipe)).eval()
    x = torch.randn(20, 32)
    found = quantization_health(model, lambda: model(x).square().sum().backward())
    assert {measure.split(".")[1] for measure in found} == measured
    for measure, layers in found.items():
        assert set(layers) == {"1"}
        assert 0 <= layers["1"] < (0.2 if measure.startswith("underflow") else 0.02), measure


@pytest.mark.parametrize("kept", ["bf16", "fp8", "mxfp4"])
def test_quantized_linear_layers_are_measured_too(kept):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(32, 32), QuantizedLinear(32, 64, Recipe.fp4(), kept))
    x = torch.randn(2, 10, 32)
    found = quantization_health(model, lambda: model(x).square().sum().backward())
    assert {measure: set(layers) for measure, layers in found.items()} == {
        f"{measure}.{matrix}": {"1"} for measure in ("underflow", "saturation") for matrix in ("x", "dy")
    }
    assert (found["underflow.x"]["1"] > 0.01) == (kept == "mxfp4")
    assert not model[1]._forward_hooks


def test_measuring_changes_nothing():
    torch.manual_seed(0)
    model = nn.Sequential(MoE(32, 32, 4, 2, recipe=Recipe.fp4())).eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    quantization_health(model, lambda: model(torch.randn(20, 32)).sum().backward())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not model[0].router.load.any()
    assert not model[0]._forward_hooks


def test_the_underflows_of_a_gradient_are_those_of_its_fp8_rows():
    torch.manual_seed(0)
    model = MoE(32, 32, 4, 2, recipe=Recipe.fp8()).eval()
    weights = torch.zeros(8, 32)
    weights[:, 0], weights[:, 1] = 1.0, 2.0**-20  # the gradient of the output
    found = quantization_health(model, lambda: (model(torch.randn(8, 32)) * weights).sum().backward())
    assert found["underflow.dy"][""] == pytest.approx(1 / 2)


def _lines(*loads: tuple[float, float]) -> list[dict[str, float]]:
    lines = [{"load_imbalance/blocks.0": first, "load_imbalance/blocks.1": second} for first, second in loads]
    return [{"validation_loss": 3.0}, *lines, {"validation_loss": 2.0}]


def test_a_collapse_is_a_load_that_stays_near_its_maximum():
    # `large`: 6 of 64 experts, so at most 10.67 times the mean.
    said = collapse(_lines((2.1, 9.0), (2.0, 10.5), (2.2, 10.4), (2.1, 10.3)), 64, 6)
    assert "1 of 2 layers has collapsed: the busiest expert of blocks.1 gets 10.3 times" in said
    assert "at most 10.7" in said
    assert collapse(_lines((2.1, 10.5), (2.0, 10.4)), 64, 6) == ""  # may pass
    assert collapse(_lines((2.1, 10.5), (2.0, 10.4), (2.0, 6.0)), 64, 6) == ""  # has passed
    assert collapse(_lines((1.9, 1.9), (1.9, 1.9), (1.9, 1.9)), 4, 2) == ""  # one expert in two
    assert collapse([], 64, 6) == ""
