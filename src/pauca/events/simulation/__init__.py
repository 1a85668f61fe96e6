"""Recordings of a camera that rotates before a panorama, with the exact motion."""

from pauca.events.simulation.config import SimulateConfig
from pauca.events.simulation.simulator import DAVIS240C, simulate

__all__ = ["DAVIS240C", "SimulateConfig", "simulate"]
