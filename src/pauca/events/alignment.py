"""From events to velocities: cut a recording into packets, align each, warm-started from the one before."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from jaxtyping import Float

from pauca.errors import ConfigError, InputError
from pauca.events.camera import Camera, undistortion_table
from pauca.events.continuous import TrajectoryConfig, WindowScorer
from pauca.events.continuous import refine as refine_packets
from pauca.events.kernels.bearings import look_up_bearings, seconds_since
from pauca.events.likelihood import Contrast, NegativeBinomial, PixelScore
from pauca.events.newton import Optimum, Trial, maximise
from pauca.events.recording import Recording
from pauca.events.score import Scorer
from pauca.events.trajectory import Trajectory
from pauca.events.types import Alignment, Estimator, Events, Motion, Objective, Packet, Status, VoteKernel
from pauca.events.warp import Frame, Warp

_FEWEST_EVENTS = 50  # below, a packet is DEGENERATE: noise alone aligns as well
_STEP_PIXELS = 8.0  # longest step of the solver, as displacement of events at the ends of the packet
_FORGOTTEN = 5  # a packet that follows the last by more than so many times its duration starts from rest
_LOST_PIXELS = 1.0  # DEGENERATE from this standard deviation on: the likelihood knows nothing beyond its blur


@dataclass(frozen=True)
class AlignConfig:
    """How a recording is cut into packets, and what is maximised over which motion.

    A packet ends at `packet_events`, or earlier at `packet_s` if it holds `min_events` then, or at `longest_s` in any
    case: long packets would blur the reversals of the motion, and slow motion gives few events. Sensors with more
    pixels than the 240 x 180 of a DAVIS 240C want more events in proportion.
    """

    motion: Motion = "rotation"
    objective: Objective = "st-ppp"
    estimator: Estimator = "packets"  # a velocity for each packet, or one that is linear between knots
    trajectory: TrajectoryConfig = TrajectoryConfig()  # noqa: RUF009 - immutable; its knots, windows and prior
    packet_events: int = 30_000  # most events of a packet
    min_events: int = 10_000  # a packet waits for so many beyond `packet_s`
    packet_s: float = 0.02  # seconds
    longest_s: float = 0.1  # seconds; after these a packet is aligned with what it has
    acceleration: bool = True  # estimate it too: a packet may then turn the corner of a motion
    exact: bool = True  # rotate bearings exactly, or to first order as in the paper
    reference: Literal["middle", "first"] = "middle"  # warp to the middle of the packet, or to its first event
    r: float = 0.1  # shape of the Gamma prior of the rate; must stay below 1
    beta: float = 1.59  # its rate; changes the likelihood by a constant
    vote: VoteKernel = "bilinear"  # how an event is shared by the pixels around it
    blur_sigma: float = 1.0  # pixels; of the blur that follows
    border: int = 60  # pixels around the sensor
    max_evaluations: int = 60

    def __post_init__(self) -> None:
        if self.packet_events < 1:
            raise ConfigError(f"packet_events {self.packet_events} must be at least 1")
        if not 1 <= self.min_events <= self.packet_events:
            raise ConfigError(f"min_events {self.min_events} must lie in 1..packet_events ({self.packet_events})")
        if not 0 < self.packet_s <= self.longest_s:
            raise ConfigError(f"packet_s {self.packet_s} must be positive and at most longest_s {self.longest_s}")
        if self.border < 0 or self.max_evaluations < 1:
            raise ConfigError(f"border {self.border} is negative, or max_evaluations {self.max_evaluations} below one")
        if not 0.2 <= self.blur_sigma <= 1.5:
            raise ConfigError(
                f"blur_sigma {self.blur_sigma} must lie in 0.2..1.5 pixels: the blur reaches two pixels, and less than "
                "0.2 blurs nothing"
            )
        if self.estimator == "trajectory" and (self.motion, self.objective, self.exact) != ("rotation", "st-ppp", True):
            raise ConfigError(
                "estimator 'trajectory' is for exact rotations and the st-ppp likelihood; choose 'packets'"
            )
        NegativeBinomial(self.r, self.beta)  # says what is wrong with r or beta

    @classmethod
    def paper(cls) -> "AlignConfig":
        """The protocol of the paper: 30,000 events, first order, warped to the first event, constant velocity,
        bilinear votes and a blur of one pixel."""
        return cls(
            min_events=30_000,
            packet_s=np.inf,
            longest_s=np.inf,
            acceleration=False,
            exact=False,
            reference="first",
            vote="bilinear",
            blur_sigma=1.0,
        )


@dataclass(eq=False)
class Aligner:
    """Aligns packets one after the other, as they come: for a loop of one's own, or a live camera.

    >>> aligner = Aligner(camera)
    >>> for events in live:  # any windows of events
    ...     velocity = aligner.align(events).velocity
    """

    camera: Camera
    config: AlignConfig = AlignConfig()
    _scorer: Scorer = field(init=False, repr=False)
    _last: Alignment | None = field(default=None, init=False, repr=False)
    _shape: Float[np.ndarray, "k k"] | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        config = self.config
        pixel_score: PixelScore = NegativeBinomial(config.r, config.beta)
        if config.objective == "contrast":
            pixel_score = Contrast()
        warp = Warp(config.motion, config.exact)
        frame = Frame(self.camera, config.border)
        self._scorer = Scorer(frame, warp, pixel_score, config.vote, config.blur_sigma)

    def align(self, events: Events) -> Alignment:
        """Velocity of one packet. Never fails on the events of a stream: see `Alignment.status`.

        Raises:
            InputError: if the events are from a sensor of another size.
        """
        if events.size != self.camera.size:
            raise InputError(
                f"events are from a sensor of {events.size} pixels, but the camera is calibrated for {self.camera.size}"
            )
        packet = self.packet(events)
        if len(events) < _FEWEST_EVENTS or events.duration_us == 0:
            return self._remember(self._degenerate(packet))
        try:
            optimum = self._maximise(packet)
            alignment = self._alignment(packet, optimum)
        except np.linalg.LinAlgError:  # curvature of nothing but rounding errors
            return self._remember(self._degenerate(packet))
        return self._remember(alignment, optimum.shape)

    def packet(self, events: Events) -> Packet:
        """Bearings and relative times of the events."""
        start = int(events.t_us[0]) if len(events) else 0
        t_ref_us = start + (events.duration_us // 2 if self.config.reference == "middle" else 0)
        x, y, dt_s = np.empty((3, len(events)), np.float32)
        if events.undistorted:
            fx, fy, cx, cy = self.camera.intrinsics
            x[:], y[:] = (events.x - cx) / fx, (events.y - cy) / fy
        else:
            look_up_bearings(events.x, events.y, undistortion_table(self.camera), x, y)
        seconds_since(events.t_us, t_ref_us, dt_s)
        return Packet(x, y, dt_s, events.p, t_ref_us, start, start + events.duration_us)

    def score(self, events: Events, velocity: Float[np.ndarray, "k"]) -> float:
        """What `align` maximises, at a constant velocity of one's own: to compare with the score it found."""
        return self._scorer(self.packet(events), velocity).value

    def images(self, events: Events, alignment: Alignment | None = None) -> Float[np.ndarray, "2 height width"]:
        """Images of the events, OFF and ON, warped by an alignment, or as they are: undistorted, with the border."""
        packet = self.packet(events)
        if alignment is None:
            return self._scorer.images(packet, np.zeros(self._scorer.warp.parameters))
        return self._scorer.images(packet, alignment.velocity, alignment.acceleration)

    def _parameters(self) -> int:
        return self._scorer.warp.parameters * (2 if self.config.acceleration else 1)

    def _maximise(self, packet: Packet) -> Optimum:
        parameters = self._parameters()
        return maximise(
            lambda point: self._evaluate(packet, point),
            self._start(packet)[:parameters],
            reach=_STEP_PIXELS / self._pixels_moved(packet)[:parameters],
            shape=self._shape,
            observed=self._scorer.warp.parameters,
            max_evaluations=self.config.max_evaluations,
        )

    def _evaluate(self, packet: Packet, point: np.ndarray) -> Trial:
        k, n = self._scorer.warp.parameters, len(point)
        score = self._scorer(packet, point[:k], point[k:] if n > k else None)
        return Trial(score.value, score.gradient[:n], score.fisher[:n, :n])

    def _pixels_moved(self, packet: Packet) -> np.ndarray:
        """Pixels by which one unit of each parameter moves an event at the end of the packet."""
        k = self._scorer.warp.parameters
        longest_s = max(packet.end_us - packet.t_ref_us, packet.t_ref_us - packet.start_us) * 1e-6
        return self.camera.fx * np.repeat([longest_s, longest_s**2 / 2], k)

    def _start(self, packet: Packet) -> np.ndarray:
        """Velocity and acceleration expected of this packet: the last one's, or rest."""
        k = self._scorer.warp.parameters
        last = self._last
        if last is None or last.status is Status.DEGENERATE:
            return np.zeros(2 * k)
        elapsed_us = packet.t_ref_us - last.t_us
        if not 0 <= elapsed_us <= _FORGOTTEN * (last.end_us - last.start_us):
            return np.zeros(2 * k)
        return np.concatenate([last.velocity + elapsed_us * 1e-6 * last.acceleration, last.acceleration])

    def _alignment(self, packet: Packet, optimum: Optimum) -> Alignment:
        k, n = self._scorer.warp.parameters, len(optimum.point)
        covariance, status = np.full((k, k), np.inf), optimum.status
        if status is not Status.DEGENERATE:
            covariance = np.linalg.inv(optimum.information)[:k, :k]
            if np.sqrt(np.diag(covariance).max()) * self._pixels_moved(packet)[0] > _LOST_PIXELS:
                status = Status.DEGENERATE
        middle_us = (packet.start_us + packet.end_us) // 2
        return Alignment(
            motion=self.config.motion,
            t_us=packet.t_ref_us if self.config.acceleration else middle_us,
            velocity=optimum.point[:k],
            acceleration=optimum.point[k:] if n > k else np.zeros(k),
            covariance=covariance,
            score=optimum.value,
            status=status,
            evaluations=optimum.evaluations,
            t_ref_us=packet.t_ref_us,
            start_us=packet.start_us,
            end_us=packet.end_us,
            n_events=len(packet),
        )

    def _degenerate(self, packet: Packet) -> Alignment:
        """The answer where there is nothing to align: rest, infinitely uncertain."""
        still = np.zeros(self._parameters())
        nothing = np.zeros((len(still), len(still)))
        return self._alignment(packet, Optimum(still, 0.0, nothing, nothing, Status.DEGENERATE, 0))

    def _remember(self, alignment: Alignment, shape: np.ndarray | None = None) -> Alignment:
        self._last, self._shape = alignment, None if alignment.status is Status.DEGENERATE else shape
        return alignment


def cut_windows(events: Events, config: AlignConfig) -> Iterator[Events]:
    """Consecutive windows as `AlignConfig` describes them; a rest at the end with fewer than `min_events` is left out,
    unless it is all there is."""
    first = 0
    while first < len(events):
        by_time = _events_within(events, first, config.packet_s)
        at_latest = _events_within(events, first, config.longest_s)
        end = min(first + config.packet_events, max(by_time, first + config.min_events), at_latest)
        if end < len(events) or first == 0 or end - first >= config.min_events:
            yield events[first:end]
        first = end


cut_packets = cut_windows  # its name in 0.1: what it yields are windows of events; a `Packet` is made from each


def _events_within(events: Events, first: int, seconds: float) -> int:
    """Index of the first event so many seconds after event `first`."""
    if not np.isfinite(seconds):
        return len(events)
    return int(np.searchsorted(events.t_us, events.t_us[first] + round(seconds * 1e6)))


def align_packets(
    recording: Recording | Events, camera: Camera | None = None, config: AlignConfig | None = None
) -> Iterator[Alignment]:
    """Alignments of a recording, one by one as they are found.

    Args:
        recording: what `read` returned, or events alone.
        camera: calibration; not needed where the recording brought its own.
        config: the default `AlignConfig()` suits rotations; `AlignConfig.paper()` is the paper's protocol.
    """
    events, camera = _events_and_camera(recording, camera)
    aligner = Aligner(camera, config or AlignConfig())
    for window in cut_windows(events, aligner.config):
        yield aligner.align(window)


def align(
    recording: Recording | Events,
    camera: Camera | None = None,
    config: AlignConfig | None = None,
    progress: Callable[[Alignment], None] | None = None,
) -> Trajectory:
    """Velocity of the camera over a whole recording.

    >>> trajectory = align(read("recording.npz"))
    >>> trajectory.to_csv("trajectory.csv")

    Args:
        recording: as for `align_packets`.
        camera: as for `align_packets`.
        config: as for `align_packets`.
        progress: called with each alignment.

    Raises:
        InputError: where the camera is missing, of another size, or the recording is empty.
    """
    config = config or AlignConfig()
    alignments = []
    for alignment in align_packets(recording, camera, config):
        alignments.append(alignment)
        if progress is not None:
            progress(alignment)
    trajectory = Trajectory.from_alignments(alignments)
    return refine(recording, trajectory, camera, config) if config.estimator == "trajectory" else trajectory


def refine(
    recording: Recording | Events,
    packets: Trajectory,
    camera: Camera | None = None,
    config: AlignConfig | None = None,
    progress: Callable[[int], None] | None = None,
) -> Trajectory:
    """Velocity as a function of time, linear between the rows of the result, from the velocities of packets.

    Args:
        recording: as for `align_packets`.
        packets: what the packets of this recording gave; it places the knots, and the search begins there.
        camera: as for `align_packets`.
        config: as for `align_packets`.
        progress: called with how many more events are done with.

    Raises:
        InputError: where the camera is missing, or the packets are of a translation.
    """
    events, camera = _events_and_camera(recording, camera)
    config = config or AlignConfig()
    if packets.motion != "rotation":
        raise InputError("refine: the trajectory is a translation; only rotations are estimated between packets")
    pixel_score = NegativeBinomial(config.r, config.beta)
    frame = Frame(camera, config.border)
    scorer = WindowScorer(frame, pixel_score, config.vote, config.blur_sigma, config.trajectory.unsigned)
    return refine_packets(events, Aligner(camera, config).packet, packets, scorer, config.trajectory, progress)


def _events_and_camera(recording: Recording | Events, camera: Camera | None) -> tuple[Events, Camera]:
    events = recording.events if isinstance(recording, Recording) else recording
    if camera is None and isinstance(recording, Recording):
        camera = recording.camera
    if camera is None:
        raise InputError("the recording does not say its camera: give one, such as Camera.from_file('calib.txt')")
    return events, camera
