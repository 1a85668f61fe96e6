from dataclasses import asdict

import pytest

from pauca.errors import ConfigError
from pauca.moe.layer.recipe import Recipe
from pauca.moe.parallel.wire import wire_bytes


def test_mxfp4_tokens_travel_in_half_a_byte_an_element_and_a_byte_a_block():
    assert wire_bytes(Recipe.fp4(), 7168, 8).tokens == 7168 // 2 + 7168 // 32
    assert wire_bytes(Recipe.fp4(), 2048 + 32, 8).tokens == 1105 + 15  # padded to 16


def test_in_all_fp4_sends_a_third_less_than_bf16_and_a_twelfth_less_than_fp8():
    # docs/moe/parallel.md, at DeepSeek-V3's sizes.
    recipes = (Recipe.bf16(), Recipe.fp8(), Recipe.fp4())
    bf16, fp8, fp4 = (sum(asdict(wire_bytes(recipe, 7168, 8)).values()) for recipe in recipes)
    assert (bf16, fp8, fp4) == (57440, 43106, 39745)
    assert round(100 * (1 - fp4 / bf16)) == 31
    assert round(100 * (1 - fp4 / fp8)) == 8


def test_tokens_travel_in_nothing_finer_than_they_are_kept_in():
    assert wire_bytes(Recipe.fp4(), 64, 2, "fp8").tokens == 65
    with pytest.raises(ConfigError, match="of the fp8 recipe travel in bf16 or fp8, not 'mxfp4'"):
        wire_bytes(Recipe.fp8(), 64, 2, "mxfp4")
