"""Where the systems meet: recognize things in recordings of an event camera from a few examples of each."""

from pauca.recognize.estimator import EventClassifier, open_model
from pauca.recognize.evaluation import Outcome, compare_alignment
from pauca.recognize.live import Decision, LiveConfig, decide
from pauca.recognize.pictures import Picture, pictures_of
from pauca.recognize.settings import PictureConfig

__all__ = [
    "Decision",
    "EventClassifier",
    "LiveConfig",
    "Outcome",
    "Picture",
    "PictureConfig",
    "compare_alignment",
    "decide",
    "open_model",
    "pictures_of",
]
