"""Whether windows of a millisecond may be led on to from the one before: errors and status beside those of searches.

    python benchmarks/events_windows.py [--seed N] [--only WORD [WORD ...]] [--json PATH]

The trials of `events_trust.py`, of which `Aligner.align` gets a window a millisecond long at a time, at most 0.3 s of
each (all of those that stop or vibrate): once as it is, and once with a search for every window. Of both: how many
windows can be trusted, the RMS error of these in deg/s, how many are off by more than 30 deg/s and by more than four
standard deviations, the share of axes within the 95 % interval, evaluations and processor time a window.
"""

import argparse
import json
import logging
import time
from itertools import pairwise
from pathlib import Path

import numpy as np

from events_trust import CAMERAS, FAR_DEG_S, FAR_SIGMA, Trial, trials
from pauca import events
from pauca.events import Aligner, Alignment, Recording

SPAN_US = 300_000
WHOLE = ("stop", "vibration")


class Searching(Aligner):
    """Searches for every window's motion anew."""

    def _slid(self, start: int) -> Alignment | None:
        return None


def measured(trial: Trial) -> dict[str, dict[str, float]]:
    """The figures of both ways."""
    recording = events.simulate(trial.config, camera=CAMERAS[trial.camera], motion=trial.motion)
    recording = events.remove_hot_pixels(trial.spoil(recording) if trial.spoil else recording)
    stream = recording.events
    span_us = stream.duration_us if any(word in trial.name for word in WHOLE) else min(SPAN_US, stream.duration_us)
    place = np.searchsorted(stream.t_us, stream.t_us[0] + np.arange(0, span_us, 1000))
    windows = [stream[first:end] for first, end in pairwise(place.tolist()) if end > first]
    return {kind.__name__: figures(recording, windows, kind) for kind in (Searching, Aligner)}


def figures(recording: Recording, windows: list[events.Events], kind: type[Aligner]) -> dict[str, float]:
    camera, truth = recording.camera, recording.ground_truth
    assert camera is not None
    assert truth is not None
    aligner, start_s = kind(camera), time.process_time()
    found = [aligner.align(window) for window in windows]
    seconds = time.process_time() - start_s
    trusted = [a for a in found if a.status.trusted]
    t_s = np.array([a.t_us * 1e-6 for a in trusted])
    at = np.stack([np.interp(t_s, truth.t_s, part) for part in truth.omega_rad_s.T], axis=1)
    error = np.abs(np.array([a.velocity for a in trusted]).reshape(-1, 3) - at)
    sigma = np.sqrt(np.array([a.covariance.diagonal() for a in trusted]).reshape(-1, 3))
    return {
        "windows": len(found),
        "trusted": len(trusted),
        "square": float(np.sum(np.degrees(error) ** 2)),
        "far": int((np.degrees(error) > FAR_DEG_S).any(axis=1).sum()),
        "far_sigma": int((error > FAR_SIGMA * sigma).any(axis=1).sum()),
        "within_95": int((error < 1.96 * sigma).sum()),
        "evaluations": sum(a.evaluations for a in found),
        "ms": 1e3 * seconds,
    }


def line(name: str, rows: dict[str, dict[str, float]]) -> str:
    """Both ways beside each other."""
    parts = [f"{name:36.36}"]
    for row in rows.values():
        axes = max(1, 3 * row["trusted"])
        parts.append(
            f"{row['trusted']:5}/{row['windows']:5} RMS {np.sqrt(row['square'] / axes):6.2f} >30 {row['far']:3} "
            f">4sd {row['far_sigma']:3} 95 % {100 * row['within_95'] / axes:3.0f} "
            f"{row['evaluations'] / row['windows']:4.1f} evaluations {row['ms'] / row['windows']:5.2f} ms"
        )
    return " | ".join(parts)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", nargs="+", default=[""], help="trials with one of these words in their name")
    parser.add_argument("--json", type=Path, help="write all figures here")
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    rows: dict[str, dict[str, dict[str, float]]] = {}
    print(f"{'':36} | a search for every window | led on to from the one before")
    for trial in trials(options.seed):
        if any(word in trial.name for word in options.only):
            rows[trial.name] = measured(trial)
            print(line(trial.name, rows[trial.name]), flush=True)
    total = {
        kind: {key: sum(row[kind][key] for row in rows.values()) for key in figures}
        for kind, figures in next(iter(rows.values())).items()
    }
    print(line("all", total))
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
