"""Settings of a training: the schedules and the paper's protocols."""

import pytest
import torch
import yaml

from pauca.errors import ConfigError
from pauca.fewshot.training.config import PROTOCOLS, TrainConfig
from pauca.fewshot.types import ImageSet
from pauca.runs import from_dict, to_yaml


def test_learning_rate_follows_the_published_phases():
    config = PROTOCOLS["cifar-fs"].train
    phases = {0: 0.1, 19_999: 0.1, 20_000: 0.006, 39_999: 0.006, 40_000: 0.0012, 50_000: 0.00024, 59_999: 0.00024}
    for step, rate in phases.items():
        assert config.learning_rate_at(step) == pytest.approx(rate)


def test_cosine_schedule_falls_from_the_full_rate_to_almost_none():
    config = TrainConfig(steps=1000, schedule="cosine")
    rates = [config.learning_rate_at(step) for step in range(1000)]
    assert rates[0] == config.learning_rate
    assert rates[500] == pytest.approx(config.learning_rate / 2)
    assert rates == sorted(rates, reverse=True)
    assert 0 < rates[-1] < 1e-3 * config.learning_rate


@pytest.mark.parametrize("schedule", ["cosine", ((0.0, 1.0), (0.5, 0.1))])
def test_a_schedule_is_the_same_after_a_file(schedule):
    config = TrainConfig(schedule=schedule)
    assert from_dict(TrainConfig, yaml.safe_load(to_yaml(config))) == config


def test_protocols_are_the_papers():
    facts = {
        name: (p.model.base_learner, p.train.episode.shot, p.train.label_smoothing) for name, p in PROTOCOLS.items()
    }
    assert facts == {
        "cifar-fs": ("ridge", 5, 0.0),
        "fc100": ("ridge", 15, 0.0),
        "miniimagenet": ("svm", 15, 0.1),
        "tieredimagenet": ("svm", 10, 0.0),
    }
    for protocol in PROTOCOLS.values():
        assert (protocol.train.episode.way, protocol.train.episode.query, protocol.train.episodes_per_step) == (5, 6, 8)
        size = protocol.model.image_size
        images = ImageSet(torch.zeros(1, 3, size, size, dtype=torch.uint8), torch.zeros(1, dtype=torch.int64), ("a",))
        augmentation = protocol.train.augmentation.fitted_to(images)
        assert (augmentation.crop_padding, augmentation.flip) == (8 if size == 84 else 4, True)


def test_settings_out_of_range_are_refused():
    for wrong, words in (
        ({"steps": 0}, "at least 1"),
        ({"schedule": ((0.5, 1.0),)}, "phases that begin at 0"),
        ({"label_smoothing": 1.0}, "label_smoothing"),
    ):
        with pytest.raises(ConfigError, match=words):
            TrainConfig(**wrong)
