"""Glyphs: many classes, disjoint splits, repeatable drawings that a simple classifier tells apart."""

import pytest
import torch

from pauca.errors import ConfigError
from pauca.fewshot.base_learners import make_base_learner
from pauca.fewshot.data import draw_glyphs
from pauca.fewshot.data.glyphs import _faces, characters_drawn
from pauca.fewshot.episodes import sample_episodes
from pauca.fewshot.types import EpisodeConfig


def test_there_are_more_than_a_thousand_characters_in_disjoint_splits():
    splits = [set(draw_glyphs(split, per_class=1, size=12).class_names) for split in ("train", "val", "test")]
    assert sum(map(len, splits)) == len(set.union(*splits)) == len(characters_drawn()) > 1000
    assert len(splits[0]) > len(splits[2]) > len(splits[1]) > 200


def test_every_character_is_truly_in_many_faces():
    """A face without a character draws a box in its place, which would be one class under a thousand names."""
    faces = _faces()
    assert len(faces) >= 16
    assert not any("LastResort" in path.name for path in faces)
    for character in characters_drawn():
        assert sum(ord(character) in codes for codes in faces.values()) >= 9


def test_drawings_repeat_and_depend_on_the_seed_alone():
    few, more = draw_glyphs("val", 6, 28, classes=3), draw_glyphs("val", 6, 28, classes=5)
    assert few.class_names == more.class_names[:3]
    assert torch.equal(few.images, more.images[: len(few)])
    assert not torch.equal(few.images, draw_glyphs("val", 6, 28, classes=3, seed=1).images)


def test_drawings_of_a_character_differ_and_none_is_blank():
    images = draw_glyphs("test", 10, 32, classes=30)
    assert images.images.shape == (300, 1, 32, 32)
    assert images.counts.tolist() == [10] * 30
    assert images.images.flatten(1).amax(1).min() > 100
    assert len({image.numpy().tobytes() for image in images.images}) == 300


def test_pixels_alone_tell_characters_apart_far_better_than_chance():
    """5-way 5-shot by ridge regression on raw pixels: chance is 20 %."""
    images = draw_glyphs("test", 12, 20, classes=60)
    episodes = sample_episodes(images, EpisodeConfig(5, 5, 5), 50, seed=0)
    pixels = images.images.flatten(1).float() / 255
    head = make_base_learner("ridge", penalty=1.0)
    logits = head(pixels[episodes.support], episodes.support_labels, pixels[episodes.query], 5)
    assert (logits.argmax(-1) == episodes.query_labels).float().mean() > 0.6


@pytest.mark.parametrize(
    ("options", "message"),
    [({"classes": 100000}, "100000 glyph classes"), ({"size": 8}, "at least 12"), ({"per_class": 0}, "at least 1")],
)
def test_what_cannot_be_drawn_is_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        draw_glyphs("val", **options)
