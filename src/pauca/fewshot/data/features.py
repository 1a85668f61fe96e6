"""Features that somebody has computed already, in a .npy file."""

from pathlib import Path

import numpy as np
from jaxtyping import Float

from pauca.errors import InputError


def load_features(path: Path | str) -> Float[np.ndarray, "n d"]:
    """The features [n, d] in a .npy file.

    Raises:
        InputError: it cannot be read, or holds no table of finite numbers.
    """
    try:
        values = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"{path}: is no readable .npy file ({error}); write one with numpy.save") from error
    if not isinstance(values, np.ndarray) or values.ndim != 2 or values.dtype.kind not in "fiu" or not values.size:
        found = (
            f"an array of shape {values.shape} of {values.dtype}" if isinstance(values, np.ndarray) else "an archive"
        )
        raise InputError(f"{path}: holds {found}; expected features [images, features], one row an image")
    if not np.isfinite(values).all():
        row = int(np.argwhere(~np.isfinite(values))[0][0])
        raise InputError(f"{path}: row {row} is not finite (NaN or infinite); compute the features again")
    return values
