"""Orientation of a turning camera: integrated velocities, and with loops closed by the panorama.

A pan of 420 degrees over each scene (the camera comes back to what it saw first), and the simulated sequences of the
data folder (a motion by hand, which comes back all the time). Errors in degrees against the true orientation.

    python benchmarks/events_panorama.py [--json FILE]
"""

import argparse
import json
import os
import time
from pathlib import Path

import numpy as np
from scipy.spatial.transform import Rotation

from pauca import events
from pauca.runs import describe_machine

DATA = Path(os.environ.get("PAUCA_DATA", Path(__file__).resolve().parents[2] / "shared" / "data")) / "events" / "sim"


def true_turns(recording: events.Recording, attitude: events.Attitude) -> Rotation:
    """The true rotation at each time of the table, integrated in the same steps."""
    truth = recording.ground_truth
    assert truth is not None
    t_s = attitude.times_us * 1e-6
    omega = np.stack([np.interp(t_s, truth.t_s, axis) for axis in truth.omega_rad_s.T], axis=1)
    turned = [Rotation.identity()]
    for step in (omega[1:] + omega[:-1]) / 2 * 1e-3:
        turned.append(turned[-1] * Rotation.from_rotvec(step))
    return Rotation.concatenate(turned)


def errors(recording: events.Recording, attitude: events.Attitude) -> np.ndarray:
    true = true_turns(recording, attitude)[30:-30]  # simulators of other people start cold
    found = attitude.at(attitude.times_us)[30:-30]
    return np.degrees(((found[0].inv() * found).inv() * (true[0].inv() * true)).magnitude())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    recordings = {}
    for scene in ("texture", "shapes"):
        config = events.SimulateConfig(scene=scene, movement="constant", peak_deg_s=200.0, duration_s=2.1, seed=7)
        recordings[f"pan of 420 degrees, {scene}"] = events.simulate(config)
    for path in sorted(DATA.glob("*.npz")):
        recordings[path.stem] = events.read(path)
    rows = []
    for name, recording in recordings.items():
        trajectory = events.align(recording)
        for close in (False, True):
            started = time.perf_counter()
            found = events.panorama(recording, trajectory, config=events.PanoramaConfig(close_loops=close))
            seconds = time.perf_counter() - started
            wrong = errors(recording, found.attitude)
            rows.append({
                "recording": name, "loops closed": close, "closures": len(found.closures),
                "median": round(float(np.median(wrong)), 2), "largest": round(float(wrong.max()), 2),
                "at the end": round(float(wrong[-1]), 2), "seconds": round(seconds, 1),
            })  # fmt: skip
    print(describe_machine())
    print("degrees of error of the orientation")
    print("  ".join(f"{name:>12}" for name in rows[0]))
    for row in rows:
        print("  ".join(f"{value!s:>12}" for value in row.values()))
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
