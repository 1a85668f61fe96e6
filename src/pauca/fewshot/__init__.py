"""Few labels: meta-train a network on many classes, then recognize new ones from one to five examples each.

`train` makes an `MCRNet`, `evaluate` and `compare` test it as papers do, `FewShotClassifier` uses it on your images.
Figures are in `pauca.fewshot.plots`, readers of images and data sets in `pauca.fewshot.data`.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from pauca.fewshot.answers import Outlook
from pauca.fewshot.answers.copies import CopiedExamplesWarning
from pauca.fewshot.answers.examples import ExampleError, Words
from pauca.fewshot.answers.threshold import FewExamplesWarning
from pauca.fewshot.backbones import BACKBONES, make_backbone, multiply_adds, parameter_count
from pauca.fewshot.base_learners import BASE_LEARNERS, make_base_learner
from pauca.fewshot.data import (
    check_disjoint,
    draw_glyphs,
    image_set_from_arrays,
    load_splits,
    prepare_benchmark,
    read_images,
    scan_images,
)
from pauca.fewshot.data.folder import EmptyFoldersWarning, UnlabeledImagesWarning, UnreadableImagesWarning
from pauca.fewshot.embedding import embed_images
from pauca.fewshot.episodes import load_episodes, sample_episodes, save_episodes
from pauca.fewshot.evaluation import (
    Calibration,
    Comparison,
    Evaluation,
    compare,
    evaluate,
)
from pauca.fewshot.intervals import Interval, class_interval, mean_interval
from pauca.fewshot.latent import LatentConfig, LatentStem, Posterior
from pauca.fewshot.model import Losses, MCRNet, ModelConfig
from pauca.fewshot.network import FewShotModel
from pauca.fewshot.pretrained import Features, Preprocessing, Pretrained, open_backbone
from pauca.fewshot.training.augment import AugmentConfig
from pauca.fewshot.training.config import PROTOCOLS, Protocol, TrainConfig
from pauca.fewshot.training.loop import TrainResult, train
from pauca.fewshot.training.strong import STRONG, StrongConfig
from pauca.fewshot.training.strong_trainer import StrongTrainer, train_strong
from pauca.fewshot.training.trainer import Trainer, Workers
from pauca.fewshot.types import PADDING, BaseLearner, EpisodeConfig, Episodes, ImageSet, TrainingData
from pauca.fewshot.views_at_test import ViewsAtTest

if TYPE_CHECKING:
    from pauca.fewshot.estimator import Answers, FewShotClassifier

__all__ = [
    "BACKBONES",
    "BASE_LEARNERS",
    "PADDING",
    "PROTOCOLS",
    "STRONG",
    "Answers",
    "AugmentConfig",
    "BaseLearner",
    "Calibration",
    "Comparison",
    "CopiedExamplesWarning",
    "EmptyFoldersWarning",
    "EpisodeConfig",
    "Episodes",
    "Evaluation",
    "ExampleError",
    "Features",
    "FewExamplesWarning",
    "FewShotClassifier",
    "FewShotModel",
    "ImageSet",
    "Interval",
    "LatentConfig",
    "LatentStem",
    "Losses",
    "MCRNet",
    "ModelConfig",
    "Outlook",
    "Posterior",
    "Preprocessing",
    "Pretrained",
    "Protocol",
    "StrongConfig",
    "StrongTrainer",
    "TrainConfig",
    "TrainResult",
    "Trainer",
    "TrainingData",
    "UnlabeledImagesWarning",
    "UnreadableImagesWarning",
    "ViewsAtTest",
    "Words",
    "Workers",
    "check_disjoint",
    "class_interval",
    "compare",
    "draw_glyphs",
    "embed_images",
    "evaluate",
    "image_set_from_arrays",
    "load_episodes",
    "load_splits",
    "make_backbone",
    "make_base_learner",
    "mean_interval",
    "multiply_adds",
    "open_backbone",
    "parameter_count",
    "prepare_benchmark",
    "read_images",
    "sample_episodes",
    "save_episodes",
    "scan_images",
    "train",
    "train_strong",
]


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def __getattr__(name: str) -> object:
    """The estimator when it is asked for: it brings scikit-learn, 55 MB and most of a second that no training needs."""
    if name not in ("Answers", "FewShotClassifier"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module("pauca.fewshot.estimator"), name)
