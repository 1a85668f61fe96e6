"""What asking halves of packets for motions of their own is worth where part of the scene moves by itself, and costs.

    python benchmarks/events_halves.py [--seed N] [--seeds N] [--ms MS]

Strips of the image (half and 70 % of its width) that turn otherwise than the camera, the simulator's disc with half of
the events, and scenes in which nothing moves. For windows of 1 ms (`Aligner.align`), packets (`Aligner.follow`) and
knots (`align`), with and without the question: how many there are, how many of them can be trusted, and how many of
these are off by more than 30 deg/s from the camera's motion. Where PAUCA_DATA has them: how many of the real packets
of `davis240c_packets` can be trusted, and the processor time of a simulated sequence.
"""

import argparse
import logging
import os
import time
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np

from pauca import events
from pauca.events import Aligner, Events, Recording, SimulateConfig
from pauca.events.history import History

DATA = Path(os.environ.get("PAUCA_DATA", Path(__file__).resolve().parents[2] / "shared" / "data")) / "events"
FAR_DEG_S = 30.0
KINDS = (("strip 50 %", 0.5), ("strip 70 %", 0.7), ("disc 50 %", None), ("nothing", 0.0))


@contextmanager
def asking(asks: bool):
    """Whether halves are asked."""
    usual = History.asks
    if not asks:
        History.asks = lambda self, packet, estimate: False
    try:
        yield
    finally:
        History.asks = usual


def made(scene: str, seed: int, share: float | None, ms: int) -> Recording:
    """A recording of which a strip of so much of the width, or a disc, moves by itself."""
    if share is None:
        config = SimulateConfig(scene=scene, seed=seed, duration_s=ms / 1e3, peak_deg_s=150.0, moving_object=0.5)
        return events.simulate(config)
    axes = np.random.default_rng(seed).normal(size=(2, 3)) * (1, 1, 0.3)
    movement = "constant" if seed % 2 else "random"
    config = SimulateConfig(scene=scene, seed=seed, duration_s=ms / 1e3, movement=movement, peak_deg_s=150.0)
    camera = events.simulate(replace(config, axis=tuple(axes[0])))
    other = events.simulate(replace(config, seed=seed + 1000, axis=tuple(axes[1]), peak_deg_s=250.0)).events
    edge = share * camera.events.size[0]
    parts = [camera.events.where(camera.events.x >= edge), other.where(other.x < edge)]
    t_us = np.concatenate([part.t_us for part in parts])
    order = np.argsort(t_us, kind="stable")
    columns = (np.concatenate([getattr(part, name) for part in parts])[order] for name in ("x", "y", "p"))
    return replace(camera, events=Events(t_us[order], *columns, camera.events.size))


def windows(recording: Recording) -> tuple[np.ndarray, ...]:
    e, aligner = recording.events, Aligner(recording.camera)
    starts = range(int(e.t_us[0]), int(e.t_us[-1]), 1000)
    return _columns([aligner.align(e.between(t, t + 1000)) for t in starts])


def packets(recording: Recording) -> tuple[np.ndarray, ...]:
    return _columns(list(Aligner(recording.camera).follow(recording.events)))


def knots(recording: Recording) -> tuple[np.ndarray, ...]:
    found = events.align(recording)
    return found.t_s, found.velocity, found.trusted


def _columns(found: list[events.Alignment]) -> tuple[np.ndarray, ...]:
    t_s, velocity = np.array([a.t_us * 1e-6 for a in found]), np.array([a.velocity for a in found])
    return t_s, velocity, np.array([a.status.trusted for a in found])


WAYS: dict[str, Callable[[Recording], tuple[np.ndarray, ...]]] = {"1 ms": windows, "packets": packets, "knots": knots}


def judged(recording: Recording, way: str) -> np.ndarray:
    """All, trusted, and trusted but far off."""
    t_s, velocity, trusted = WAYS[way](recording)
    truth = recording.ground_truth
    assert truth is not None
    at = np.stack([np.interp(t_s, truth.t_s, part) for part in truth.omega_rad_s.T], axis=1)
    far = np.abs(np.degrees(velocity - at)).max(axis=1) > FAR_DEG_S
    return np.array([len(t_s), trusted.sum(), (trusted & far).sum()])


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seed", type=int, default=11)
    parser.add_argument("--seeds", type=int, default=4, help="recordings of each kind and scene")
    parser.add_argument("--ms", type=int, default=150, help="length of each")
    parser.add_argument("--only-speed", action="store_true")
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    for name, share in () if options.only_speed else KINDS:
        for scene in ("texture", "shapes"):
            seeds = range(options.seed, options.seed + options.seeds)
            recordings = [made(scene, seed, share, options.ms) for seed in seeds]
            for way in WAYS:
                row = []
                for asks in (False, True):
                    with asking(asks):
                        n = sum(judged(recording, way) for recording in recordings)
                    row.append(f"{n[1]:4} trusted, {n[2]:4} far off")
                print(f"{name:10} {scene:7} {way:7} {n[0]:5}: {row[0]} | halves asked: {row[1]}", flush=True)
    for path in sorted((DATA / "davis240c_packets").glob("*.npz")) if DATA.exists() and not options.only_speed else []:
        _real(events.remove_hot_pixels(events.read(path)), path.stem)
    path = DATA / "sim" / "texture_rot.npz"
    if path.exists():
        recording = events.read(path)
        _speed(replace(recording, events=recording.events[:1_000_000]), path.stem)


def _real(recording: Recording, name: str) -> None:
    row = []
    for asks in (False, True):
        with asking(asks):
            counts = [WAYS[way](recording)[2] for way in ("1 ms", "packets")]
        row.append(", ".join(f"{trusted.sum()} of {len(trusted)}" for trusted in counts))
    print(f"{name:24} trusted windows of 1 ms and packets: {row[0]} | halves asked: {row[1]}", flush=True)


def _speed(recording: Recording, name: str) -> None:
    best = {way: {False: np.inf, True: np.inf} for way in ("packets", "knots")}
    for _ in range(3):
        for asks in (False, True):
            for way, seconds in best.items():
                start_s = time.process_time()
                with asking(asks):
                    WAYS[way](recording)
                seconds[asks] = min(seconds[asks], time.process_time() - start_s)
    for way, seconds in best.items():
        print(f"{name}, {way}: {seconds[True] / seconds[False]:.3f} times the processor time (best of 3)", flush=True)


if __name__ == "__main__":
    main()
