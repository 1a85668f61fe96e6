import inspect

import pytest

from pauca.errors import ConfigError
from pauca.moe.layer.kept import kept_bytes, kept_formats
from pauca.moe.layer.recipe import Recipe


@pytest.mark.parametrize(
    ("recipe", "deepseek", "small"),
    [
        (Recipe.bf16(), 208, 73.5),
        (Recipe.fp8(), 138, 53.9),
        (Recipe.fp4(), 20.7, 9.8),
    ],
    ids=["bf16", "fp8", "fp4"],
)  # fmt: skip
def test_kept_kib_per_token_at_the_two_shapes_of_the_specification(recipe, deepseek, small):
    # KiB per token of DeepSeek-V3's layer (8 local experts) and of a 16B model's. The specification's fp8 has scales
    # per tile of 128; its fp4 at the 16B shape (19.5) keeps the input gathered and FC2's input too, ours neither.
    shapes = (
        (deepseek, {"hidden": 7168, "width": 2048, "top_k": 8, "experts": 8}),
        (small, {"hidden": 2048, "width": 1408, "top_k": 6, "experts": 64}),
    )
    for expected, shape in shapes:
        actual = kept_bytes(recipe, "none", tokens=4096, **shape) / 4096 / 1024
        assert actual == pytest.approx(expected, rel=0.05)


def test_every_recompute_mode_keeps_less():
    shape = {"tokens": 4096, "top_k": 8, "experts": 8, "hidden": 7168, "width": 2048}
    for recipe in (Recipe.bf16(), Recipe.fp8(), Recipe.fp4(keep_fc2_input=True)):
        sizes = [kept_bytes(recipe, recompute, **shape) for recompute in ("none", "activation", "experts")]
        assert sizes == sorted(sizes, reverse=True)
        assert len(set(sizes)) == 3


def test_what_no_layer_could_keep_is_refused():
    shape = {"tokens": 10, "top_k": 2, "experts": 8, "width": 32}
    with pytest.raises(ConfigError, match="hidden must be a multiple of 32 under the fp4 recipe, got 72"):
        kept_bytes(Recipe.fp4(), "none", hidden=72, **shape)


def test_the_fp4_recipe_keeps_the_input_once_per_token():
    assert not kept_formats(Recipe.fp4(), "none").gathered
    assert kept_formats(Recipe.fp4(), "none").input == "mxfp4"


def test_a_recipe_s_name_is_no_recipe():
    with pytest.raises(ConfigError, match=r"recipe must be a Recipe, such as Recipe\.fp4\(\), got 'fp4'"):
        inspect.unwrap(kept_bytes)("fp4", "none", tokens=1, top_k=1, experts=1, hidden=32, width=32)
