import pytest

from pauca.errors import ConfigError
from pauca.moe.cost import all_to_all_bytes
from pauca.moe.recipe import Recipe
from pauca.moe.shapes import SHAPES
from pauca.moe.wire import wire_bytes


def test_mxfp4_tokens_travel_in_half_a_byte_an_element_and_a_byte_a_block():
    assert wire_bytes(Recipe.fp4(), 7168, 8).tokens == 7168 // 2 + 7168 // 32
    assert wire_bytes(Recipe.fp4(), 2048 + 32, 8).tokens == 1105 + 15  # padded to 16


@pytest.mark.parametrize("precision", ["bf16", "fp8", "fp4"])
def test_the_planner_counts_the_same_bytes_a_row(precision):
    recipe, shape = getattr(Recipe, precision)(), SHAPES["deepseek-v3"]
    planned = all_to_all_bytes(recipe, shape, tokens=4096, ep=8)
    row = wire_bytes(recipe, shape.hidden, shape.top_k)
    rows = planned["combine"] // row.outputs
    assert planned == {
        "dispatch": rows * row.tokens,
        "combine": rows * row.outputs,
        "backward dispatch": rows * row.output_gradients,
        "backward combine": rows * row.input_gradients,
    }


def test_tokens_travel_in_nothing_finer_than_they_are_kept_in():
    assert wire_bytes(Recipe.fp4(), 64, 2, "fp8").tokens == 65
    with pytest.raises(ConfigError, match="of the fp8 recipe travel in bf16 or fp8, not 'mxfp4'"):
        wire_bytes(Recipe.fp8(), 64, 2, "mxfp4")
