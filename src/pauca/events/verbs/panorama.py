"""`pauca events panorama`: everything that a turning camera saw in one picture, and its orientation without drift."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import numpy as np
from tyro.conf import Positional, arg

from pauca import events
from pauca.events.mosaic import PanoramaConfig
from pauca.events.mosaic import panorama as make_panorama
from pauca.events.verbs.files import output_folder, stem
from pauca.events.verbs.turned import read_turned
from pauca.runs import Progress, atomic_write, check_can_write


def panorama(
    recording: Positional[Annotated[Path, arg(metavar="RECORDING")]],
    camera: Path | None = None,
    camera_name: str | None = None,
    trajectory: Path | None = None,
    config: PanoramaConfig = PanoramaConfig(),  # noqa: B008 - frozen
    out: Path | None = None,
    reading: events.ReadConfig = events.ReadConfig(),  # noqa: B008 - frozen
    force: bool = False,
    quiet: bool = False,
) -> None:
    """Put all events of a turning camera into one picture of the directions that it saw.

    Writes panorama.png (the part that was seen) and orientation.txt (TUM: t x y z qx qy qz qw, without drift where the
    camera came back to what it had seen) to the output folder.

    Args:
        recording: events in any format that pauca reads.
        camera: calibration file, for recordings without their own.
        camera_name: which camera, where the calibration file holds several; default: cam0.
        trajectory: trajectory.npz or .csv of `pauca events align`; default: align now.
        config: resolution and loop closure.
        out: output folder; default: the recording's name, in runs/events.
        reading: how the file is read.
        force: replace results that are there already.
        quiet: print only errors.
    """
    out = output_folder(out, Path("runs/events") / stem(recording))
    for name in ("panorama.png", "orientation.txt"):
        check_can_write(out / name, force)
    turned = read_turned(recording, camera, camera_name, trajectory, reading, quiet)
    with Progress("panorama", turned.events, "events", quiet=quiet) as progress:
        found = make_panorama(turned.recording, turned.trajectory, turned.camera, config, progress.advance)
    _save(found.cropped(), out / "panorama.png", force)
    found.attitude.to_tum(out / "orientation.txt", turned.trajectory.t_us, force)
    if not quiet:
        drift = (
            f"{len(found.closures)} segments were found again, which corrected a drift of {found.drift_deg:.2f} deg"
            if found.closures
            else "the camera did not come back to what it had seen, so its drift is not known"
        )
        print(f"{found.images.sum(dtype=float):,.0f} events at {found.pixels_per_degree:.2f} pixels a degree; {drift}")
        print(f"wrote panorama.png and orientation.txt to {out}")


def _save(images: np.ndarray, path: Path, force: bool) -> None:
    """A pixel for each pixel, as a figure would not give it."""
    from PIL import Image

    from pauca.events.plots import polarity_image

    seen = images[images > 0]
    full = float(np.quantile(seen, 0.99)) if seen.size else 1.0
    with atomic_write(path, force) as temporary:
        Image.fromarray(np.round(255 * polarity_image(images, full)).astype(np.uint8)).save(temporary)
