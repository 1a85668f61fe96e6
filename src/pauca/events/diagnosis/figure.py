"""One picture of a check: where the events were, when, at which frequencies, and what was found."""

import textwrap

import numpy as np
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure

from pauca.events.diagnosis.check import CheckReport

_COLUMNS = 1500  # of the plot over time
_WIDTH = 150  # letters of a line


def check_figure(report: CheckReport) -> Figure:
    """Events of each pixel, faulty ones marked; rates over time; the spectrum of ON minus OFF; the faults in words."""
    lines = [line for line in report.lines()[1:] for line in textwrap.wrap(line.replace("$", r"\$"), _WIDTH)]
    figure = Figure(figsize=(12, 6.4 + 0.17 * max(len(lines), 1)), layout="constrained")
    figure.suptitle(report.lines()[0], fontsize="medium", x=0.01, ha="left")
    grid = figure.add_gridspec(2, 1, height_ratios=[6.4, 0.17 * max(len(lines), 1) + 0.2])
    top, bottom = figure.add_subfigure(grid[0]), figure.add_subfigure(grid[1])
    grid = top.add_gridspec(1, 2, width_ratios=[1.1, 1])
    left, right = top.add_subfigure(grid[0]), top.add_subfigure(grid[1])
    _draw_pixels(left, report)
    rates, spectrum = right.subplots(2, 1)
    _draw_rates(rates, report)
    _draw_spectrum(spectrum, report)
    bottom.text(0.01, 0.98, "\n".join(lines) or "no fault found", va="top", fontsize="small", family="monospace")
    return figure


def _draw_pixels(figure, report: CheckReport) -> None:
    panel, counts = figure.subplots(), report.statistics.counts
    shown = panel.imshow(np.maximum(counts, 0.5), norm=LogNorm(0.5, max(float(counts.max()), 1.0)), cmap="viridis")
    figure.colorbar(shown, ax=panel, label="events of each pixel", shrink=0.75, location="bottom")
    for fault in report.faults:
        if fault.kind in ("hot pixels", "dead pixels"):
            x, y = ([pixel[axis] for pixel in fault.numbers["pixels"]] for axis in "xy")
            color = "red" if fault.kind == "hot pixels" else "white"
            panel.plot(x, y, "o", mfc="none", color=color, ms=7, lw=0, label=f"{len(x)} {fault.kind}")
    if report.empty.any():
        panel.contourf(report.empty, levels=[0.5, 1.5], colors="none", hatches=["xx"])
        panel.contour(report.empty, levels=[0.5], colors="orange", linewidths=1)
        panel.plot([], [], color="orange", label="no event at all")
    if panel.get_legend_handles_labels()[0]:
        panel.legend(loc="upper right", fontsize="small", facecolor="0.3", labelcolor="white")
    panel.set_title("where", loc="left", fontsize="medium")


def _draw_rates(panel, report: CheckReport) -> None:
    counts, rates = report.rates.counts, report.rates
    together = max(1, counts.shape[1] // _COLUMNS)
    whole = max(1, counts.shape[1] // together)
    binned = counts[:, : whole * together].reshape(2, whole, -1).sum(axis=2) / (together * rates.bin_us * 1e-6)
    time_s = [rates.time_s(i * together) for i in range(whole)]
    for row, name, color in ((1, "ON", "tab:blue"), (0, "OFF", "tab:orange")):
        panel.plot(time_s, binned[row], color=color, lw=0.8, label=name)
    for fault in report.faults:
        for at_s in fault.numbers.get("at_s", ()):
            panel.axvline(at_s, color="red", lw=0.8, ls=":")
    panel.set_xlabel("time (s); dotted: silences and jumps")
    panel.set_ylabel("events/s")
    panel.legend(fontsize="small", ncols=2)
    panel.set_title(f"when, in bins of {together * rates.bin_us / 1000:g} ms", loc="left", fontsize="medium")


def _draw_spectrum(panel, report: CheckReport) -> None:
    hz, share = report.spectrum.hz, report.spectrum.share
    if len(hz) > 1:
        panel.semilogy(hz[1:], 100 * np.maximum(share[1:], 1e-6), lw=0.8)
    for fault in report.faults:
        if fault.kind == "flicker":
            panel.axvline(fault.numbers["frequency_hz"], color="red", lw=0.8, ls=":")
    panel.set_xlabel("frequency (Hz); dotted: flicker")
    panel.set_ylabel("ON - OFF in step (%)")
    panel.set_title("flicker", loc="left", fontsize="medium")
