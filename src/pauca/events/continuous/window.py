"""The score of a window of events, and its derivatives by the velocities of the camera at the window's knots."""

from dataclasses import dataclass, field, replace

import numpy as np
from jaxtyping import Float, Int64, UInt8

from pauca.events.continuous.groups import directions_of_motion
from pauca.events.kernels.blend import add_images, blend_slopes
from pauca.events.kernels.cells import assign_cells, rotate_cells, sum_cells
from pauca.events.kernels.image_pass import score_image
from pauca.events.kernels.knots import integrate, project_knots
from pauca.events.likelihood import PixelScore, tabulate
from pauca.events.newton import Trial
from pauca.events.score import KERNELS, PAD, blur_taps, empty
from pauca.events.types import VoteKernel
from pauca.events.warp import Frame

CELL_S = 0.5e-3  # longest cell in which rotations are interpolated


@dataclass(frozen=True, eq=False)
class Window:
    """Bearings of events in order of time, in cells, and the knots between which the velocity is linear."""

    x: Float[np.ndarray, "n"]  # float32, focal lengths right of the optical axis
    y: Float[np.ndarray, "n"]  # float32, focal lengths below it
    image: UInt8[np.ndarray, "n"]  # which image an event votes into
    images: int  # how many there are: two for each direction of motion
    fraction: Float[np.ndarray, "n"]  # float32, place in the event's cell
    first: Int64[np.ndarray, "edges"]  # first event of each cell
    basis: Float[np.ndarray, "edges knots"]  # share of each knot in the velocity at the edges of the cells
    step_s: float  # length of a cell
    weight: float = 1.0  # events for each that is here

    @classmethod
    def from_events(
        cls,
        t_us: Int64[np.ndarray, "n"],
        x: Float[np.ndarray, "n"],
        y: Float[np.ndarray, "n"],
        p: UInt8[np.ndarray, "n"],
        knots_us: Float[np.ndarray, "knots"],
        weight: float = 1.0,
    ) -> "Window":
        """Events between the first and the last knot; one image for OFF and one for ON events."""
        start_us, length_us = knots_us[0], knots_us[-1] - knots_us[0]
        cells = max(1, int(np.ceil(length_us * 1e-6 / CELL_S)))
        fraction, first = np.empty(len(x), np.float32), np.empty(cells + 1, np.int64)
        assign_cells(t_us, float(start_us), float(length_us / cells), fraction, first)
        edges = start_us + length_us * np.linspace(0, 1, cells + 1)
        basis = np.stack([np.interp(edges, knots_us, knot) for knot in np.eye(len(knots_us))], axis=1)
        return cls(x, y, p, 2, fraction, first, basis, float(length_us / cells * 1e-6), weight)

    @property
    def reference(self) -> int:
        """Edge at which events stay where they were seen."""
        return len(self.basis) // 2

    def grouped(self, velocity: Float[np.ndarray, "knots 3"], turn_deg: float) -> "Window":
        """The window with images of their own for the directions of this motion, where it turns."""
        group = directions_of_motion(self.basis @ velocity, turn_deg)[:-1]
        if group[-1] == 0:
            return replace(self, image=self.image & 1, images=2)
        polarity = self.image & 1
        image = (polarity + 2 * np.repeat(group, np.diff(self.first))).astype(np.uint8)
        return replace(self, image=image, images=2 * int(group[-1] + 1))

    def alike(self, other: "Window", share: float) -> bool:
        """Whether at most a share of the events is in another image."""
        return self.images == other.images and float(np.mean(self.image != other.image)) <= share


@dataclass(frozen=True, eq=False)
class WindowScorer:
    """Scores motions of one camera over windows; holds the images, so that nothing is allocated for each."""

    frame: Frame
    pixel_score: PixelScore
    vote: VoteKernel
    blur_sigma: float
    unsigned: float  # weight of the image of all events where there are several groups
    _arrays: dict[str, np.ndarray] = field(init=False, repr=False, default_factory=dict)

    def __call__(self, window: Window, velocity: Float[np.ndarray, "knots 3"]) -> Trial:
        """Score, its gradient by the velocities (x, y, z of the first knot, then of the second) and Fisher matrix."""
        n, edges = len(window.x), len(window.basis)
        rotations = np.empty((edges, 3, 3))
        integrate(window.basis @ velocity, window.step_s, window.reference, rotations)
        frame = tuple(np.float32(value) for value in self.frame.intrinsics)
        warp_x, warp_y, slope_x, slope_y = np.empty((4, n), np.float32)
        rotate_cells(
            window.x, window.y, window.fraction, window.first, rotations.astype(np.float32), frame, warp_x, warp_y
        )
        vote, gather = KERNELS[self.vote]
        images = self._stack("images", window.images)
        lost, *box = vote(warp_x, warp_y, window.image, PAD, images)
        value = 0.0
        if lost < n:
            value = self._score(images, tuple(box))
            gather(warp_x, warp_y, window.image, PAD, images, slope_x, slope_y)
            empty(images, box)
        else:
            slope_x[:], slope_y[:] = 0, 0
        by_edge, by_cell = np.empty((edges, 3)), np.empty((edges - 1, 6))
        sum_cells(warp_x, warp_y, slope_x, slope_y, window.fraction, window.first, frame, by_edge, by_cell)
        gradient, fisher = np.empty(velocity.size), np.empty((velocity.size, velocity.size))
        project_knots(rotations, window.basis, window.step_s, window.reference, by_edge, by_cell, gradient, fisher)
        return Trial(value, gradient, fisher, (warp_x, warp_y, slope_x, slope_y))

    def _score(self, images: np.ndarray, box: tuple[int, ...]) -> float:
        """Score relative to an empty image; images become slopes."""
        table, taps, common = tabulate(self.pixel_score), blur_taps(self.blur_sigma), self._stack("common", 1)
        mixed = len(images) > 2
        if mixed:
            add_images(images, box, PAD, common[0])
        apart = 0.0
        for image in images:
            apart += score_image(image, PAD, box, taps, *table)
        if not mixed:
            return float(apart)
        together = score_image(common[0], PAD, box, taps, *table)
        blend_slopes(images, common[0], np.float32(self.unsigned), box, PAD)
        empty(common, box)
        return float(self.unsigned * together + (1 - self.unsigned) * apart)

    def _stack(self, name: str, count: int) -> np.ndarray:
        """Empty images of the frame with its margin, float32 [count, height, width]; to be emptied after use."""
        stack = self._arrays.get(name)
        if stack is None or len(stack) < count:
            width, height = self.frame.size
            stack = self._arrays[name] = np.zeros((count, height + 2 * PAD, width + 2 * PAD), np.float32)
        return stack[:count]
