"""What is wrong with a recording, or with the camera that made it: named, with numbers and a remedy."""

from pauca.events.diagnosis.check import CheckReport, check
from pauca.events.diagnosis.fault import Fault

__all__ = ["CheckReport", "Fault", "check"]
