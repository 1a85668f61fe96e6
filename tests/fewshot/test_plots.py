"""Figures: made from real results, and showing what they say."""

import sys
from dataclasses import replace
from io import BytesIO
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from torch import nn

from pauca.errors import InputError
from pauca.fewshot import plots
from pauca.fewshot.embedding import embed_images
from pauca.fewshot.evaluation import evaluate
from pauca.fewshot.latent import LatentConfig
from pauca.fewshot.model import MCRNet, ModelConfig
from pauca.fewshot.types import PADDING


@pytest.fixture(scope="module")
def flat() -> MCRNet:
    config = ModelConfig(base_learner="prototypes", image_size=16, latent=LatentConfig(mode="none"))
    return MCRNet(config, backbone=nn.Flatten()).eval()


@pytest.fixture(scope="module")
def with_decoder() -> MCRNet:
    torch.manual_seed(0)
    latent = LatentConfig(mode="variational", reconstruction_weight=0.1)
    return MCRNet(ModelConfig(backbone="conv4-32", image_size=16, latent=latent)).eval()


def titles(figure: Figure) -> list[str]:
    return [axis.get_title() for axis in figure.axes if axis.get_title()]


def test_gallery_shows_support_and_queries_with_their_answers(toy_images, toy_episodes, flat):
    features = embed_images(flat, toy_images)
    task = toy_episodes[3:4]
    logits = flat.classify(features[task.support], task.support_labels, features[task.query], task.way)
    figure = plots.episode_gallery(toy_images, task, logits, queries_per_class=2)
    pictures = [axis for axis in figure.axes if axis.images]
    assert len(pictures) == 3 * (2 + 2)
    names = [toy_images.class_names[c] for c in task.classes[0]]
    assert [axis.get_title("left") for axis in figure.axes if axis.get_title("left")] == names
    assert titles(figure) == [name for name in names for _ in range(2)]  # all answers are right


def test_gallery_leaves_no_room_for_padding(toy_images, toy_episodes, flat):
    labels = toy_episodes.support_labels[:1].clone()
    labels[0, [1, 3, 5]] = PADDING  # one support image of each class is left
    task = replace(toy_episodes[:1], support_labels=labels)
    logits = torch.zeros(1, 12, 3)
    figure = plots.episode_gallery(toy_images, task, logits, queries_per_class=2)
    assert len(figure.axes) == 3 * (1 + 1 + 2)


def test_names_are_neither_formulas_nor_hidden():
    names = ("$a_$b", "$\\c$", "_plain", "x", "y")
    figure = plots.feature_map(torch.rand(10, 4), torch.arange(5).repeat(2), names)
    figure.savefig(BytesIO(), format="png")  # raises if matplotlib reads a formula
    shown = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert len(shown) == 5
    assert shown[2] == "_plain"  # matplotlib would leave it out


def test_predictions_are_shown_below_the_examples(toy_images):
    probabilities = np.full((5, 8), 0.05)
    probabilities[:, 2] = 0.65
    alone = plots.prediction_gallery(None, toy_images.images[:5], np.array(["class-2"] * 5), probabilities)
    assert sum(bool(axis.images) for axis in alone.axes) == 5
    figure = plots.prediction_gallery(toy_images, toy_images.images[:5], np.array(["class-2"] * 5), probabilities)
    assert sum(title == "class-2 0.65" for title in titles(figure)) == 5
    assert sum(title.startswith("example") for title in titles(figure)) == 8


def test_confusion_and_reliability_show_an_evaluation(toy_images, toy_episodes, flat):
    evaluation = evaluate(flat, toy_images, toy_episodes)
    picture = plots.confusion_matrix(evaluation, largest=4).axes[0].images[0].get_array()
    np.testing.assert_allclose(picture, np.eye(4))
    assert f"{evaluation.calibration.expected_error:.3f}" in titles(plots.reliability(evaluation))[0]


def test_classes_that_were_never_asked_for_are_not_the_hardest(toy_images, toy_episodes, flat):
    evaluation = evaluate(flat, toy_images, toy_episodes[:1])
    asked = sorted(evaluation.class_names[i] for i in toy_episodes.classes[0].tolist())
    axis = plots.confusion_matrix(evaluation, largest=4).axes[0]
    assert [tick.get_text() for tick in axis.get_yticklabels()] == asked


def test_feature_map_has_a_color_for_each_class(toy_images, flat):
    figure = plots.feature_map(embed_images(flat, toy_images), toy_images.labels, toy_images.class_names)
    assert len(figure.axes[0].collections) == 8
    with pytest.raises(InputError, match="at least 5 images, not 3"):
        plots.feature_map(torch.rand(3, 2), torch.arange(3), "abc")


def test_umap_is_asked_for_by_name(toy_images, flat, monkeypatch):
    """By a stand-in that keeps the first two features; the package itself is optional."""

    class Umap:
        def __init__(self, n_neighbors, init, random_state, n_jobs):
            assert (n_neighbors, random_state) == (4, 7)

        def fit_transform(self, features):
            return features[:, :2]

    monkeypatch.setitem(sys.modules, "umap", SimpleNamespace(UMAP=Umap))
    features = embed_images(flat, toy_images)[:5]
    figure = plots.feature_map(features, toy_images.labels[:5], toy_images.class_names, seed=7, method="umap")
    np.testing.assert_allclose(figure.axes[0].collections[0].get_offsets(), features[:, :2])
    monkeypatch.setitem(sys.modules, "umap", None)
    with pytest.raises(InputError, match="umap is not installed; pip install umap-learn, or draw the map by tsne"):
        plots.feature_map(features, toy_images.labels[:5], toy_images.class_names, method="umap")


def test_umap_itself_tells_the_classes_apart(toy_images, flat):
    pytest.importorskip("umap", reason="umap-learn is not installed")
    figure = plots.feature_map(embed_images(flat, toy_images), toy_images.labels, toy_images.class_names, method="umap")
    groups = [np.asarray(group.get_offsets()) for group in figure.axes[0].collections]
    centers = np.array([group.mean(0) for group in groups])
    nearest = [np.linalg.norm(group[:, None] - centers, axis=2).argmin(1) for group in groups]
    assert all((found == label).all() for label, found in enumerate(nearest))


def test_reconstructions_and_latent_codes_need_what_they_show(toy_images, flat, with_decoder):
    assert len(plots.reconstructions(with_decoder, toy_images, count=3).axes) == 6
    assert plots.latent_codes(with_decoder, toy_images).shape == (96, 64 * 16)
    for figure in (plots.reconstructions, plots.latent_codes):
        with pytest.raises(InputError, match="no latent space"):
            figure(flat, toy_images)


def test_training_curves_read_the_metrics():
    lines = [
        {"step": 50, "cross_entropy": 1.2},
        {"step": 100, "cross_entropy": 0.9},
        {"step": 100, "validation_accuracy": 0.6, "half_width": 0.01},
    ]
    loss, accuracy = plots.training_curves(lines).axes
    assert loss.lines[0].get_ydata().tolist() == [1.2, 0.9]
    assert accuracy.lines[0].get_ydata().tolist() == [60.0]
