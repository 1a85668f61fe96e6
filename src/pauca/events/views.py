"""Views: windows that follow each other, each aligned by its own motion, registered to one sharp image.

One window shows only the edges across its motion, and too few events of them. A view puts the windows of a third of a
second on top of each other: where each belongs follows from the motion so far, corrected by the image itself.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float
from scipy.fft import next_fast_len
from scipy.ndimage import gaussian_filter, map_coordinates
from scipy.spatial.transform import Rotation

from pauca.errors import ConfigError
from pauca.events.adapters import EventsLike, as_events
from pauca.events.alignment import Aligner
from pauca.events.given import check_kinds, expect
from pauca.events.types import Alignment, Events, Status
from pauca.events.warp import Frame

_CORRECTED = 0.08  # of the longer side: how far the image may correct the place that follows from the motion
_BLUR = 1.0  # pixels; two windows of one thing never show the very same pixels
_FEWEST = 100  # events in both images, below which there is nothing to correct by


@dataclass(frozen=True)
class ViewConfig:
    """When a view ends and the next begins."""

    longest_s: float = 0.35
    """Seconds from its first event to its last."""
    farthest: float = 0.35
    """How far the image may move from where it was in the first window, as a share of the sensor's longer side."""
    correct: bool = True
    """Correct the place of a window by the image of those before it; without it errors of the motion add up."""

    def __post_init__(self) -> None:
        check_kinds(self)
        if not self.longest_s > 0 or not self.farthest > 0:
            raise ConfigError(f"longest_s {self.longest_s} and farthest {self.farthest} of a view must be positive")


@dataclass(frozen=True, eq=False)
class View:
    """What the sensor saw over several windows, as it stood in the first of them."""

    images: Float[np.ndarray, "2 height width"]  # OFF and ON events a pixel, float32: undistorted, with the border
    unaligned: Float[np.ndarray, "2 height width"]  # the same events where the sensor saw them
    alignments: tuple[Alignment, ...]  # of its windows

    @property
    def start_us(self) -> int:
        return self.alignments[0].start_us

    @property
    def end_us(self) -> int:
        return self.alignments[-1].end_us

    @property
    def n_events(self) -> int:
        return sum(alignment.n_events for alignment in self.alignments)

    @property
    def trusted(self) -> float:
        """Share of the events that lie in windows whose motion is trusted."""
        return sum(a.n_events for a in self.alignments if a.status.trusted) / max(self.n_events, 1)


@dataclass(eq=False)
class ViewBuilder:
    """Puts windows together to views as they come.

    >>> aligner = Aligner(camera)
    >>> builder = ViewBuilder(aligner)
    >>> for window in live:
    ...     for alignment in aligner.align_all(window):
    ...         finished = builder.add(window.between(alignment.start_us, alignment.end_us + 1), alignment)
    """

    aligner: Aligner
    config: ViewConfig = ViewConfig()
    _pose: "_Pose" = field(init=False, repr=False)
    _images: Float[np.ndarray, "2 h w"] = field(init=False, repr=False)
    _unaligned: Float[np.ndarray, "2 h w"] = field(init=False, repr=False)
    _alignments: list[Alignment] = field(default_factory=list, init=False, repr=False)

    def __post_init__(self) -> None:
        self._frame = Frame(self.aligner.camera, self.aligner.config.border)
        self._begin()

    @property
    def view(self) -> View | None:
        """The view as far as it has come; None before the first window."""
        if not self._alignments:
            return None
        return View(self._images.copy(), self._unaligned.copy(), tuple(self._alignments))

    def add(self, events: Events, alignment: Alignment) -> View | None:
        """Add the window that an alignment speaks of; the view before it, if that has ended there."""
        finished = None
        self._pose.advance(alignment)
        if self._alignments and self._ends(alignment):
            finished = self.view
            self._begin()
            self._pose.advance(alignment)
        images = self._registered(self.aligner.images(events, alignment if _found(alignment) else None))
        self._images += images
        self._unaligned += self.aligner.images(events)
        self._alignments.append(alignment)
        return finished

    def _begin(self) -> None:
        width, height = self._frame.size
        self._pose = _Pose(self._frame, self.aligner.config.motion == "rotation")
        self._images, self._unaligned = np.zeros((2, 2, height, width), np.float32)
        self._alignments = []

    def _ends(self, alignment: Alignment) -> bool:
        late = alignment.end_us - self._alignments[0].start_us > self.config.longest_s * 1e6
        return late or self._pose.moved > self.config.farthest * max(self.aligner.camera.size)

    def _registered(self, images: Float[np.ndarray, "2 h w"]) -> Float[np.ndarray, "2 h w"]:
        """The window's images where the view has them."""
        if not self._alignments:
            return images
        placed = self._pose.placed(images)
        before = self._images.sum(0)
        if not self.config.correct or min(placed.sum(), before.sum()) < _FEWEST:
            return placed
        reach = max(1, round(_CORRECTED * max(self.aligner.camera.size)))
        shift = _best_shift(before, placed.sum(0), reach)
        if not shift.any():
            return placed
        self._pose.correct(shift)
        return self._pose.placed(images)


def views(aligner: Aligner, events: EventsLike, config: ViewConfig | None = None) -> Iterator[View]:
    """The views of a whole stream, one after the other; every event is in one of them.

    >>> recording = read("recording.npz")
    >>> views = list(views(Aligner(camera), recording.events))

    Args:
        aligner: aligns the windows; its camera and settings are those of the views.
        events: the stream.
        config: when a view ends.
    """
    events = as_events(events, expect(aligner, Aligner).camera.size)
    builder = ViewBuilder(aligner, config or ViewConfig())
    for alignment in aligner.follow(events):
        window = events.between(alignment.start_us, alignment.end_us + 1)
        if (finished := builder.add(window, alignment)) is not None:
            yield finished
    if (last := builder.view) is not None:
        yield last


def _found(alignment: Alignment) -> bool:
    return alignment.status not in (Status.DEGENERATE, Status.STALLED)


@dataclass
class _Pose:
    """How the camera stands, or where the image has moved, since the first window; and how images are placed by it."""

    frame: Frame
    rotates: bool
    turned: Rotation = field(default_factory=Rotation.identity)
    shift: Float[np.ndarray, "2"] = field(default_factory=lambda: np.zeros(2))  # pixels x, y that the image has moved
    _t_us: int | None = None
    _velocity: Float[np.ndarray, "k"] | None = None

    @property
    def moved(self) -> float:
        """Pixels by which the middle of the image has moved."""
        fx, fy, *_ = self.frame.intrinsics
        x, y, _ = self.turned.as_rotvec()
        return float(np.hypot(self.shift[0] - fx * y, self.shift[1] + fy * x))

    def advance(self, alignment: Alignment) -> None:
        """Move on to the reference time of a window; what was not found goes on as before."""
        velocity = alignment.velocity if _found(alignment) or self._velocity is None else self._velocity
        if self._t_us is not None and self._velocity is not None:
            seconds = (alignment.t_ref_us - self._t_us) * 1e-6
            step = seconds * (velocity + self._velocity) / 2
            if self.rotates:
                self.turned = self.turned * Rotation.from_rotvec(step)
            else:
                self.shift = self.shift + step * self.frame.intrinsics[:2]
        self._t_us, self._velocity = alignment.t_ref_us, velocity

    def correct(self, shift: Float[np.ndarray, "2"]) -> None:
        """Take in by how many pixels (x, y) more an image must be moved to fit those before it."""
        fx, fy, *_ = self.frame.intrinsics
        if self.rotates:
            self.turned = Rotation.from_rotvec([-shift[1] / fy, shift[0] / fx, 0.0]) * self.turned
        else:
            self.shift = self.shift - shift

    def placed(self, images: Float[np.ndarray, "2 h w"]) -> Float[np.ndarray, "2 h w"]:
        """Images of the window as the camera would have had them in the first one."""
        height, width = images.shape[1:]
        y, x = np.mgrid[0:height, 0:width].astype(np.float32)
        if self.rotates:
            fx, fy, cx, cy = self.frame.intrinsics
            rays = np.stack([(x - cx) / fx, (y - cy) / fy, np.ones_like(x)])
            seen = np.tensordot(self.turned.as_matrix().T, rays, 1)
            depth = np.maximum(seen[2], 1e-6)
            x, y = fx * seen[0] / depth + cx, fy * seen[1] / depth + cy
        else:
            x, y = x + self.shift[0], y + self.shift[1]
        return np.stack([map_coordinates(image, [y, x], order=1, output=np.float32) for image in images])


def _best_shift(
    fixed: Float[np.ndarray, "h w"], moving: Float[np.ndarray, "h w"], reach: int
) -> Float[np.ndarray, "2"]:
    """Pixels (x, y), within `reach`, by which the second image falls best on the first."""
    shape = [int(next_fast_len(side + reach, real=True) or side + reach) for side in fixed.shape]
    # The root, so that a few bright pixels do not decide.
    a, b = (np.fft.rfft2(gaussian_filter(np.sqrt(image), _BLUR), shape) for image in (fixed, moving))
    found = np.roll(np.fft.irfft2(a * b.conj(), shape), (reach, reach), (0, 1))[: 2 * reach + 1, : 2 * reach + 1]
    y, x = (int(place) for place in np.unravel_index(int(found.argmax()), found.shape))
    if {x, y} & {0, 2 * reach}:
        return np.zeros(2)  # no peak within reach
    peak = x + _vertex(found[y, x - 1 : x + 2]), y + _vertex(found[y - 1 : y + 2, x])
    return np.array(peak) - reach


def _vertex(three: Float[np.ndarray, "3"]) -> float:
    """Where the parabola through three values has its top, from the middle one, which is the largest."""
    left, middle, right = three.tolist()
    bend = left - 2 * middle + right
    return 0.5 * (left - right) / bend if bend < 0 else 0.0
