"""How exact `pauca.events` is: published packets of a real camera, and simulated sequences with exact ground truth.

    python benchmarks/events_accuracy.py [--only WORD] [--json PATH]

Real packets (DAVIS 240C, 30,000 events each): the paper's settings must find what the authors' code found, at no lower
likelihood. Simulated sequences: error over all axes at the middles of the default packets and on a 1 ms grid, linear
between estimates of any status, the first 30 ms left out (the sequences' simulator started cold): for the paper's
settings, packets with what was added to them one by one, contrast maximization with the same packets and solver, the
velocity between knots (the default) with its parts taken away one by one, and the live form, fed 10 ms at a time (a
knot is known at most 20 ms after its time).
Needs the recordings that PAUCA_DATA names (default: shared/data beside the checkout).
"""

import argparse
import json
import os
import time
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from pauca import events
from pauca.events import AlignConfig, Aligner, Recording, TrajectoryConfig
from pauca.events.continuous import refine
from pauca.events.whole import window_scorer
from pauca.runs import describe_machine

DATA = Path(os.environ.get("PAUCA_DATA", Path(__file__).resolve().parents[2] / "shared" / "data")) / "events"

# What the authors' code finds, and a prototype that maximized the same likelihood (specification, one core).
PUBLISHED = {
    "boxes_rotation": {"authors": (3.576, 3.945, -1.754), "prototype": (3.578, 3.945, -1.758)},
    "shapes_rotation": {"authors": (1.846, -0.513, 1.492), "prototype": (1.846, -0.515, 1.492)},
}
SEQUENCES = ("texture_rot", "shapes_rot", "texture_slow")
COLD_US = 30_000
PACKETS = AlignConfig(estimator="packets")
BETWEEN = AlignConfig()  # the default: a velocity between knots
ALONE = "knots, which packets do not draw"
LIVE = "knots, live, 20 ms late"


def between(**options: float) -> AlignConfig:
    """The velocity between knots, with other options."""
    return replace(BETWEEN, trajectory=TrajectoryConfig(**options))


CONFIGS = {
    "paper's settings": AlignConfig.paper(),
    "packets, bilinear votes, blur 1": replace(PACKETS, vote="bilinear", blur_sigma=1.0),
    "packets, no acceleration": replace(PACKETS, acceleration=False),
    "packets": PACKETS,
    "packets, contrast": replace(PACKETS, objective="contrast"),
    "knots, ON and OFF images alone": between(turn_deg=180.0),
    "knots, full weight at turns": between(turning=1.0),
    "knots, hardly a prior": between(jerk=1e4),
    "knots, more overlap": between(step=2),
    "knots, less overlap": between(step=4),
    ALONE: BETWEEN,
    "knots (default)": BETWEEN,
    LIVE: BETWEEN,
}


def real_packet(name: str) -> dict[str, Any]:
    """Our maximum under the paper's settings beside the published ones, with the likelihood at each."""
    recording = events.read(DATA / "davis240c_packets" / f"{name}.npz")
    aligner = Aligner(recording.camera, AlignConfig.paper())
    found = aligner.align(recording.events)
    row = {
        "packet": name,
        "velocity_rad_s": found.velocity.tolist(),
        "sigma_rad_s": np.sqrt(np.diag(found.covariance)).tolist(),
        "log_likelihood": found.score,
        "evaluations": found.evaluations,
    }
    for source, velocity in PUBLISHED[name].items():
        row[f"away_from_{source}_rad_s"] = float(np.abs(found.velocity - velocity).max())
        row[f"above_{source}_nats"] = found.score - aligner.score(recording.events, np.array(velocity))
    return row


def simulated(recording: events.Recording, label: str, middles_us: np.ndarray) -> dict[str, Any]:
    """Error of a whole simulated sequence."""
    window = recording.events
    started = time.process_time()
    ways = {ALONE: knots_alone, LIVE: followed}
    trajectory = ways[label](recording) if label in ways else events.align(recording, config=CONFIGS[label])
    seconds = time.process_time() - started
    grid_us = np.arange(window.t_us[0] + COLD_US, window.t_us[-1], 1000)
    row = {"events_per_s": len(window) / seconds, "rows": len(trajectory)}
    for name, times_us in (("middles", middles_us), ("grid", grid_us)):
        error = np.degrees(interpolated(trajectory, times_us) - true_velocity(recording, times_us))
        row[name] = {
            "rms_deg_s": float(np.sqrt(np.mean(error**2))),
            "median_deg_s": float(np.median(np.abs(error))),
            "worst_deg_s": float(np.abs(error).max()),
        }
    return row | stated(recording, trajectory)


def stated(recording: events.Recording, trajectory: events.Trajectory) -> dict[str, Any]:
    """How the errors of trusted rows, at their own times, compare with what is stated."""
    used = trajectory.trusted & (trajectory.t_us >= recording.events.t_us[0] + COLD_US)
    error = np.abs(trajectory.velocity - true_velocity(recording, trajectory.t_us))[used]
    sigma = np.sqrt(np.diagonal(trajectory.covariance, axis1=1, axis2=2))[used]
    return {
        "trusted": float(np.mean(used[trajectory.t_us >= recording.events.t_us[0] + COLD_US])),
        "within_68": float(np.mean(error < sigma)),
        "within_95": float(np.mean(error < 1.96 * sigma)),
    }


def knots_alone(recording: events.Recording) -> events.Trajectory:
    """Knots that packets have placed, and neither draw nor judge."""
    config = replace(BETWEEN, remove_hot_pixels=False, remove_noise=False)
    packets = events.align(recording, config=replace(config, estimator="packets"))
    scorer = window_scorer(recording.camera, config)
    return refine(recording.events, Aligner(recording.camera).packet, packets, scorer, config.trajectory)


def followed(recording: events.Recording) -> events.Trajectory:
    """The live form, from windows of 10 ms: no knot is given later than 20 ms after its time."""
    follower, found = events.Follower(recording.camera), []
    edges_us = np.arange(recording.events.t_us[0], recording.events.t_us[-1] + 10_000, 10_000)
    for start_us, end_us in pairwise(edges_us):
        found += follower.push(recording.events.between(int(start_us), int(end_us)))
    return events.Trajectory.from_alignments(found + follower.flush())


def interpolated(trajectory: events.Trajectory, t_us: np.ndarray) -> np.ndarray:
    """Velocity at any time, from rows of any status."""
    return np.stack([np.interp(t_us, trajectory.t_us, component) for component in trajectory.velocity.T], axis=1)


def true_velocity(recording: events.Recording, t_us: np.ndarray) -> np.ndarray:
    truth = recording.ground_truth
    return np.stack([np.interp(t_us * 1e-6, truth.t_s, component) for component in truth.omega_rad_s.T], axis=1)


def compare(only: str) -> list[dict[str, Any]]:
    """All settings whose name holds a word, on all sequences; prints the table."""
    print("\nSimulated sequences: error in deg/s over all axes, RMS / median (worst)")
    print(
        f"  {'':32} {'sequence':13} {'at packet middles':>20} {'on a 1 ms grid':>20} {'within 68, 95 %':>16} "
        f"{'trusted':>8} {'Mev/s':>6}"
    )
    rows = []
    for name in SEQUENCES:
        recording = events.read(DATA / "sim" / f"{name}.npz")
        events.align(Recording(recording.events[:100_000], recording.camera), config=BETWEEN)  # compiles
        packets = events.align(recording, config=PACKETS)
        middles_us = (packets.start_us + packets.end_us) // 2
        middles_us = middles_us[middles_us >= recording.events.t_us[0] + COLD_US]
        for label in CONFIGS:
            if only not in label:
                continue
            row = {"config": label, "sequence": name, **simulated(recording, label, middles_us)}
            rows.append(row)
            errors = [
                f"{row[at]['rms_deg_s']:6.2f} / {row[at]['median_deg_s']:.2f} ({row[at]['worst_deg_s']:5.1f})"
                for at in ("middles", "grid")
            ]
            print(
                f"  {label:32} {name:13} {errors[0]:>20} {errors[1]:>20} {100 * row['within_68']:9.0f}, "
                f"{100 * row['within_95']:3.0f} % {100 * row['trusted']:6.0f} % {row['events_per_s'] / 1e6:6.2f}",
                flush=True,
            )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="only settings whose name holds this word")
    parser.add_argument("--json", type=Path, help="write the results here")
    options = parser.parse_args()
    machine = describe_machine("benchmarks/events_accuracy.py")
    print(f"{machine['processor']}, Python {machine['python']}, {machine['packages']}\n")
    packets = [real_packet(name) for name in PUBLISHED]
    print("Real packets, paper's settings: velocity rad/s (standard deviation)")
    for row in packets:
        velocity = "  ".join(
            f"{v:7.3f} ({s:.3f})" for v, s in zip(row["velocity_rad_s"], row["sigma_rad_s"], strict=True)
        )
        print(f"  {row['packet']:16} {velocity}   log-likelihood {row['log_likelihood']:.2f}")
        for source in PUBLISHED[row["packet"]]:
            away, above = row[f"away_from_{source}_rad_s"], row[f"above_{source}_nats"]
            print(f"    {source:10} at most {away:.3f} rad/s away; our likelihood is higher by {above:.2f} nats")
    sequences = compare(options.only)
    if options.json:
        options.json.write_text(json.dumps({"machine": machine, "packets": packets, "sequences": sequences}, indent=1))


if __name__ == "__main__":
    main()
