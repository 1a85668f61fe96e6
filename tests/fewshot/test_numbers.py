"""No setting of pauca.fewshot takes a number that is none, or lies outside its range."""

import dataclasses
import math

import pytest

from pauca.errors import ConfigError
from pauca.fewshot import AugmentConfig, EpisodeConfig, LatentConfig, StrongConfig, TrainConfig, make_base_learner

from ..settings import wrong_numbers

# Where the noise starts is the logarithm of a standard deviation, and may be negative.
SETTINGS = [LatentConfig(), TrainConfig(), AugmentConfig(), EpisodeConfig(way=5, shot=1, query=5), StrongConfig()]
CASES = [case for case in wrong_numbers(SETTINGS) if case[1:] != ("log_sigma_start", -1.0)]


@pytest.mark.parametrize(
    ("settings", "name", "value"),
    [pytest.param(*case, id=f"{type(case[0]).__name__}.{case[1]}={case[2]}") for case in CASES],
)
def test_a_number_outside_its_range_is_refused_by_name(settings, name, value):
    with pytest.raises(ConfigError, match=name) as caught:
        dataclasses.replace(settings, **{name: value})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["ridge", "logistic", "svm"])
@pytest.mark.parametrize("value", [math.nan, math.inf, 0.0, -1.0])
def test_a_base_learner_takes_no_penalty_that_is_no_positive_number(name, value):
    with pytest.raises(ConfigError, match="penalty"):
        make_base_learner(name, penalty=value)
