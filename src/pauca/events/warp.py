"""Where each event would have been seen at the reference time, for a given motion of the camera."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from pauca.events.camera import Camera
from pauca.events.kernels.chain import chain_rotate, chain_rotate_first_order, chain_translate
from pauca.events.kernels.warp import rotate, rotate_first_order, translate
from pauca.events.types import Motion, Packet

_Scalars = tuple[np.float32, ...]

_WARPS = {
    ("rotation", True): (rotate, chain_rotate),
    ("rotation", False): (rotate_first_order, chain_rotate_first_order),
    ("translation", True): (translate, chain_translate),
    ("translation", False): (translate, chain_translate),
}


@dataclass(frozen=True)
class Frame:
    """The image that warped events vote into: the sensor and a border around it, undistorted."""

    camera: Camera
    border: int = 60  # pixels; undistortion alone moves the corners of a DAVIS 240C by 38

    @property
    def size(self) -> tuple[int, int]:
        """Width and height, border included."""
        return self.camera.size[0] + 2 * self.border, self.camera.size[1] + 2 * self.border

    @property
    def intrinsics(self) -> tuple[float, float, float, float]:
        """fx, fy, cx, cy in pixels of the frame."""
        fx, fy, cx, cy = self.camera.intrinsics
        return fx, fy, cx + self.border, cy + self.border


@dataclass(frozen=True)
class Warp:
    """A kind of motion: rotation (exact, or to first order as in the paper), or translation parallel to the image."""

    motion: Motion = "rotation"
    exact: bool = True

    @property
    def parameters(self) -> int:
        """Components of the velocity, and of the acceleration."""
        return 3 if self.motion == "rotation" else 2

    def apply(
        self,
        packet: Packet,
        frame: Frame,
        velocity: Float[np.ndarray, "k"],
        acceleration: Float[np.ndarray, "k"] | None = None,
    ) -> Float[np.ndarray, "2 n"]:
        """Pixels of the frame (x, y), float32, at which the events fall together if the camera moved like this.

        Args:
            packet: the events.
            frame: where to project them.
            velocity: rad/s, or focal lengths per second, at the packet's reference time.
            acceleration: its change per second.
        """
        warped = np.empty((2, len(packet)), np.float32)
        kernel, _ = _WARPS[self.motion, self.exact]
        v, a, f = self._scalars(velocity, acceleration, frame)
        kernel(packet.x, packet.y, packet.dt_s, v, a, f, warped[0], warped[1])
        return warped

    def slopes_by_motion(
        self,
        packet: Packet,
        frame: Frame,
        velocity: Float[np.ndarray, "k"],
        acceleration: Float[np.ndarray, "k"] | None,
        warped: Float[np.ndarray, "2 n"],
        slopes: Float[np.ndarray, "2 n"],
    ) -> Float[np.ndarray, "k n"]:
        """Chain rule: slopes by the warped pixels to slopes by each event's own rotation vector or shift."""
        out = np.empty((self.parameters, len(packet)), np.float32)
        _, kernel = _WARPS[self.motion, self.exact]
        v, a, f = self._scalars(velocity, acceleration, frame)
        kernel(packet.x, packet.y, packet.dt_s, v, a, f, warped[0], warped[1], slopes[0], slopes[1], out)
        return out

    def _scalars(
        self, velocity: np.ndarray, acceleration: np.ndarray | None, frame: Frame
    ) -> tuple[_Scalars, _Scalars, _Scalars]:
        """Tuples of float32, which the kernels hold in registers."""
        still = np.zeros(self.parameters)
        vectors = (velocity, still if acceleration is None else acceleration, frame.intrinsics)
        v, a, f = (tuple(np.asarray(vector, np.float32)) for vector in vectors)
        return v, a, f
