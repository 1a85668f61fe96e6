"""Whether warm searches gain by first steps on images of half the resolution: they do not.

    python benchmarks/events_resolution.py [--millions 1.2]

Packets as they are cut by default, of the three simulated sequences and the real packets of the data that PAUCA_DATA
names: with every step at full resolution, as it is, and with the search begun at half of it, until a step promises
less than 0.5 or 4 nats, or for one evaluation. Processor time, best of two, and the first way again at the end of each
recording: machines are busy. (Cold searches begin at a quarter and half of the resolution, for their reach.)
"""

import argparse
import logging
import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from pauca import events
from pauca.events import Aligner, Alignment, Recording, Status
from pauca.events import packets as estimation
from pauca.events.newton import last_step, maximize
from pauca.events.packets import PacketEstimator

DATA = Path(os.environ.get("PAUCA_DATA", Path(__file__).resolve().parents[2] / "shared" / "data")) / "events"
RECORDINGS = [*(f"sim/{name}" for name in ("texture_rot", "shapes_rot", "texture_slow"))]
RECORDINGS += [f"rotation/{name}_rotation" for name in ("poster", "boxes", "dynamic", "shapes")]
FULL = PacketEstimator._search
HALF = 2  # of `PacketEstimator.scorers`


def from_half(tolerance: float, most: int) -> Callable[..., Any]:
    """A search whose first steps are made at half of the resolution."""

    def search(self: PacketEstimator, packet: Any, expected: np.ndarray, shape: Any, still: Any) -> Any:
        if not expected.any():
            return FULL(self, packet, expected, shape, still)
        reach = estimation._STEP_PIXELS / self.pixels_moved(packet)[: len(expected)]
        half = maximize(
            lambda at: estimation._trial(estimation._score(self.scorers[HALF], packet, at), len(expected)),
            expected,
            reach=reach,
            shape=shape,
            tolerance=tolerance,
            max_evaluations=most,
        )
        point = half.point + (last_step(half, reach, tolerance) if half.status is Status.CONVERGED else 0)
        first, used = self._trial(packet, point), 2 + half.evaluations
        if first.value > still.value:
            warm = self._climb(packet, point, first, shape)
            used += warm.evaluations
            if self._plausible(packet, warm, still):
                return warm, used
        cold = self._cold(packet, still, shape)
        return cold, used + cold.evaluations

    return search


WAYS = {
    "full": FULL,
    "half, to 0.5 nats": from_half(0.5, 10),
    "half, to 4 nats": from_half(4.0, 10),
    "half, one evaluation": from_half(0.2, 1),
    "full again": FULL,
}


def aligned(recording: Recording) -> tuple[float, list[Alignment]]:
    """Seconds, the better of two, and the packets."""
    assert recording.camera is not None
    best, found = np.inf, []
    for _ in range(2):
        start = time.process_time()
        found = list(Aligner(recording.camera).follow(recording.events))
        best = min(best, time.process_time() - start)
    return best, found


def in_words(recording: Recording, seconds: float, found: list[Alignment], full: list[Alignment]) -> str:
    """Speed, evaluations, error, and how far packets differ from those of the full resolution."""
    trusted = [a for a in found if a.status.trusted]
    words = f"{len(recording.events) / seconds * 1e-6:5.2f} million/s, {np.mean([a.evaluations for a in found]):5.2f} "
    words += f"evaluations, {len(trusted)} of {len(found)} packets trusted"
    if recording.ground_truth is not None and trusted:
        t_s, omega = recording.ground_truth.t_s, recording.ground_truth.omega_rad_s
        at = np.array([[np.interp(a.t_us * 1e-6, t_s, part) for part in omega.T] for a in trusted])
        error = np.degrees(np.array([a.velocity for a in trusted]) - at)
        words += f", RMS {np.sqrt(np.mean(error**2)):.3f} deg/s"
    if [a.start_us for a in found] == [a.start_us for a in full]:
        pairs = zip(found, full, strict=True)
        apart = max(np.abs((a.velocity - b.velocity) / np.sqrt(b.covariance.diagonal())).max() for a, b in pairs)
        words += f", away by {apart:.2f} deviations at most"
    return words


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--millions", type=float, default=1.2, help="millions of events of a recording, at most")
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    for name in RECORDINGS:
        recording = events.read(DATA / f"{name}.npz")
        recording = replace(recording, events=recording.events[: round(options.millions * 1e6)])
        print(f"{name}, {len(recording.events):,} events")
        full: list[Alignment] = []
        for label, search in WAYS.items():
            PacketEstimator._search = search
            seconds, found = aligned(recording)
            full = full or found
            print(f"  {label:22} {in_words(recording, seconds, found, full)}", flush=True)


if __name__ == "__main__":
    main()
