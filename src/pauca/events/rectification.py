"""Maps of rectified pixels (DSEC's `rectify_map.h5`): the lens that a map was made with, found by fitting it.

A map says where each pixel of the sensor lies in the rectified image. It holds the lens and a rotation, but not the
focal length of that image: DSEC writes it to `cam_to_cam.yaml`, as camera `camRect0` (left) or `camRect3` (right).
"""

from pathlib import Path

import numpy as np
from jaxtyping import Float, Num
from scipy.optimize import least_squares
from scipy.spatial.transform import Rotation

from pauca.errors import InputError
from pauca.events.lens import LensModel, distort

HDF5_MAGIC = b"\x89HDF\r\n\x1a\n"
CALIBRATION = "cam_to_cam.yaml"

_POINTS = 2000  # of the map that are fitted: a lens has nine numbers
_FARTHEST = 1e5  # pixels from the rectified image's corner
_LONGEST = 1 << 13  # pixels to a side of a sensor
_WORST_PIXELS = 0.5  # a map that no lens explains better was made with something else
_WIDEST = 0.9 * np.pi / 2  # the angle that the corners of a fisheye may see


def read_map(path: Path) -> Num[np.ndarray, "height width 2"]:
    """The map of an HDF5 file: where each pixel lies in the rectified image (x, y).

    Raises:
        InputError: a damaged file, or one without such a map.
    """
    import h5py  # here: it takes long to load, and maps are rare

    try:
        with h5py.File(path, "r") as file:
            found = file.get("rectify_map")
            shape, kind = getattr(found, "shape", ()), getattr(getattr(found, "dtype", None), "kind", "")
            if (
                not isinstance(found, h5py.Dataset)
                or len(shape) != 3
                or shape[2] != 2
                or kind != "f"
                or max(shape) > _LONGEST
            ):
                raise InputError(
                    f"{path}: HDF5 without `rectify_map` of height x width x 2; expected DSEC's rectify_map.h5, or a "
                    "calibration as text, YAML or XML"
                )
            return found[()]
    except (OSError, RuntimeError, KeyError, ValueError) as error:
        raise InputError(f"{path}: damaged, cannot be read as HDF5 ({str(error)[:120]}); copy it again") from None


def calibration_beside(path: Path) -> Path:
    """DSEC's calibration of a map: in its folder, or up to three folders above, there or in `*calibration*`.

    Raises:
        InputError: where there is none.
    """
    for folder in list(path.absolute().parents)[:4]:
        found = [folder / CALIBRATION, *sorted(folder.glob(f"*calibration*/{CALIBRATION}"))]
        for candidate in found:
            if candidate.is_file():
                return candidate
    raise InputError(
        f"{path}: a map of rectified pixels holds no focal length, and its {CALIBRATION} is neither beside it nor in "
        f"the folders above; give {CALIBRATION} itself, or copy it beside the map"
    )


def rectified_name(path: Path) -> str:
    """The camera of a DSEC map in its calibration, by the folder of the map: the left one or the right one."""
    return "camRect3" if "right" in str(path.absolute().parent).lower() else "camRect0"


def fit_lens(
    table: Num[np.ndarray, "height width 2"],
    rectified: tuple[float, float, float, float],
    where: Path,
) -> tuple[LensModel, Float[np.ndarray, "9"]]:
    """The lens of a camera, from where its pixels lie in a rectified image.

    The camera looks along its own axis: how the rectified image is turned against it is found, and taken out.

    Args:
        table: x and y in the rectified image of each pixel of the sensor.
        rectified: fx, fy, cx, cy of the rectified image.
        where: the file, for messages.

    Returns:
        The lens model, and fx, fy, cx, cy with its five coefficients.

    Raises:
        InputError: where no lens makes such a map, to half a pixel.
    """
    height, width = table.shape[:2]
    step = max(1, round(np.sqrt(height * width / _POINTS)))
    v, u = (axis.ravel().astype(float) for axis in np.mgrid[0:height:step, 0:width:step])
    points = table[::step, ::step].reshape(-1, 2).astype(float)
    known = (np.abs(points) < _FARTHEST).all(axis=1)  # and no NaN
    if np.count_nonzero(known) < 100:
        raise InputError(f"{where}: too few pixels of the map ({np.count_nonzero(known)}) are finite numbers")
    u, v, points = u[known], v[known], points[known]
    fx, fy, cx, cy = rectified
    rays = np.stack([(points[:, 0] - cx) / fx, (points[:, 1] - cy) / fy, np.ones(len(points))], axis=1)
    tried = [_fit(rays, u, v, model, rectified) for model in ("radtan", "equidistant")]
    worst, lens, numbers = min(tried, key=lambda each: each[0])
    if not worst < _WORST_PIXELS:
        raise InputError(
            f"{where}: no lens (radtan, equidistant) explains this map of rectified pixels: the best is {worst:.1f} "
            "pixels off; it must say where each pixel of the sensor lies in the rectified image of its calibration"
        )
    return lens, numbers


def _fit(
    rays: np.ndarray, u: np.ndarray, v: np.ndarray, model: LensModel, start: tuple[float, float, float, float]
) -> tuple[float, LensModel, np.ndarray]:
    """Largest distance in pixels, the model, and its numbers."""
    free = 5 if model == "radtan" else 4
    scale = max(np.ptp(u), np.ptp(v))  # so that all unknowns are of size one

    def misses(unknown: np.ndarray) -> np.ndarray:
        focal, center, turn = unknown[:2] * scale, unknown[2:4] * scale, unknown[4:7]
        seen = Rotation.from_rotvec(turn).apply(rays)
        depth = np.maximum(seen[:, 2], np.cos(_WIDEST))
        x, y = distort(seen[:, 0] / depth, seen[:, 1] / depth, model, tuple(unknown[7:]))
        return np.concatenate([focal[0] * x + center[0] - u, focal[1] * y + center[1] - v])

    unknown = np.concatenate([np.array(start) / scale, np.zeros(3 + free)])
    found = least_squares(misses, unknown, method="lm", xtol=1e-14, ftol=1e-14, gtol=1e-14, max_nfev=3000)
    away = misses(found.x).reshape(2, -1)
    numbers = np.concatenate([found.x[:4] * scale, found.x[7:], np.zeros(5 - free)])
    return float(np.hypot(*away).max()), model, numbers
