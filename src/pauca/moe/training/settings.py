"""What a training was asked for: options on top of a size and a recipe, and the config.yaml that repeats it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from pauca.moe.data.prepare import DataConfig
from pauca.moe.layer.recipe import RECIPES, Format, Precision, Recipe, Recompute
from pauca.moe.models.config import Recomputation
from pauca.moe.models.lm import LM_SIZES, LMConfig
from pauca.moe.training.config import MAY_CHANGE, TrainConfig
from pauca.runs import check_obeyed, to_dict
from pauca.typed import is_given, is_typed

RECOMPUTE_OPTIONS = ("recompute", "recompute_attention", "recompute_norms")
_BESIDE_THE_SIZE = ("vocabulary", "context", "recipe", "projections", "recompute")  # have options of their own


@dataclass(frozen=True)
class ModelOptions:
    """What to train: a size, and how its experts compute. Anything else is set in a config.yaml (--config)."""

    size: Literal["toy", "base", "large", "xl"] = "toy"
    """Size of the model: 0.3 M, 0.2 B, 1.1 B or 3.5 B parameters."""
    recipe: Literal["bf16", "fp8", "fp4", "paper"] = "fp4"
    """Numerics of the experts. bf16: all in BF16. fp8: products and kept activations in FP8. fp4: products in FP8, and
    MXFP4 kept. paper: fp4 as its authors' code has it, with scales rounded up and one more matrix kept."""
    projections: Precision = "bf16"
    """Numerics of attention's projections. bf16: all in BF16. fp8: products in FP8, and their input kept in FP8. fp4:
    products in FP8, and their input kept in MXFP4."""
    kept_z: Format | None = None
    """Format in which the output of the experts' first product is kept for backward; if not given, the recipe's own."""
    rotate: bool = False
    """Rotate the experts' input before it is kept in MXFP4 (fp4 and paper): where a few channels are far larger than
    the rest."""
    recompute: Recompute = "none"
    """What experts compute again in backward, to keep less: nothing, the steps between the products, or these and the
    first product."""
    recompute_attention: bool = False
    """Compute attention again in backward instead of keeping what it needs."""
    recompute_norms: bool = False
    """Compute the outputs of norms again in backward instead of keeping them."""
    context: int | None = None
    """Longest sequence in tokens; if not given, the size's own (toy 256, base 1024, large 2048, xl 4096)."""


@dataclass(frozen=True)
class TrainSettings:
    """Everything that repeats a training: what stands in a run's config.yaml."""

    data: DataConfig
    model: LMConfig
    train: TrainConfig

    def obeyed(self, given: TrainSettings, usual: TrainSettings, where: Path) -> None:
        """Refuse options beside this file that say otherwise.

        A size and a recipe are no fields here: where the command line has them, what they decide is compared. How many
        tokens the vocabulary has come to is the text's to say, and what was asked for stands in `data`.

        Raises:
            ConfigError: the first such option, with both values.
        """
        told = replace(given, model=replace(given.model, vocabulary=self.model.vocabulary))
        check_obeyed(to_dict(self), to_dict(told), to_dict(usual), where)
        ours, theirs = to_dict(self.model), to_dict(given.model)
        if is_typed("size"):
            asked = {name: value for name, value in theirs.items() if name not in _BESIDE_THE_SIZE}
            check_obeyed(ours, asked, None, where)
        if is_typed("recipe"):
            asked = {name: value for name, value in theirs["recipe"].items() if name not in ("kept_z", "rotate")}
            check_obeyed(ours["recipe"], asked, None, where)

    def going_on_as(self, given: TrainSettings, usual: TrainSettings) -> TrainSettings:
        """With what was given beside --resume and decides nothing that is learned; what is usual was not given, unless
        the command line has it."""
        names = [name for name in MAY_CHANGE if is_given(name, getattr(given.train, name), getattr(usual.train, name))]
        settings = replace(self, train=replace(self.train, **{name: getattr(given.train, name) for name in names}))
        if given.model.recompute == usual.model.recompute and not any(map(is_typed, RECOMPUTE_OPTIONS)):
            return settings
        return replace(settings, model=replace(settings.model, recompute=given.model.recompute))


def settings_from(
    text: tuple[tuple[str, ...], tuple[str, ...], float, int | None], model: ModelOptions, training: TrainConfig
) -> TrainSettings:
    """The settings of text (sources, validation, its share, vocabulary), a model and a way to train."""
    sources, validation, share, vocabulary = text
    size = LM_SIZES[model.size]
    recipe = Recipe.paper() if model.recipe == "paper" else RECIPES[model.recipe]
    lm = replace(
        size,
        context=size.context if model.context is None else model.context,
        recipe=replace(recipe, kept_z=model.kept_z or recipe.kept_z, rotate=model.rotate),
        projections=model.projections,
        recompute=Recomputation(model.recompute_norms, model.recompute_attention, model.recompute),
    )
    tokens = size.vocabulary if vocabulary is None else vocabulary
    return TrainSettings(DataConfig(sources, validation, share, tokens), lm, training)
