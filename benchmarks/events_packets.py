"""Packets that `pauca.events` cuts by itself, beside the best length that a hand could choose, on large sensors.

    python benchmarks/events_packets.py [--seed N] [--json PATH]

640 x 480 pixels at about 35 million events a second, and 1280 x 720 at about 20 million: a random motion before a
texture. Each recording is aligned with the defaults, and with packets of fixed numbers of events; the error is the
RMS over all axes at the middles of the packets, of any status, in deg/s. What is best by hand is known only with the
truth; asked is at most 1.5 times that.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np

from pauca import events
from pauca.events import AlignConfig, Camera, Recording, SimulateConfig
from pauca.runs import describe_machine

RECORDINGS = {
    "640x480": ((640, 480), {"peak_deg_s": 260.0, "duration_s": 0.15}),
    "1280x720": ((1280, 720), {"peak_deg_s": 30.0, "duration_s": 0.3}),
}
BY_HAND = (30_000, 60_000, 100_000, 200_000, 400_000, 700_000)
ENDLESS = {"packet_s": np.inf, "longest_s": np.inf, "slowest_s": np.inf, "least_pixels": 0.0, "most_pixels": np.inf}


def measure(recording: Recording, config: AlignConfig) -> dict[str, float]:
    """Error and speed of one way to cut."""
    started = time.process_time()
    found = events.align(recording, config=config)
    seconds = time.process_time() - started
    truth = recording.ground_truth
    assert truth is not None
    at = np.stack([np.interp(found.t_s, truth.t_s, part) for part in truth.omega_rad_s.T], axis=1)
    error = np.degrees(found.velocity - at)
    return {
        "packets": len(found),
        "trusted": int(found.trusted.sum()),
        "events": float(np.median(found.n_events)),
        "rms": float(np.sqrt(np.mean(error**2))),
        "median": float(np.median(np.abs(error))),
        "mev_s": len(recording.events) / seconds / 1e6,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=1, help="of scene and motion")
    parser.add_argument("--json", type=Path, help="write all rows here")
    options = parser.parse_args()
    machine = describe_machine("benchmarks/events_packets.py")
    print(f"{machine['processor']}, Python {machine['python']}, seed {options.seed}")
    rows: dict[str, dict[str, Any]] = {}
    for name, (size, motion) in RECORDINGS.items():
        camera = Camera.pinhole(size)
        recording = events.simulate(SimulateConfig(seed=options.seed, **motion), camera=camera)
        rate = len(recording.events) / recording.events.duration_us
        print(f"\n{name}, {len(recording.events):,} events, {rate:.0f} million a second", flush=True)
        ways = {"automatic": AlignConfig(estimator="packets")} | {
            f"{count:,} events": AlignConfig(estimator="packets", packet_events=count, min_events=count, **ENDLESS)
            for count in BY_HAND
        }
        rows[name] = {}
        for way, config in ways.items():
            row = rows[name][way] = measure(recording, config)
            print(
                f"{way:16} RMS {row['rms']:6.2f}  median {row['median']:5.2f}  {row['packets']:4} packets of "
                f"{row['events']:,.0f}, {row['trusted']} trusted, {row['mev_s']:.1f} million events/s",
                flush=True,
            )
        best = min(row["rms"] for way, row in rows[name].items() if way != "automatic")
        print(f"automatic: {rows[name]['automatic']['rms'] / best:.2f} times the best by hand")
    if options.json:
        options.json.write_text(json.dumps({"machine": machine, "seed": options.seed, "rows": rows}, indent=1))


if __name__ == "__main__":
    main()
