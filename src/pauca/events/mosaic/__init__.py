"""A mosaic of everything a turning camera saw, and its orientation over time without drift."""

from pauca.events.mosaic.attitude import Attitude
from pauca.events.mosaic.closures import Closure
from pauca.events.mosaic.panorama import Panorama, PanoramaConfig, panorama

__all__ = ["Attitude", "Closure", "Panorama", "PanoramaConfig", "panorama"]
