"""Where the systems meet: recognize things in recordings of an event camera from a few examples of each."""

from pauca.recognize.estimator import EventClassifier, open_model
from pauca.recognize.pictures import Picture, pictures_of
from pauca.recognize.settings import PictureConfig

__all__ = ["EventClassifier", "Picture", "PictureConfig", "open_model", "pictures_of"]
