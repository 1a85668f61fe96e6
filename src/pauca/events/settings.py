"""How a recording is cut and what is maximized: the settings of `align`, `Aligner` and `pauca events align`."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from pauca.choices import check_choices
from pauca.errors import ConfigError
from pauca.events.continuous import TrajectoryConfig
from pauca.events.given import check_kinds
from pauca.events.likelihood import NegativeBinomial
from pauca.events.types import Device, Estimator, Motion, Objective, VoteKernel
from pauca.events.windows import Cut

# Events for each pixel of the sensor: 30,000 and 10,000 on the 240 x 180 pixels of a DAVIS 240C. With packets of that
# size a 640 x 480 sensor at 35 million events a second has an RMS error of 18.6 deg/s, with packets in proportion 1.7.
_MOST_PER_PIXEL = 30_000 / (240 * 180)
_FEWEST_PER_PIXEL = 10_000 / (240 * 180)

_Reference = Literal["middle", "first"]
_ASKED = ("rotation", "st-ppp", True)


@dataclass(frozen=True)
class AlignConfig:
    """How a recording is cut into packets, and what is maximized over which motion.

    A packet ends at `packet_events`, or earlier: at `packet_s` if it holds `min_events` and the image is expected to
    have moved by `least_pixels` then; when it is expected to have moved by `most_pixels`; or at `longest_s` at last.
    Long packets would blur the reversals of the motion, and slow motion gives few events and, over less than a few
    pixels, too small a velocity. Where nothing tells a packet from rest, or it moves slowly, it may last `slowest_s`.
    """

    motion: Motion = "rotation"
    objective: Objective = "st-ppp"
    estimator: Estimator | None = None
    """A velocity for each packet (packets), or one that is linear between knots and drawn from both (trajectory). None:
    trajectory for what it can estimate, exact rotations by the likelihood, else packets. An `Aligner` has packets."""
    trajectory: TrajectoryConfig = TrajectoryConfig()  # noqa: RUF009 - immutable; its knots, windows and prior
    packet_events: int | None = None  # most events of a packet; None: 0.69 for each pixel of the sensor
    min_events: int | None = None  # a packet waits for so many beyond `packet_s`; None: 0.23 for each pixel
    packet_s: float = 0.02  # seconds
    least_pixels: float = 4.0  # a packet waits for this expected displacement, too, up to `slowest_s`
    most_pixels: float = 24.0  # expected displacement at which a packet ends, if it holds a fifth of `min_events`
    longest_s: float = 0.1  # seconds; after these a packet is aligned with what it has
    slowest_s: float = 0.3  # seconds; as long as this may a packet be that rests or moves slowly
    rest_test: bool = True  # ask of each packet whether the camera moves at all; join short windows, halve uneven ones
    acceleration: bool = True  # estimate it too: a packet may then turn the corner of a motion
    exact: bool = True  # rotate bearings exactly, or to first order as in the paper
    reference: _Reference = "middle"  # warp to the middle of the packet, or to its first event
    r: float = 0.1  # shape of the Gamma prior of the rate; must stay below 1
    beta: float = 1.59  # its rate; changes the likelihood by a constant
    vote: VoteKernel = "quadratic"  # how an event is shared by the pixels around it; in the paper bilinear
    blur_sigma: float = 0.5  # pixels; of the blur that follows; in the paper 1
    border: int = 60  # pixels around the sensor
    remove_hot_pixels: bool = True  # of a recording: leave out the events of pixels that fire all the time
    remove_noise: bool = True  # of a recording: leave out events without neighbors, where the image shows much noise
    max_evaluations: int = 60
    device: Device = "cpu"
    """Of `align`, where images of packets are made: on a GPU (cuda) those of many pieces of a recording at a time, see
    `align_in_pieces`. An `Aligner` itself, and the trajectory between packets, work on the CPU."""

    def __post_init__(self) -> None:
        check_kinds(self)
        check_choices(self)
        most = np.inf if self.packet_events is None else self.packet_events
        if most < 1:
            raise ConfigError(f"packet_events {self.packet_events} must be at least 1")
        if self.min_events is not None and not 1 <= self.min_events <= most:
            raise ConfigError(f"min_events {self.min_events} must lie in 1..packet_events ({self.packet_events})")
        if not 0 < self.packet_s <= self.longest_s <= self.slowest_s:
            raise ConfigError(
                f"packet_s {self.packet_s} must be positive, at most longest_s {self.longest_s}, and that at most "
                f"slowest_s {self.slowest_s}"
            )
        if not 0 <= self.least_pixels < self.most_pixels:
            raise ConfigError(
                f"least_pixels {self.least_pixels} must not be negative, and be below most_pixels {self.most_pixels}"
            )
        if self.border < 0 or self.max_evaluations < 1:
            raise ConfigError(f"border {self.border} is negative, or max_evaluations {self.max_evaluations} below one")
        if not 0.2 <= self.blur_sigma <= 1.5:
            raise ConfigError(
                f"blur_sigma {self.blur_sigma} must lie in 0.2..1.5 pixels: the blur reaches two pixels, and less than "
                "0.2 blurs nothing"
            )
        if self.estimator == "trajectory" and (self.motion, self.objective, self.exact) != ("rotation", "st-ppp", True):
            raise ConfigError(
                "a velocity between knots is for an exact rotation and the likelihood; choose estimator 'packets'"
            )
        NegativeBinomial(self.r, self.beta)  # says what is wrong with r or beta

    @property
    def between_knots(self) -> bool:
        """Whether `align` estimates a velocity that is linear between knots, and not one for each packet."""
        return self.asks_focal_length if self.estimator is None else self.estimator == "trajectory"

    @property
    def asks_focal_length(self) -> bool:
        """Whether `align` asks packets if the focal length is right: those of an exact rotation, by the likelihood,
        with all that tells how far they can be trusted."""
        return self.rest_test and self.acceleration and (self.motion, self.objective, self.exact) == _ASKED

    @classmethod
    def paper(cls) -> "AlignConfig":
        """The protocol of the paper: 30,000 events, first order, warped to the first event, constant velocity,
        bilinear votes, a blur of one pixel, no test against rest, and all pixels."""
        return cls(
            packet_events=30_000,
            min_events=30_000,
            packet_s=np.inf,
            least_pixels=0.0,
            most_pixels=np.inf,
            longest_s=np.inf,
            slowest_s=np.inf,
            rest_test=False,
            acceleration=False,
            exact=False,
            reference="first",
            vote="bilinear",
            blur_sigma=1.0,
            remove_hot_pixels=False,
            remove_noise=False,
        )

    def cut(self, size: tuple[int, int]) -> Cut:
        """Where packets of a sensor of this size end."""
        pixels = size[0] * size[1]
        fewest = round(_FEWEST_PER_PIXEL * pixels) if self.min_events is None else self.min_events
        most = max(round(_MOST_PER_PIXEL * pixels), fewest) if self.packet_events is None else self.packet_events
        return Cut(
            fewest=max(1, min(fewest, most)),
            most=max(1, most),
            packet_s=self.packet_s,
            longest_s=self.longest_s,
            slowest_s=self.slowest_s,
            least_pixels=self.least_pixels,
            most_pixels=self.most_pixels,
        )
