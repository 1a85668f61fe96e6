"""Directions as pixels of a frame."""

import numpy as np
from jaxtyping import Float

from pauca.events.warp import Frame

_OUTSIDE = -1e6  # pixels


def project(rays: Float[np.ndarray, "n 3"], frame: Frame) -> tuple[np.ndarray, np.ndarray]:
    """Columns and rows of the frame, with fractions; what is not well in front of the camera ends up far outside."""
    fx, fy, cx, cy = frame.intrinsics
    ahead = rays[:, 2] > 0.1 * np.linalg.norm(rays, axis=1)
    depth = np.where(ahead, rays[:, 2], 1.0)
    column = np.where(ahead, fx * rays[:, 0] / depth + cx, _OUTSIDE)
    return column, fy * rays[:, 1] / depth + cy


def count_pixels(rays: Float[np.ndarray, "n 3"], frame: Frame) -> Float[np.ndarray, "h w"]:
    """How many of the directions lie in each pixel."""
    width, height = frame.size
    column, row = (np.rint(axis) for axis in project(rays, frame))
    inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    flat = row[inside].astype(np.int64) * width + column[inside].astype(np.int64)
    return np.bincount(flat, minlength=width * height).reshape(height, width).astype(float)
