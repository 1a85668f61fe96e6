"""Few events: the motion of an event camera, by maximum likelihood under a space-time Poisson point process."""

from pauca.events import live
from pauca.events.adapters import EventsLike, as_events
from pauca.events.alignment import Aligner
from pauca.events.camera import Camera
from pauca.events.continuous import TrajectoryConfig
from pauca.events.description import Info, info
from pauca.events.diagnosis import CheckReport, Fault, check
from pauca.events.evaluation import (
    PACKET_END,
    PACKET_MIDDLE,
    STATED,
    Evaluation,
    Protocol,
    TimeOffset,
    evaluate,
    find_time_offset,
    fit_time_offset,
)
from pauca.events.exports import Viewer, export
from pauca.events.focal import FocalLength, ask_focal_length, telling_packets
from pauca.events.follower import Follower
from pauca.events.gyro_prior import GyroPrior
from pauca.events.gyroscope import GyroFit, fit_gyro
from pauca.events.hot_pixels import hot_pixel_mask, remove_hot_pixels
from pauca.events.io import (
    Conversion,
    EventStream,
    Finding,
    GroundTruth,
    Inertial,
    ReadConfig,
    ReadReport,
    Recording,
    Remedy,
    TimeUnit,
    WriteConfig,
    convert,
    open_events,
    read,
    write,
)
from pauca.events.io.ground_truth import read_ground_truth
from pauca.events.likelihood import Contrast, NegativeBinomial
from pauca.events.mosaic import Attitude, Panorama, PanoramaConfig, panorama
from pauca.events.noise import noise_mask, remove_noise
from pauca.events.score import Score, Scorer
from pauca.events.settings import AlignConfig
from pauca.events.simulation import DAVIS240C, SimulateConfig, simulate
from pauca.events.trajectory import Trajectory
from pauca.events.types import Alignment, Device, Estimator, Events, Motion, Objective, Packet, Status
from pauca.events.views import View, ViewBuilder, ViewConfig, views
from pauca.events.warp import Frame, Warp
from pauca.events.whole import align, align_packets, cut_windows, refine
from pauca.events.whole import cut_packets as cut_packets  # its name in 0.1
from pauca.events.windows import joined

__all__ = [
    "DAVIS240C",
    "PACKET_END",
    "PACKET_MIDDLE",
    "STATED",
    "AlignConfig",
    "Aligner",
    "Alignment",
    "Attitude",
    "Camera",
    "CheckReport",
    "Contrast",
    "Conversion",
    "Device",
    "Estimator",
    "Evaluation",
    "EventStream",
    "Events",
    "EventsLike",
    "Fault",
    "Finding",
    "FocalLength",
    "Follower",
    "Frame",
    "GroundTruth",
    "GyroFit",
    "GyroPrior",
    "Inertial",
    "Info",
    "Motion",
    "NegativeBinomial",
    "Objective",
    "Packet",
    "Panorama",
    "PanoramaConfig",
    "Protocol",
    "ReadConfig",
    "ReadReport",
    "Recording",
    "Remedy",
    "Score",
    "Scorer",
    "SimulateConfig",
    "Status",
    "TimeOffset",
    "TimeUnit",
    "Trajectory",
    "TrajectoryConfig",
    "View",
    "ViewBuilder",
    "ViewConfig",
    "Viewer",
    "Warp",
    "WriteConfig",
    "align",
    "align_packets",
    "as_events",
    "ask_focal_length",
    "check",
    "convert",
    "cut_windows",
    "evaluate",
    "export",
    "find_time_offset",
    "fit_gyro",
    "fit_time_offset",
    "hot_pixel_mask",
    "info",
    "joined",
    "live",
    "noise_mask",
    "open_events",
    "panorama",
    "read",
    "read_ground_truth",
    "refine",
    "remove_hot_pixels",
    "remove_noise",
    "simulate",
    "telling_packets",
    "views",
    "write",
]
