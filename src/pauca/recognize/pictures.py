"""From events to pictures: views of aligned windows, cut to a square around what moves."""

import logging
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image
from scipy.ndimage import gaussian_filter

from pauca import events
from pauca.errors import InputError
from pauca.recognize.settings import Framing, PictureConfig

_log = logging.getLogger(__name__)

FEWEST_EVENTS = 50  # of a picture: fewer are noise
_SMOOTHED = 0.02  # of the sensor's longer side: what the object is looked for on
_LEVEL = 0.4  # of the brightest part: what belongs to the object; background noise does not
_MOST = 0.85  # of the object's events: how far these reach from their middle says how large it is
_REACH = 1.35  # half a picture, in such distances
_SMALLEST = 4.0  # pixels; half a picture at least
_FIXED = 0.35  # of the sensor's longer side; half a picture of fixed size
_LARGEST = 0.75  # of the sensor's longer side; half a picture at most
_WHITE = 95.0  # percentile of the touched pixels from which on a picture is white
_UNTRUSTED = 0.5  # weight of an event whose window's motion is not trusted, beside one whose is


@dataclass(frozen=True, eq=False)
class Picture:
    """One view as a model sees it."""

    pixels: UInt8[np.ndarray, "size size"]
    unaligned: UInt8[np.ndarray, "size size"]  # the same events where the sensor saw them, for comparison
    weight: float  # how much it counts beside the other pictures of its recording: events, by trust in their motion
    n_events: int
    start_us: int
    end_us: int


def pictures_of(
    recording: events.Recording,
    size: int,
    config: PictureConfig | None = None,
    camera: events.Camera | None = None,
) -> list[Picture]:
    """The most informative views of a recording as pictures, in order of time; at least one.

    Args:
        recording: what `events.read` or `events.simulate` gives.
        size: side of the pictures, pixels.
        config: how they are made.
        camera: calibration, in place of what the recording brings.

    Raises:
        InputError: too few events, or a camera of another size.
    """
    config = config or PictureConfig()
    name = recording.name or "recording"
    if len(recording.events) < FEWEST_EVENTS:
        raise InputError(
            f"{name}: {len(recording.events)} events are too few to recognize anything; a picture takes "
            f"{FEWEST_EVENTS} at least"
        )
    if recording.events.p.min() == recording.events.p.max():
        _log.warning("%s: all events have one polarity; edges that make the other are missing in its pictures", name)
    stream = events.remove_hot_pixels(recording).events
    aligner = config.aligner(stream.size, camera or recording.camera)
    found = [picture_of(view, aligner, size, config) for view in events.views(aligner, stream, config.view_config())]
    return most_informative(found, config.views)


def picture_of(view: events.View, aligner: events.Aligner, size: int, config: PictureConfig) -> Picture:
    """A view as a picture."""
    border = aligner.config.border
    aligned, unaligned = (square(i.sum(0), size, border, config.framing) for i in (view.images, view.unaligned))
    trust = view.trusted if config.align else 1.0
    weight = view.n_events * (_UNTRUSTED + (1 - _UNTRUSTED) * trust)
    pixels = aligned if config.align else unaligned
    return Picture(pixels, unaligned, weight, view.n_events, view.start_us, view.end_us)


def most_informative(pictures: list[Picture], most: int) -> list[Picture]:
    """The picture of most weight in each of so many equal parts, without those that show next to nothing."""
    parts = np.array_split(np.arange(len(pictures)), min(most, len(pictures)))
    best = [pictures[max(part.tolist(), key=lambda i: pictures[i].weight)] for part in parts]
    return [p for p in best if p.n_events >= FEWEST_EVENTS] or [max(best, key=lambda picture: picture.weight)]


def square(
    counts: Float[np.ndarray, "h w"], size: int, border: int = 0, framing: Framing = "fit"
) -> UInt8[np.ndarray, "size size"]:
    """Counts of events as a square gray picture: cut around the object, square roots, and bright parts cut off.

    Args:
        counts: events of each pixel.
        size: side of the picture, pixels.
        border: pixels around the sensor's own.
        framing: as in `PictureConfig`.
    """
    x, y, reach = _whole(counts, border) if framing == "sensor" else _around(counts, border)
    if framing == "fixed":
        reach = _FIXED * (max(counts.shape) - 2 * border)
    pad = int(np.ceil(reach)) + 1
    image = Image.fromarray(np.pad(counts.astype(np.float32), pad))
    x, y = x + pad + 0.5, y + pad + 0.5  # Pillow counts from the corner of a pixel
    box = (x - reach, y - reach, x + reach, y + reach)
    cut = np.maximum(np.asarray(image.resize((size, size), Image.Resampling.BILINEAR, box)), 0)
    touched = cut[cut > 0.02 * cut.max()]
    white = float(np.percentile(touched, _WHITE)) if touched.size else 1.0
    return np.rint(255 * np.sqrt(np.clip(cut / white, 0, 1))).astype(np.uint8)


def _whole(counts: Float[np.ndarray, "h w"], border: int) -> tuple[float, float, float]:
    height, width = counts.shape
    return (width - 1) / 2, (height - 1) / 2, max(width, height) / 2 - border


def _around(counts: Float[np.ndarray, "h w"], border: int) -> tuple[float, float, float]:
    """Middle (x, y) of what moves, and half the side of a square that holds it."""
    longer = max(counts.shape) - 2 * border
    smoothed = gaussian_filter(counts.astype(np.float32), max(0.7, _SMOOTHED * longer))
    if not smoothed.any():
        return _whole(counts, border)
    # Brightness where it is bright, however little of the image that is.
    bright = np.power(smoothed, 3).sum() / np.square(smoothed).sum()
    mass = np.where(smoothed > _LEVEL * bright, counts, 0)
    # An edge counts by its length: a pixel that has fired very often is no larger than others.
    mass = np.minimum(mass, np.percentile(counts[counts > 0], 95))
    total = mass.sum()
    if total <= 0:
        return _whole(counts, border)
    rows, columns = np.indices(counts.shape)
    x, y = float((mass * columns).sum() / total), float((mass * rows).sum() / total)
    away = np.hypot(columns - x, rows - y).ravel()
    order = np.argsort(away)
    within = np.cumsum(mass.ravel()[order])
    radius = float(away[order][np.searchsorted(within, _MOST * total)])  # clumps of noise far away count for nothing
    return x, y, float(np.clip(_REACH * radius, _SMALLEST, max(_SMALLEST, _LARGEST * longer)))
