from dataclasses import replace

import pytest

from pauca.errors import ConfigError
from pauca.moe.recipe import Recipe


@pytest.mark.parametrize("recipe", [Recipe.bf16(), Recipe.fp8(), Recipe.fp4(kept_z="fp8", keep_fc2_input=True)])
def test_a_recipe_survives_the_trip_through_text(recipe):
    assert Recipe.from_json(recipe.to_json()) == recipe


@pytest.mark.parametrize("change", [{"kept_z": "mxfp4"}, {"kept_z": "fp8"}, {"stochastic_rounding": True}])
def test_bf16_has_nothing_to_quantise(change):
    with pytest.raises(ConfigError):
        replace(Recipe.bf16(), **change)
