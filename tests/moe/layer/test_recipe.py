from dataclasses import replace

import pytest

from pauca.errors import ConfigError
from pauca.moe.layer.recipe import Recipe


@pytest.mark.parametrize("recipe", [Recipe.bf16(), Recipe.fp8(), Recipe.fp4(kept_z="fp8", keep_fc2_input=True)])
def test_a_recipe_survives_the_trip_through_text(recipe):
    assert Recipe.from_json(recipe.to_json()) == recipe


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("precision", "fp16", "precision must be bf16, fp8 or fp4, got 'fp16'"),
        ("kept_z", "fp16", "kept_z must be bf16, fp8 or mxfp4, got 'fp16'"),
        ("scale_rule", "up", "scale_rule must be floor, even, rceil, ceil or best, got 'up'"),
    ],
)
def test_unknown_formats_are_refused(field, value, message):
    recipe = Recipe.fp4()
    object.__setattr__(recipe, field, value)  # past the type checks of the test suite
    with pytest.raises(ConfigError, match=message):
        recipe.__post_init__()


@pytest.mark.parametrize("change", [{"kept_z": "mxfp4"}, {"kept_z": "fp8"}, {"stochastic_rounding": True}])
def test_bf16_has_nothing_to_quantize(change):
    with pytest.raises(ConfigError):
        replace(Recipe.bf16(), **change)


def test_the_papers_recipe_differs_from_ours_in_two_settings():
    assert Recipe.paper() == replace(Recipe.fp4(keep_fc2_input=True), scale_rule="rceil")
