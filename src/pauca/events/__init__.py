"""Few events: the motion of an event camera, by maximum likelihood under a space-time Poisson point process."""

from pauca.events.align import AlignConfig, Aligner, align, align_packets, cut_packets
from pauca.events.camera import Camera
from pauca.events.contrast import Contrast
from pauca.events.io import Finding, GroundTruth, ReadReport, Recording, Remedy, TimeUnit, read, write
from pauca.events.likelihood import NegativeBinomial
from pauca.events.score import Score, Scorer
from pauca.events.trajectory import Trajectory
from pauca.events.types import Alignment, Events, Motion, Objective, Packet, Status
from pauca.events.warp import Frame, Warp

__all__ = [
    "AlignConfig",
    "Aligner",
    "Alignment",
    "Camera",
    "Contrast",
    "Events",
    "Finding",
    "Frame",
    "GroundTruth",
    "Motion",
    "NegativeBinomial",
    "Objective",
    "Packet",
    "ReadReport",
    "Recording",
    "Remedy",
    "Score",
    "Scorer",
    "Status",
    "TimeUnit",
    "Trajectory",
    "Warp",
    "align",
    "align_packets",
    "cut_packets",
    "read",
    "write",
]
