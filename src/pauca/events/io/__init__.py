"""What comes from outside: formats of recordings, and all checking of them."""

from pauca.events.io.reader import ReadConfig, read
from pauca.events.io.repair import TimeUnit
from pauca.events.io.writer import write
from pauca.events.recording import Finding, GroundTruth, Inertial, ReadReport, Recording, Remedy

__all__ = [
    "Finding",
    "GroundTruth",
    "Inertial",
    "ReadConfig",
    "ReadReport",
    "Recording",
    "Remedy",
    "TimeUnit",
    "read",
    "write",
]
