"""Figures of recognition, each a function from data to a matplotlib Figure."""

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pauca.recognize.pictures import Picture

LARGEST_GALLERY = 30  # recordings; more make a picture that nobody looks through
_RIGHT, _WRONG, _NEUTRAL = "#1a7f5a", "#c0392b", "#35627d"
_COLUMNS = 10


@dataclass(frozen=True, eq=False)
class Shown:
    """One recording of a gallery: its best picture and what it was taken for."""

    picture: Picture
    answer: str
    truth: str | None = None  # where it is known
    probability: float | None = None  # of the answer


def best_picture(pictures: Sequence[Picture]) -> Picture:
    """The picture of most weight."""
    return max(pictures, key=lambda picture: picture.weight)


def gallery(shown: Sequence[Shown]) -> Figure:
    """Recordings as the sensor saw them above what alignment makes of them, titled with the answers.

    Where an answer is wrong, the truth stands below.
    """
    shown = shown[:LARGEST_GALLERY]
    # As many columns as leave the fewest places empty in the last row.
    columns = min(range(_COLUMNS, 5, -1), key=lambda count: -len(shown) % count) if len(shown) > 5 else 5
    rows = -(-len(shown) // columns)
    figure = Figure(figsize=(1.15 * columns, 2.5 * rows + 0.2), layout="constrained")
    axes = figure.subplots(2 * rows, columns, squeeze=False)
    for axis in axes.flat:
        axis.set_axis_off()
    for i, one in enumerate(shown):
        row, column = divmod(i, columns)
        color = _NEUTRAL if one.truth is None else _RIGHT if one.answer == one.truth else _WRONG
        sure = "" if one.probability is None else f" {one.probability:.2f}"
        _draw(axes[2 * row][column], one.picture.unaligned, one.answer[:10] + sure, color)
        _draw(axes[2 * row + 1][column], one.picture.pixels, "", color)
        if color == _WRONG and one.truth:
            axes[2 * row + 1][column].set_xlabel(f"is {one.truth[:12]}".replace("$", r"\$"), fontsize=8, color=color)
        if column == 0:
            axes[2 * row][column].set_ylabel("sensor", fontsize=9)
            axes[2 * row + 1][column].set_ylabel("aligned", fontsize=9)
    return figure


def _draw(axis: Axes, pixels: object, title: str, color: str) -> None:
    axis.set_axis_on()
    axis.imshow(pixels, cmap="gray", vmin=0, vmax=255)  # type: ignore[arg-type]
    axis.set(xticks=[], yticks=[])
    axis.set_title(title.replace("$", r"\$"), fontsize=8, color=color)
    for side in axis.spines.values():
        side.set_color(color)
        side.set_linewidth(1.5)
