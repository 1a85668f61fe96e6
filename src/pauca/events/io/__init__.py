"""What comes from outside: formats of recordings, and all checking of them."""

from pauca.events.io.read import read
from pauca.events.io.recording import Finding, GroundTruth, ReadReport, Recording, Remedy
from pauca.events.io.repair import TimeUnit
from pauca.events.io.write import write

__all__ = ["Finding", "GroundTruth", "ReadReport", "Recording", "Remedy", "TimeUnit", "read", "write"]
