"""Episodes: disjoint, repeatable, honest about classes that are too small."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pauca.errors import ConfigError, InputError
from pauca.fewshot.episodes import load_episodes, sample_episodes, save_episodes
from pauca.fewshot.types import PADDING, EpisodeConfig, Episodes, ImageSet


def image_set(counts: list[int]) -> ImageSet:
    """Images whose only pixel is their position, in shuffled order of class."""
    labels = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    labels = labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))]
    pixels = torch.arange(len(labels), dtype=torch.uint8).reshape(-1, 1, 1, 1)
    return ImageSet(pixels, labels, tuple(f"class{i}" for i in range(len(counts))))


def same(first: Episodes, second: Episodes) -> bool:
    return all(torch.equal(getattr(first, f), getattr(second, f)) for f in Episodes.__dataclass_fields__)


@given(
    st.integers(2, 5),
    st.integers(0, 2),
    st.integers(1, 3),
    st.integers(0, 2),
    st.integers(1, 4),
    st.booleans(),
    st.integers(0, 2**63),
)
@settings(max_examples=60, deadline=None)
def test_support_and_query_are_disjoint_labeled_and_of_the_asked_shape(
    way, more_way, shot, more_shot, query, unbalanced, seed
):
    images = image_set([9, 12, 9, 10, 9, 9, 11])
    config = EpisodeConfig((way, way + more_way), (shot, shot + more_shot), query, unbalanced and more_shot > 0)
    episodes = sample_episodes(images, config, 4, seed)
    assert len(episodes) == 4
    assert episodes.way == way + more_way
    for row in range(4):
        classes = episodes.classes[row][episodes.classes[row] != PADDING]
        assert way <= len(classes) == len(set(classes.tolist())) <= way + more_way
        drawn = []
        for role in ("support", "query"):
            labels = getattr(episodes, f"{role}_labels")[row]
            used = labels != PADDING
            positions = getattr(episodes, role)[row][used]
            assert torch.equal(images.labels[positions], classes[labels[used]])
            counts = torch.bincount(labels[used], minlength=len(classes))
            if role == "query":
                assert (counts == query).all()
            else:
                assert shot <= int(counts.min()) <= int(counts.max()) <= shot + more_shot
                assert config.unbalanced or counts.min() == counts.max()
            drawn += positions.tolist()
        assert len(drawn) == len(set(drawn))


def test_the_draw_depends_on_the_seed_and_on_no_global_generator():
    images, config = image_set([30] * 8), EpisodeConfig(5, 1, 15)
    first = sample_episodes(images, config, 20, seed=7)
    np.random.seed(1)  # noqa: NPY002 - the point is that it does not matter
    torch.manual_seed(1)
    assert same(first, sample_episodes(images, config, 20, seed=7))
    assert not same(first, sample_episodes(images, config, 20, seed=8))


def test_classes_and_images_are_drawn_evenly():
    """Each of 8 classes appears in 5/8 of 2000 episodes; the tolerance is 5 standard deviations of a binomial."""
    images = image_set([20] * 8)
    episodes = sample_episodes(images, EpisodeConfig(5, 1, 3), 2000, seed=0)
    share = torch.bincount(episodes.classes.flatten(), minlength=8) / 2000
    assert (share - 5 / 8).abs().max() < 5 * (5 / 8 * 3 / 8 / 2000) ** 0.5
    drawn = torch.bincount(episodes.query.flatten(), minlength=160) / 2000
    assert (drawn - 15 / 160).abs().max() < 5 * (15 / 160 / 2000) ** 0.5


def test_unbalanced_support_varies_within_an_episode():
    episodes = sample_episodes(image_set([30] * 6), EpisodeConfig(5, (1, 10), 5, unbalanced=True), 1, seed=0)
    labels = episodes.support_labels[0]
    assert len(set(torch.bincount(labels[labels != PADDING]).tolist())) > 1


def test_classes_with_too_few_images_are_named_or_skipped():
    images = image_set([20, 3, 20, 4, 20])
    told = r'2 classes .* class1 \(3\), class3 \(4\).*by small_classes="skip" \(--small-classes skip\)'
    with pytest.raises(InputError, match=told):
        sample_episodes(images, EpisodeConfig(3, 1, 15), 1, seed=0)
    episodes = sample_episodes(images, EpisodeConfig(3, 1, 15, small_classes="skip"), 50, seed=0)
    assert set(episodes.classes.flatten().tolist()) == {0, 2, 4}


def test_more_ways_than_classes_are_refused_with_the_counts():
    images = image_set([20, 3, 20])
    with pytest.raises(ConfigError, match=r"5-way .* has 3; lower way"):
        sample_episodes(images, EpisodeConfig(5, 1, 1), 1, seed=0)
    with pytest.raises(ConfigError, match=r"3-way .* has 2 after leaving out .*class1 \(3\); lower way"):
        sample_episodes(images, EpisodeConfig(3, 1, 15, small_classes="skip"), 1, seed=0)
    with pytest.raises(ConfigError, match=r"3-way .* has 0 after leaving out .*; lower shot or query"):
        sample_episodes(images, EpisodeConfig(3, 1, 30, small_classes="skip"), 1, seed=0)
    with pytest.raises(ConfigError, match=r"3-way .* has 1; give more classes"):
        sample_episodes(image_set([20]), EpisodeConfig(3, 1, 1), 1, seed=0)


def test_saved_episodes_return_and_refuse_other_images(tmp_path: Path):
    images = image_set([20] * 5)
    episodes = sample_episodes(images, EpisodeConfig((2, 5), (1, 3), 4), 10, seed=3)
    path = tmp_path / "episodes.npz"
    save_episodes(path, episodes, images)
    assert same(episodes, load_episodes(path, images))
    other = ImageSet(images.images.flip(0).contiguous(), images.labels, images.class_names)
    with pytest.raises(InputError, match="made for other images"):
        load_episodes(path, other)


def test_a_file_that_holds_no_episodes_is_named(tmp_path: Path):
    path = tmp_path / "episodes.npz"
    with pytest.raises(InputError, match="no such file"):
        load_episodes(path, image_set([2, 2]))
    path.write_bytes(b"PK\x03\x04 but broken")
    with pytest.raises(InputError, match=r"episodes\.npz: not an episode file"):
        load_episodes(path, image_set([2, 2]))
    np.savez(path, something=np.zeros(3))
    with pytest.raises(InputError, match="not an episode file"):
        load_episodes(path, image_set([2, 2]))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"way": 1}, "at least 2 classes"),
        ({"way": (5, 3)}, "low <= high"),
        ({"shot": 0}, "at least 1"),
        ({"query": 0}, "at least 1 query"),
        ({"unbalanced": True}, "shot as a pair"),
    ],
)
def test_impossible_shapes_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        EpisodeConfig(**options)
