"""How exact `pauca.events` is: published packets of a real camera, and simulated sequences with exact ground truth.

    python benchmarks/events_accuracy.py [--json PATH]

Real packets (DAVIS 240C, 30,000 events each): the paper's settings must find what the authors' code found, at no lower
likelihood. Simulated sequences: error of every packet and axis at the time that the packet states, for the paper's
settings, for our defaults (one configuration for all), and for contrast maximisation with the same packets and solver.
Needs the recordings that PAUCA_DATA names (default: shared/data beside the checkout).
"""

import argparse
import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from pauca import events
from pauca.events import AlignConfig, Aligner, Status
from pauca.runs import describe_machine

DATA = Path(os.environ.get("PAUCA_DATA", Path(__file__).resolve().parents[2] / "shared" / "data")) / "events"

# What the authors' code finds, and a prototype that maximised the same likelihood (specification, one core).
PUBLISHED = {
    "boxes_rotation": {"authors": (3.576, 3.945, -1.754), "prototype": (3.578, 3.945, -1.758)},
    "shapes_rotation": {"authors": (1.846, -0.513, 1.492), "prototype": (1.846, -0.515, 1.492)},
}
LIMITS_DEG_S = {"texture_rot": 2.5, "shapes_rot": 5.0, "texture_slow": 3.8}  # RMS that the defaults must not exceed
CONFIGS = {
    "paper": AlignConfig.paper(),
    "default": AlignConfig(),
    "default, no acceleration": AlignConfig(acceleration=False),
    "default, first-order warp": AlignConfig(exact=False),
    "default, contrast": AlignConfig(objective="contrast"),
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


def simulated(name: str, config: AlignConfig) -> dict[str, Any]:
    """Error of a whole simulated sequence."""
    recording = events.read(DATA / "sim" / f"{name}.npz")
    trajectory = events.align(recording, config=config)
    result = events.evaluate(trajectory, recording.ground_truth, all_packets=True)
    sigma = np.degrees(np.sqrt(np.diagonal(trajectory.covariance, axis1=1, axis2=2)))
    return {
        "sequence": name,
        "rms_deg_s": result.rms_deg_s,
        "median_deg_s": result.median_deg_s,
        "worst_deg_s": float(np.abs(result.error_deg_s).max()),
        "median_error_in_sigma": float(np.median(np.abs(result.error_deg_s) / sigma)),
        "packets": len(trajectory),
        "converged": sum(status is Status.CONVERGED for status in trajectory.status),
        "evaluations": float(trajectory.evaluations.mean()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
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
    print("\nSimulated sequences: error in deg/s over all packets and axes")
    print(f"  {'':26} {'sequence':13} {'RMS':>6} {'median':>7} {'worst':>6} {'packets':>8} {'evaluations':>12}")
    sequences = []
    for label, config in CONFIGS.items():
        for name, limit in LIMITS_DEG_S.items():
            row = {"config": label, **simulated(name, config)}
            sequences.append(row)
            verdict = f"  (limit {limit}: {'kept' if row['rms_deg_s'] <= limit else 'EXCEEDED'})" * (label == "default")
            print(
                f"  {label:26} {name:13} {row['rms_deg_s']:6.2f} {row['median_deg_s']:7.2f} {row['worst_deg_s']:6.0f} "
                f"{row['packets']:8d} {row['evaluations']:12.1f}{verdict}"
            )
    if options.json:
        options.json.write_text(json.dumps({"machine": machine, "packets": packets, "sequences": sequences}, indent=1))


if __name__ == "__main__":
    main()
