"""What comes from outside: formats of recordings, and all checking of them."""

from pauca.events.io.reader import ReadConfig, open_events, read
from pauca.events.io.source import TimeUnit
from pauca.events.io.stream import EventStream
from pauca.events.io.writer import Conversion, WriteConfig, convert, write
from pauca.events.recording import Finding, GroundTruth, Inertial, ReadReport, Recording, Remedy

__all__ = [
    "Conversion",
    "EventStream",
    "Finding",
    "GroundTruth",
    "Inertial",
    "ReadConfig",
    "ReadReport",
    "Recording",
    "Remedy",
    "TimeUnit",
    "WriteConfig",
    "convert",
    "open_events",
    "read",
    "write",
]
