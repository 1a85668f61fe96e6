"""Figures of `pauca.events`: each a function from data to a matplotlib Figure; nothing is shown or saved here."""

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pauca.events.evaluation import Evaluation
from pauca.events.recording import GroundTruth
from pauca.events.trajectory import Trajectory
from pauca.events.types import Status

_COLORS = ("#c1440e", "#2a7f62", "#3b5ba5")  # x, y, z: told apart by color-blind readers too
_OFF, _ON = np.array([0.80, 0.25, 0.05]), np.array([0.10, 0.30, 0.70])
_MARGIN = 4  # pixels around the events that are drawn
_BRIGHTEST = 99.0  # percentile of the touched pixels that is drawn in full color


def velocity_figure(trajectory: Trajectory, truth: GroundTruth | None = None, title: str = "") -> Figure:
    """Velocity over time, one panel an axis, with two standard deviations and, where known, the truth.

    Packets that are not trusted are marked, a degenerate one at the lower edge and others at the velocity they reached,
    or at the edge where that is beyond; lines and bands leave them out. Rotations are drawn in degrees a second.
    """
    rotation = trajectory.motion == "rotation"
    scale, unit = (np.degrees(1.0), "deg/s") if rotation else (1.0, "focal lengths/s")
    symbol = "ω" if rotation else "v"
    k = trajectory.velocity.shape[1]
    figure = Figure(figsize=(9, 1.9 * k + 0.6), layout="constrained")
    panels = figure.subplots(k, 1, sharex=True, squeeze=False)[:, 0]
    sigma = np.sqrt(np.diagonal(trajectory.covariance, axis1=1, axis2=2))
    sigma = np.where(np.isfinite(sigma), sigma, np.nan)
    for i, (panel, color) in enumerate(zip(panels, _COLORS, strict=False)):
        value = scale * trajectory.velocity[:, i]
        drawn = np.where(trajectory.trusted, value, np.nan)
        if truth is not None and rotation:
            inside = (truth.t_s >= trajectory.t_s[0]) & (truth.t_s <= trajectory.t_s[-1])
            panel.plot(truth.t_s[inside], scale * truth.omega_rad_s[inside, i], color="0.6", lw=3, label="truth")
        panel.plot(trajectory.t_s, drawn, "-", color=color, lw=1.2, marker=".", ms=3, label="estimate")
        _draw_band(panel, trajectory.t_s, drawn, 2 * scale * sigma[:, i], color)
        if trajectory.trusted.any():
            panel.set_ylim(panel.get_ylim())  # marks of packets that are not trusted do not stretch it
        _mark(panel, trajectory, value)
        panel.set_ylabel(f"{symbol}{'xyz'[i]} ({unit})")
        panel.grid(alpha=0.3)
    panels[0].legend(loc="lower right", bbox_to_anchor=(1, 1), fontsize="small", ncols=8, frameon=False)
    panels[0].set_title(title, loc="left", fontsize="medium")
    panels[-1].set_xlabel("time on the recording's clock (s)")
    return figure


def _draw_band(panel: Axes, t_s: np.ndarray, value: np.ndarray, spread: np.ndarray, color: str) -> None:
    """Two standard deviations: a band, and bars where a packet stands alone, which a band cannot show."""
    panel.fill_between(t_s, value - spread, value + spread, color=color, alpha=0.25, lw=0, label="±2σ")
    drawn = np.isfinite(value)
    beside = np.concatenate([[False], drawn, [False]])
    alone = drawn & ~beside[:-2] & ~beside[2:]
    if alone.any():
        panel.errorbar(t_s[alone], value[alone], spread[alone], fmt="none", ecolor=color, capsize=4, lw=1.2)


def _mark(panel: Axes, trajectory: Trajectory, value: Float[np.ndarray, "n"]) -> None:
    """Packets that are not trusted: a degenerate one says nothing, and may be far off the scale."""
    for status in dict.fromkeys(trajectory.status):
        chosen = np.array([found is status for found in trajectory.status]) & ~trajectory.trusted
        if not chosen.any():
            continue
        if status is Status.DEGENERATE:
            edge, across = np.full(np.count_nonzero(chosen), 0.03), panel.get_xaxis_transform()
            panel.plot(trajectory.t_s[chosen], edge, "|", color="k", ms=8, transform=across, label=str(status))
        else:
            marker = "x" if status is Status.STALLED else "+"
            shown = np.clip(value[chosen], *panel.get_ylim()) if trajectory.trusted.any() else value[chosen]
            panel.plot(trajectory.t_s[chosen], shown, marker, color="k", ms=6, label=str(status), clip_on=False)


def error_figure(evaluation: Evaluation, title: str = "") -> Figure:
    """Error of each axis over time, with its root mean square to both sides of zero."""
    figure = Figure(figsize=(9, 6.3), layout="constrained")
    panels = figure.subplots(3, 1, sharex=True, sharey=True)
    for i, (panel, color) in enumerate(zip(panels, _COLORS, strict=True)):
        rms = evaluation.rms_axes_deg_s[i]
        panel.axhspan(-rms, rms, color=color, alpha=0.15, lw=0, label=f"RMS {rms:.2f} deg/s")
        panel.plot(evaluation.t_s, evaluation.error_deg_s[:, i], "-", color=color, lw=1.0, marker=".", ms=3)
        panel.set_ylabel(f"error of ω{'xyz'[i]} (deg/s)")
        panel.legend(loc="lower right", bbox_to_anchor=(1, 1), borderaxespad=0, fontsize="small", frameon=False)
        panel.grid(alpha=0.3)
    panels[0].set_title(title, loc="left", fontsize="medium")
    panels[-1].set_xlabel("time on the recording's clock (s)")
    return figure


def warped_figure(before: Float[np.ndarray, "2 h w"], after: Float[np.ndarray, "2 h w"], title: str = "") -> Figure:
    """Images of events before and after alignment, side by side, on one scale: OFF orange, ON blue.

    Args:
        before: images of events as recorded, OFF and ON, events a pixel.
        after: the same, aligned.
        title: of the whole figure.
    """
    shown = _crop(before + after)
    before, after = before[shown], after[shown]
    height, width = before.shape[1:]
    figure = Figure(figsize=(11, 5.5 * height / width + 0.7), layout="constrained")
    figure.suptitle(title, fontsize="medium")
    touched = after[after > 0]
    full = float(np.percentile(touched, _BRIGHTEST)) if touched.size else 1.0
    for panel, images, name in zip(figure.subplots(1, 2), (before, after), ("as recorded", "aligned"), strict=True):
        panel.imshow(polarity_image(images, full))
        panel.set_title(name, fontsize="medium")
        panel.set_axis_off()
    return figure


def _crop(images: Float[np.ndarray, "2 h w"]) -> tuple[slice, slice, slice]:
    """The part that holds events and a small margin: the border of the frame is for the search, not for the eye."""
    rows, columns = np.nonzero(images.any(axis=0))
    return slice(None), _span(rows), _span(columns)


def _span(found: np.ndarray) -> slice:
    return slice(max(int(found.min()) - _MARGIN, 0), int(found.max()) + 1 + _MARGIN) if found.size else slice(None)


def polarity_image(images: Float[np.ndarray, "2 h w"], full: float) -> Float[np.ndarray, "h w 3"]:
    """Counts of OFF and ON events as colors on white; `full` events a pixel make a color full.

    The square root keeps the faint trails of unaligned events visible.
    """
    off, on = np.sqrt(np.clip(images / full, 0, 1))[..., None]
    return np.clip(1 - off * (1 - _OFF) - on * (1 - _ON), 0, 1)
