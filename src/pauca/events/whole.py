"""The motion over a whole recording: its packets one by one, and the trajectory between knots."""

import logging
from collections.abc import Callable, Iterable, Iterator
from dataclasses import fields, replace
from functools import partial
from itertools import chain

import numpy as np
from jaxtyping import Bool

from pauca.errors import InputError
from pauca.events.adapters import EventsLike, HasNumpy, as_events
from pauca.events.alignment import Aligner
from pauca.events.camera import Camera
from pauca.events.continuous import WindowScorer, reconciled
from pauca.events.continuous import refine as refine_packets
from pauca.events.focal import ask_focal_length, telling_packets, widened
from pauca.events.given import expect, refusal
from pauca.events.hot_pixels import check_something_left, find_hot_pixels, remove_hot_pixels
from pauca.events.io import EventStream
from pauca.events.lending import map_lent, taken
from pauca.events.likelihood import NegativeBinomial
from pauca.events.noise import remove_noise
from pauca.events.passes import Clean, windows_of
from pauca.events.pieces import Workers, align_in_pieces
from pauca.events.recording import Recording, camera_of, events_of
from pauca.events.settings import AlignConfig
from pauca.events.shared import SharedEvents
from pauca.events.trajectory import Trajectory
from pauca.events.types import Alignment, Events, Status
from pauca.events.warp import Frame
from pauca.events.windows import joined

_log = logging.getLogger(__name__)

PIECE_EVENTS = 3_000_000
"""A long recording is refined in pieces of so many events, on large sensors of more: 42 MB, and as much again while
they are joined."""

_OVERLAP_US = 500_000  # of the pieces of a long recording: more than a window of knots
_OVERLAP_DENSITY = 8.0  # events for each pixel of the sensor, at most: where there are so many, knots lie close
_LEAST_DENSITY = 20.0  # of a piece


def cut_windows(events: Events | Recording, config: AlignConfig) -> Iterator[Events]:
    """Consecutive windows as `AlignConfig` describes them, which hold every event.

    `align` cuts by the motion as well: a packet ends at `packet_pixels`, and one that rests is extended.
    """
    events = events_of(events)
    cut, first = expect(config, AlignConfig).cut(events.size), 0
    while first < len(events):
        end = cut.end(events.t_us, first)
        yield events[first:end]
        first = end


cut_packets = cut_windows  # its name in 0.1: what it yields are windows of events; a `Packet` is made from each


def align_packets(
    recording: EventsLike,
    camera: Camera | None = None,
    config: AlignConfig | None = None,
) -> Iterator[Alignment]:
    """Alignments of a recording, one by one as they are found.

    Args:
        recording: what `read` returned, or events alone, also as an array of Metavision or dv-processing (see
            `as_events`). The events of hot pixels are left out, and their number is
            logged, unless `config.remove_hot_pixels` is False; background noise likewise (`config.remove_noise`).
        camera: calibration; not needed where the recording brought its own.
        config: the default `AlignConfig()` suits rotations; `AlignConfig.paper()` is the paper's protocol.
    """
    config = config or AlignConfig()
    events, camera = _events_and_camera(recording, camera, config)
    return _followed([events], camera, config)


def _followed(chunks: Iterable[Events], camera: Camera, config: AlignConfig) -> Iterator[Alignment]:
    aligner = Aligner(camera, config)
    if config.device == "cpu":
        return aligner.follow(chunks)
    return chain.from_iterable(align_in_pieces(chunks, aligner, Workers(1)))


def align(
    recording: EventsLike | EventStream,
    camera: Camera | None = None,
    config: AlignConfig | None = None,
    progress: Callable[[Alignment], None] | None = None,
) -> Trajectory:
    """Velocity of the camera over a whole recording: linear between the rows of the result, the knots, where
    `config.between_knots` (of rotations, by default), otherwise one for each packet. If the events contradict the
    camera's focal length, that is logged, and the covariances are as much larger (`ask_focal_length`).

    >>> trajectory = align(read("recording.npz"))
    >>> trajectory.to_csv("trajectory.csv")

    Args:
        recording: as for `align_packets`; or what `open_events` returned, which is read once for each step and need not
            fit into memory.
        camera: as for `align_packets`.
        config: as for `align_packets`.
        progress: called with each packet's alignment.

    Raises:
        InputError: where the camera is missing, of another size, or the recording is empty.
    """
    config = expect(config or AlignConfig(), AlignConfig)
    if isinstance(recording, EventStream):
        hot = find_hot_pixels(recording) if config.remove_hot_pixels else None
        if hot is not None:
            check_something_left(hot, recording.path.name)
        return align_chunks(Clean(recording, hot, config.remove_noise), camera_of(recording, camera), config, progress)
    events, camera = _events_and_camera(recording, camera, config)
    config = replace(config, remove_hot_pixels=False, remove_noise=False)  # they are gone
    alignments = []
    for alignment in align_packets(events, camera, config):
        alignments.append(alignment)
        if progress is not None:
            progress(alignment)
    trajectory = Trajectory.from_alignments(alignments)
    if can_refine(trajectory, config):
        trajectory = refine_stream([events], trajectory, camera, config)
    return _asked([events], alignments, trajectory, camera, config)


def align_chunks(
    chunks: Iterable[Events],
    camera: Camera,
    config: AlignConfig,
    progress: Callable[[Alignment], None] | None = None,
) -> Trajectory:
    """As `align`, of a recording that is read chunk by chunk. Hot pixels and noise are the caller's.

    Args:
        chunks: the events in order, something that can be gone through three times.
        camera: calibration.
        config: as for `align`.
        progress: called with each packet's alignment.
    """
    alignments = []
    for alignment in _followed(chunks, camera, config):
        alignments.append(alignment)
        if progress is not None:
            progress(alignment)
    trajectory = Trajectory.from_alignments(alignments)
    if can_refine(trajectory, config):
        trajectory = refine_stream(chunks, trajectory, camera, config)
    return _asked(chunks, alignments, trajectory, camera, config)


def _asked(
    chunks: Iterable[Events],
    packets: list[Alignment],
    trajectory: Trajectory,
    camera: Camera,
    config: AlignConfig,
) -> Trajectory:
    """The trajectory as wide as the focal length is doubtful, and a word about it."""
    if not config.asks_focal_length:
        return trajectory
    telling = telling_packets(packets, camera.fx)
    focal = ask_focal_length(((window, telling[i]) for i, window in windows_of(chunks, telling)), camera, config)
    if focal is not None and focal.doubtful:
        _log.warning("%s", focal.in_words())
    return widened(trajectory, focal)


def can_refine(packets: Trajectory, config: AlignConfig) -> bool:
    """Whether `align` goes on from packets to knots: one packet alone tells its mean velocity best."""
    return config.between_knots and len(packets) > 1


def refine(
    recording: EventsLike,
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
    config, packets = config or AlignConfig(), expect(packets, Trajectory)
    events, camera = _events_and_camera(recording, camera, config)
    if packets.motion != "rotation":
        raise InputError("refine: the trajectory is a translation; only rotations are estimated between packets")
    scorer, aligner = window_scorer(camera, config), Aligner(camera, config)
    knots = refine_packets(events, aligner.packet, packets, scorer, config.trajectory, progress)
    return reconciled(knots, packets, aligner.pixels)


def refine_stream(
    chunks: Iterable[Events],
    packets: Trajectory,
    camera: Camera,
    config: AlignConfig,
    progress: Callable[[int], None] | None = None,
    piece: int | None = None,
    workers: Workers | None = None,
) -> Trajectory:
    """As `refine`, of a recording that is read chunk by chunk: in pieces of so many events (`PIECE_EVENTS`), which
    overlap by half a second at most; in its middle one piece takes over from the other. The result is the same for any
    chunks and any number of workers. Hot pixels and noise are the caller's.
    """
    workers = workers or Workers(1)
    config = replace(config, remove_hot_pixels=False, remove_noise=False)
    seams_us: list[int] = []
    pixels = camera.size[0] * camera.size[1]
    size = piece or max(PIECE_EVENTS, round(_LEAST_DENSITY * pixels))
    pieces = _overlapping(chunks, packets, size, round(_OVERLAP_DENSITY * pixels), seams_us)
    if workers.count == 1:
        # `map` lets go of a piece before the next one is read.
        found = list(map(partial(_refine_piece, camera, config, progress), pieces))
    else:
        found = []
        work = partial(_refine_piece, camera, config, None)
        lent = (([events], partial(_with_packets, known)) for events, known in pieces)
        for part in map_lent(workers, work, lent, ahead=0):
            found.append(part)
            if progress is not None:
                progress(int(part.n_events.sum()))
    edges_us = np.array([-np.inf, *seams_us[: len(found) - 1], np.inf])
    return _joined(
        [_rows(part, (part.t_us > edges_us[i]) & (part.t_us <= edges_us[i + 1])) for i, part in enumerate(found)]
    )


def _overlapping(
    chunks: Iterable[Events], packets: Trajectory, size: int, most: int, seams_us: list[int]
) -> Iterator[tuple[Events, Trajectory]]:
    """Pieces of a recording with their packets; where one takes over from the other is added to the seams. At most
    `most` events are in two of them."""
    parts: list[Events] = []
    new = 0

    def with_packets(events: Events) -> tuple[Events, Trajectory]:
        return events, _rows(packets, (packets.end_us >= events.t_us[0]) & (packets.start_us <= events.t_us[-1]))

    for chunk in chunks:
        done = 0
        while new + len(chunk) - done >= size:  # a piece ends with an event, whatever the chunks are
            parts.append(chunk[done : done + size - new])
            done += size - new
            piece = joined(parts)
            end_us = int(piece.t_us[-1])
            start_us = max(end_us - _OVERLAP_US, int(piece.t_us[-min(most, len(piece))]))
            seams_us.append((start_us + end_us) // 2)
            parts, new = [_last_of(piece, start_us)], 0  # nothing else is held while a piece is refined
            yield with_packets(piece)
            del piece
        parts.append(chunk[done:])
        new += len(chunk) - done
    if new or not seams_us:
        yield with_packets(joined(parts))


def _last_of(events: Events, start_us: int) -> Events:
    """The events from a time on; a copy, which holds no others in memory."""
    late = events[int(np.searchsorted(events.t_us, start_us)) :]
    return Events(*(column.copy() for column in (late.t_us, late.x, late.y, late.p)), size=late.size)


def _refine_piece(
    camera: Camera,
    config: AlignConfig,
    progress: Callable[[int], None] | None,
    piece: tuple[Events | SharedEvents, Trajectory],
) -> Trajectory:
    events, known = piece
    return refine(taken(events), known, camera, config, progress)


def _with_packets(known: Trajectory, events: Events | SharedEvents) -> tuple[Events | SharedEvents, Trajectory]:
    return events, known


def _rows(trajectory: Trajectory, chosen: Bool[np.ndarray, "n"]) -> Trajectory:
    """Some rows of a trajectory."""
    at = np.flatnonzero(chosen)
    values = {part.name: getattr(trajectory, part.name) for part in fields(trajectory)}
    arrays = {name: value[at] for name, value in values.items() if isinstance(value, np.ndarray)}
    return replace(trajectory, **arrays, status=tuple(trajectory.status[i] for i in at))


def _joined(trajectories: list[Trajectory]) -> Trajectory:
    """One trajectory of several that follow each other."""
    if len(trajectories) == 1:
        return trajectories[0]
    names = [part.name for part in fields(Trajectory) if isinstance(getattr(trajectories[0], part.name), np.ndarray)]
    arrays = {name: np.concatenate([getattr(part, name) for part in trajectories]) for name in names}
    return replace(trajectories[0], **arrays, status=tuple(status for part in trajectories for status in part.status))


def compile_kernels(events: Events, camera: Camera, config: AlignConfig) -> None:
    """Align a few events, so that the time of compiling, once after installation, is not taken for that of the work."""
    config = replace(config, remove_hot_pixels=False, remove_noise=False)
    found = Aligner(camera, config).align(events)
    if config.between_knots and len(events) > 1:
        known = Trajectory.from_alignments([replace(found, status=Status.DISPUTED)])
        refine(events, known, camera, config)


def window_scorer(camera: Camera, config: AlignConfig) -> WindowScorer:
    """What scores windows between knots, under these settings."""
    pixel_score, frame = NegativeBinomial(config.r, config.beta), Frame(camera, config.border)
    return WindowScorer(frame, pixel_score, config.vote, config.blur_sigma, config.trajectory.unsigned)


def _events_and_camera(recording: EventsLike, camera: Camera | None, config: AlignConfig) -> tuple[Events, Camera]:
    config = expect(config, AlignConfig)
    if not isinstance(recording, Recording | Events):
        if not isinstance(recording, np.ndarray | HasNumpy):
            raise refusal(recording, "Recording")
        if camera is None:
            raise InputError("an array does not say its camera: give one, such as Camera.from_file('calib.txt')")
        recording = as_events(recording, expect(camera, Camera).size)
    if isinstance(recording, Events):
        recording = Recording(recording, camera)
    camera = camera_of(recording, camera)
    for wanted, remove in ((config.remove_hot_pixels, remove_hot_pixels), (config.remove_noise, remove_noise)):
        cleaned = remove(recording) if wanted else recording
        if cleaned is not recording:
            _log.warning("%s: %s", recording.name or "recording", cleaned.notes[-1])
        recording = cleaned
    return recording.events, camera
