"""Where the systems meet: recognize things in recordings of an event camera from a few examples of each."""

from pauca.recognize.backbones import MoEFeatures
from pauca.recognize.estimator import EventClassifier, open_model
from pauca.recognize.evaluation import Outcome, compare_alignment
from pauca.recognize.live import Decision, LiveConfig, decide
from pauca.recognize.pictures import Picture, pictures_of
from pauca.recognize.settings import PictureConfig
from pauca.recognize.simulation import ShakeConfig, simulate_pictures
from pauca.recognize.turned import NearestTurned, TurnedPixels

__all__ = [
    "Decision",
    "EventClassifier",
    "LiveConfig",
    "MoEFeatures",
    "NearestTurned",
    "Outcome",
    "Picture",
    "PictureConfig",
    "ShakeConfig",
    "TurnedPixels",
    "compare_alignment",
    "decide",
    "open_model",
    "pictures_of",
    "simulate_pictures",
]
