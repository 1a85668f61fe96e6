"""How fast `pauca.events` is on one core, stage by stage, beside eventcv's contrast maximization.

    python benchmarks/events_speed.py [--recording PATH] [--peer-python PYTHON] [--json PATH]

Packets of 30,000 events, each started from the velocity of the last, on one core (the process is bound to it). The rate
counts everything from raw pixels to velocity with covariance: undistortion, all images, the solver. Windows of a
millisecond are pushed, and aligned one by one, each with as many events before it as a packet needs. eventcv 1.0.8 runs
on the same packets in the same run, warm-started as well, if it is installed here or in the environment of
--peer-python; it gets the camera with its distortion, and the first step (0.3 rad/s) with which it was fastest.
Needs a recording with camera and ground truth; default: sim/texture_rot.npz of the data that PAUCA_DATA names.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from pauca import events
from pauca.events import AlignConfig, Aligner, Frame, Scorer
from pauca.events.kernels.accumulate import accumulate_moments
from pauca.events.kernels.image_pass import score_image
from pauca.events.likelihood import tabulate
from pauca.events.score import KERNELS, PAD, blur_taps
from pauca.runs import describe_machine

DATA = Path(os.environ.get("PAUCA_DATA", Path(__file__).resolve().parents[2] / "shared" / "data")) / "events"
PACKET = 30_000
ENDLESS = {"packet_s": np.inf, "longest_s": np.inf, "slowest_s": np.inf, "least_pixels": 0.0, "most_pixels": np.inf}
FIXED = AlignConfig(packet_events=PACKET, min_events=PACKET, **ENDLESS)
CONFIGS = {
    "velocity": replace(FIXED, acceleration=False),
    "velocity and acceleration": FIXED,
    "velocity, contrast": replace(FIXED, acceleration=False, objective="contrast"),
    "packets of 10,000 to 30,000 events": AlignConfig(),
}

# Runs in the peer's own interpreter: reads packets, camera and times from an NPZ, answers with JSON.
PEER = """
import json, sys, time
import numpy as np
import eventcv
from importlib.metadata import version
data = np.load(sys.argv[1])
camera = eventcv.Camera(*data["K"].tolist(), **dict(zip(("k1", "k2", "p1", "p2", "k3"), data["D"].tolist())))
columns, n = data["xytp"], int(data["packet"])
velocities, seconds, last = [], [], None
for first in range(0, len(columns) - n + 1, n):
    stream = eventcv.from_numpy(columns[first:first + n], time_unit="us", sensor_size=tuple(data["size"].tolist()))
    start = time.process_time()
    found = stream.contrast_maximise(model="rotation", camera=camera, initial=last, initial_step=0.3)
    seconds.append(time.process_time() - start)
    last = list(found["params"])
    velocities.append(last)
print(json.dumps({"version": version("eventcv"), "velocities": velocities, "seconds": seconds}))
"""


def ours(recording: events.Recording, config: AlignConfig) -> dict[str, Any]:
    """Align the whole recording; CPU seconds of every packet."""
    aligner = Aligner(recording.camera, config)
    alignments, seconds = [], []
    for packet in events.cut_windows(recording.events, config):
        start = time.process_time()
        alignments.append(aligner.align(packet))
        seconds.append(time.process_time() - start)
    trajectory = events.Trajectory.from_alignments(alignments)
    result = events.evaluate(trajectory, recording.ground_truth, all_packets=True)
    return {
        "events_per_s": float(trajectory.n_events.sum() / np.sum(seconds)),
        "ms_per_packet": 1e3 * float(np.median(seconds)),
        "evaluations": float(trajectory.evaluations.mean()),
        "rms_deg_s": result.rms_deg_s,
        "median_deg_s": result.median_deg_s,
    }


def whole(recording: events.Recording, config: AlignConfig) -> dict[str, Any]:
    """`events.align` of the whole recording, with hot pixels, noise and the focal length asked for."""
    start = time.process_time()
    trajectory = events.align(recording, config=config)
    seconds = time.process_time() - start
    result = events.evaluate(trajectory, recording.ground_truth, all_packets=True)
    return {
        "events_per_s": len(recording.events) / seconds,
        "ms_per_packet": 1e3 * seconds / len(trajectory),
        "rms_deg_s": result.rms_deg_s,
        "median_deg_s": result.median_deg_s,
    }


def short_windows(recording: events.Recording) -> dict[str, dict[str, float]]:
    """CPU milliseconds of each of 250 windows of a millisecond, after 100 others, and how many events one holds."""
    window, found = recording.events, {}
    place = np.searchsorted(window.t_us, window.t_us[0] + 1000 * np.arange(300, 651))
    parts = [window[first:end] for first, end in pairwise(place.tolist())]
    for label in ("push", "align"):
        take, seconds = getattr(Aligner(recording.camera), label), []
        for part in parts:
            start = time.process_time()
            take(part)
            seconds.append(time.process_time() - start)
        ms = 1e3 * np.array(seconds[100:])
        found[label] = {"events": float(np.mean([len(part) for part in parts[100:]])), "mean_ms": float(ms.mean())}
        found[label] |= {"median_ms": float(np.median(ms)), "p95_ms": float(np.quantile(ms, 0.95))}
    return found


def peer(recording: events.Recording, python: str, folder: Path) -> dict[str, Any] | str:
    """The same for eventcv, or why not."""
    window, camera = recording.events, recording.camera
    path = folder / "peer.npz"
    columns = (window.x, window.y, window.t_us - window.t_us[0], window.p)
    arrays = {"xytp": np.stack(columns, axis=1).astype(np.int64), "packet": PACKET, "size": camera.size}
    np.savez(path, K=camera.intrinsics, D=camera.distortion, **arrays)
    answer = subprocess.run([python, "-c", PEER, str(path)], capture_output=True, text=True, check=False)
    if answer.returncode:
        return answer.stderr.strip().splitlines()[-1]
    found = json.loads(answer.stdout)
    first = np.arange(len(found["seconds"])) * PACKET
    middle_s = (window.t_us[first] + window.t_us[first + PACKET - 1]) / 2e6
    truth = recording.ground_truth
    at_middle = [np.interp(middle_s, truth.t_s, component) for component in truth.omega_rad_s.T]
    error = np.degrees(np.array(found["velocities"]).T - at_middle)
    return {
        "version": found["version"],
        "events_per_s": float(len(first) * PACKET / np.sum(found["seconds"])),
        "ms_per_packet": 1e3 * float(np.median(found["seconds"])),
        "rms_deg_s": float(np.sqrt(np.mean(error**2))),
        "median_deg_s": float(np.median(np.abs(error))),
    }


def stages(recording: events.Recording) -> dict[str, float]:
    """Milliseconds of each stage for a packet from the middle of the recording."""
    config = CONFIGS["velocity"]
    aligner = Aligner(recording.camera, config)
    scorer = Scorer(Frame(recording.camera, config.border), vote=config.vote, blur_sigma=config.blur_sigma)
    (vote, gather), taps = KERNELS[config.vote], blur_taps(config.blur_sigma)
    middle = len(recording.events) // 2
    window = recording.events[middle : middle + PACKET]
    velocity, packet = aligner.align(window).velocity, aligner.packet(window)
    warped = scorer.warp.apply(packet, scorer.frame, velocity)
    width, height = scorer.frame.size
    votes = np.zeros((2, height + 2 * PAD, width + 2 * PAD), np.float32)
    _, *box = vote(warped[0], warped[1], packet.p, PAD, votes)
    images, table = votes.copy(), tabulate(scorer.pixel_score)
    at_events = np.empty((2, PACKET), np.float32)
    gradient, fisher = np.empty((2, 3)), np.empty((3, 3, 3))

    def image_pass() -> None:
        for image in images:
            score_image(image, PAD, tuple(box), taps, *table)

    def chain_and_sum() -> None:
        by_motion = scorer.warp.slopes_by_motion(packet, scorer.frame, velocity, None, warped, at_events)
        accumulate_moments(by_motion, packet.dt_s, gradient, fisher)

    image_pass()
    work: dict[str, tuple[Callable[[], Any], Callable[[], Any]]] = {
        "undistort": (lambda: None, lambda: aligner.packet(window)),
        "warp": (lambda: None, lambda: scorer.warp.apply(packet, scorer.frame, velocity)),
        "vote": (lambda: None, lambda: vote(warped[0], warped[1], packet.p, PAD, votes)),
        "image pass": (lambda: np.copyto(images, votes), image_pass),
        "gather": (
            lambda: None,
            lambda: gather(warped[0], warped[1], packet.p, PAD, images, at_events[0], at_events[1]),
        ),
        "chain rule": (lambda: None, chain_and_sum),
        "whole evaluation": (lambda: None, lambda: scorer(packet, velocity)),
    }
    return {name: 1e3 * _median_seconds(before, action) for name, (before, action) in work.items()}


def _median_seconds(before: Callable[[], Any], action: Callable[[], Any], repeats: int = 100) -> float:
    seconds = []
    for _ in range(repeats):
        before()
        start = time.perf_counter()
        action()
        seconds.append(time.perf_counter() - start)
    return float(np.median(seconds))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--recording", type=Path, default=DATA / "sim" / "texture_rot.npz")
    parser.add_argument("--peer-python", default=sys.executable, help="interpreter that has eventcv")
    parser.add_argument("--json", type=Path, help="write the results here")
    options = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    machine = describe_machine("benchmarks/events_speed.py")
    print(f"{machine['processor']}, one core, Python {machine['python']}, {machine['packages']}")
    start = time.process_time()
    recording = events.read(options.recording)
    read_s = time.process_time() - start
    n, duration_s = len(recording.events), recording.events.duration_us * 1e-6
    print(f"{options.recording.name}: {n:,} events in {duration_s:.2f} s, read at {n / read_s * 1e-6:.1f} million/s\n")
    for config in CONFIGS.values():  # compile
        Aligner(recording.camera, config).align(recording.events[:PACKET])
    rows = {label: ours(recording, config) for label, config in CONFIGS.items()}
    events.align(replace(recording, events=recording.events[: 5 * PACKET]))  # compile
    for label, config in (("align, packets", AlignConfig(estimator="packets")), ("align (default)", AlignConfig())):
        rows[label] = whole(recording, config)
    with tempfile.TemporaryDirectory() as folder:
        theirs = peer(recording, options.peer_python, Path(folder))
    if isinstance(theirs, str):
        print(f"eventcv did not run: {theirs} (install eventcv, or name an interpreter that has it by --peer-python)\n")
    else:
        rows[f"eventcv {theirs['version']}"] = theirs
    peer_rate = None if isinstance(theirs, str) else theirs["events_per_s"]
    print(f"{'':36} {'events/s':>10} {'ms/packet':>10} {'evaluations':>12} {'RMS':>7} {'median':>7}  times eventcv")
    for label, row in rows.items():
        ratio = "" if peer_rate is None else f"{row['events_per_s'] / peer_rate:14.1f}"
        evaluations = f"{row['evaluations']:12.1f}" if "evaluations" in row else " " * 12
        print(
            f"{label:36} {row['events_per_s']:10,.0f} {row['ms_per_packet']:10.1f} {evaluations} "
            f"{row['rms_deg_s']:7.2f} {row['median_deg_s']:7.2f} {ratio}"
        )
    short = short_windows(recording)
    for label, row in short.items():
        print(
            f"\nwindows of 1 ms ({row['events']:,.0f} events) by Aligner.{label}: mean {row['mean_ms']:.2f} ms, median "
            f"{row['median_ms']:.2f}, 95 % within {row['p95_ms']:.2f}"
        )
    per_stage = stages(recording)
    per_stage["solver, per packet"] = (
        rows["velocity"]["ms_per_packet"]
        - per_stage["undistort"]
        - rows["velocity"]["evaluations"] * per_stage["whole evaluation"]
    )
    print("\nmilliseconds for 30,000 events: " + ", ".join(f"{name} {ms:.3f}" for name, ms in per_stage.items()))
    if options.json:
        report = {
            "machine": machine,
            "read_events_per_s": n / read_s,
            "rows": rows,
            "short": short,
            "stages_ms": per_stage,
        }
        options.json.write_text(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
