"""An option that is given at its default is not one left out: it wins over a recipe, and is compared with a run's."""

from dataclasses import replace

import pytest

from pauca.cli import main
from pauca.errors import ConfigError, InputError
from pauca.fewshot.latent import LatentConfig
from pauca.fewshot.model import ModelConfig
from pauca.fewshot.training.config import TrainConfig
from pauca.fewshot.training.settings import TrainSettings, settings_from
from pauca.fewshot.training.strong import STRONG, StrongConfig
from pauca.moe.training.config import TrainConfig as MoeTrainConfig
from pauca.moe.training.settings import ModelOptions
from pauca.moe.training.settings import settings_from as moe_settings_from
from pauca.runs import check_obeyed, to_yaml
from pauca.typed import is_typed, require_once, typed


def test_names_are_those_of_fields():
    with typed(["fewshot", "train", "DATA", "--whiten-features", "0", "--no-shard", "--seed=3", "-x", "--"]):
        assert all(map(is_typed, ("whiten_features", "shard", "seed")))
        assert not any(map(is_typed, ("fewshot", "no_shard", "x", "")))
    assert not is_typed("seed")


def test_an_option_of_many_values_is_given_once():
    with typed(["--data", "a", "b", "--steps", "1", "--steps=2", "--data=c"]):
        require_once("validation", "steps_of_others")
        with pytest.raises(InputError, match="--data is given more than once; name all of its values after one --data"):
            require_once("validation", "data")
    require_once("data")


def test_what_is_typed_wins_over_a_recipe():
    given = "data", None, "strong", ModelConfig(), TrainConfig(), StrongConfig()
    assert settings_from(*given).model.whiten_features == STRONG.model.whiten_features > 0
    with typed(["--whiten-features", "0"]):
        settings = settings_from(*given)
    assert settings.model.whiten_features == 0
    assert settings.model.center_features == STRONG.model.center_features


def test_what_is_typed_is_compared_with_a_run(tmp_path):
    stored, usual = {"seed": 3, "model": {"width": 2}}, {"seed": 0, "model": {"width": 1}}
    check_obeyed(stored, usual, usual, tmp_path)
    with typed(["--seed", "0"]), pytest.raises(ConfigError, match="started with seed 3, not 0"):
        check_obeyed(stored, usual, usual, tmp_path)
    with typed(["--width=1"]), pytest.raises(ConfigError, match="started with width 2, not 1"):
        check_obeyed(stored, usual, usual, tmp_path)


def test_what_may_change_may_be_set_back_to_its_default():
    text = (), (), 0.05, None
    usual = moe_settings_from(text, ModelOptions(), MoeTrainConfig())
    stored = moe_settings_from(text, ModelOptions(recompute="experts"), MoeTrainConfig(log_every=7))
    assert stored.going_on_as(usual, usual) == stored
    with typed(["--log-every", str(usual.train.log_every), "--recompute", "none"]):
        assert stored.going_on_as(usual, usual) == usual


def test_the_words_of_a_run_may_be_repeated(tmp_path):
    """Its latent mode was `auto` and is what was taken; a recipe has changed since it began."""
    given = TrainSettings(model=ModelConfig(latent=LatentConfig(mode="auto")))
    stored = replace(given, model=replace(given.model, latent=LatentConfig(mode="none")))
    strong = settings_from("glyphs", None, "strong", ModelConfig(), TrainConfig(), StrongConfig())
    before = replace(strong, model=replace(strong.model, whiten_features=0.0))
    with typed(["--mode", "auto", "--recipe", "strong"]):
        stored.obeyed(given, tmp_path)
        before.obeyed(strong, tmp_path)
        with pytest.raises(ConfigError, match="started with recipe episodes, not strong"):
            stored.obeyed(strong, tmp_path)
    with typed(["--whiten-features", "0.5"]), pytest.raises(ConfigError, match=r"whiten_features 0\.0, not 0\.5"):
        before.obeyed(strong, tmp_path)


def test_a_command_knows_its_own_options(tmp_path, capsys):
    config = tmp_path / "config.yaml"
    config.write_text(to_yaml(TrainSettings(recipe="strong")))
    assert main(["fewshot", "train", "--config", str(config), "--recipe", "episodes"]) == 2
    assert "started with recipe strong, not episodes" in capsys.readouterr().err
