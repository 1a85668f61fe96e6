"""What events tell about the focal length of a camera: right ones, and ones that are five percent wrong.

    python benchmarks/events_focal.py [--seed N] [--json PATH]

Each trial simulates a recording, aligns it with the true focal length and with wrong ones, and asks the packets
(`ask_focal_length`). A row says the factor by which the focal length should be multiplied with its standard deviation,
what it should be, and whether the focal length is doubted; "not told" where packets do not tell it. Recordings of a
DAVIS 240C keep their distortion, which then is wrong as well.
"""

import argparse
import json
import logging
from dataclasses import replace
from pathlib import Path

import numpy as np

from pauca import events
from pauca.events import DAVIS240C, Camera, Recording, SimulateConfig
from pauca.runs import describe_machine

CAMERAS = {
    "DAVIS 240C": DAVIS240C,
    "pinhole 240x180": Camera.pinhole((240, 180)),
    "pinhole 128x128": Camera.pinhole((128, 128)),
    "wide (95 degrees)": Camera.pinhole((240, 180), 110.0),
    "narrow (27 degrees)": Camera.pinhole((240, 180), 500.0),
}
GIVEN = (1.0, 1.05, 0.95)


def motions(rng: np.random.Generator) -> dict[str, SimulateConfig]:
    """By name; a narrow lens sees less of a turn."""

    def config(**options: object) -> SimulateConfig:
        seed = int(rng.integers(2**31))
        return SimulateConfig(**{"seed": seed, "duration_s": 0.5, "axis": (0.3, 0.9, 0.3), **options})

    return {
        "random 300": config(peak_deg_s=300.0),
        "constant 100": config(movement="constant", peak_deg_s=100.0),
        "noise 10 Hz": config(peak_deg_s=300.0, noise_hz=10.0),
        "object 10 %": config(peak_deg_s=300.0, moving_object=0.1),
        "roll 300": config(movement="constant", peak_deg_s=300.0, axis=(0.0, 0.0, 1.0)),
    }


def ask(recording: Recording) -> events.FocalLength | None:
    """As `events.align` does."""
    assert recording.camera is not None
    found = list(events.align_packets(recording))
    chosen = events.telling_packets(found, recording.camera.fx).values()
    asked = ((recording.events.between(each.start_us, each.end_us + 1), each) for each in chosen)
    return events.ask_focal_length(asked, recording.camera)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="write all rows here")
    options = parser.parse_args()
    logging.getLogger("pauca").setLevel(logging.ERROR)
    machine = describe_machine("benchmarks/events_focal.py")
    print(f"{machine['processor']}, Python {machine['python']}, seed {options.seed}\n")
    rng, rows = np.random.default_rng(options.seed), []
    for name, camera in CAMERAS.items():
        for scene in ("texture", "shapes"):
            for motion, config in motions(rng).items():
                if motion != "random 300" and name not in ("DAVIS 240C", "pinhole 240x180"):
                    continue
                recording = events.simulate(replace(config, scene=scene), camera=camera)
                for given in GIVEN:
                    wrong = replace(camera, fx=given * camera.fx, fy=given * camera.fy)
                    found = ask(replace(recording, camera=wrong))
                    row = {"camera": name, "scene": scene, "motion": motion, "given": given, "told": found is not None}
                    text = "not told"
                    if found is not None:
                        row |= {"factor": found.factor, "sigma": found.sigma, "doubtful": found.doubtful}
                        text = f"{found.factor:.3f} +- {found.sigma:.3f}{', doubted' if found.doubtful else ''}"
                    rows.append(row)
                    print(f"{name:20} {scene:8} {motion:13} should be {1 / given:.3f}: {text}", flush=True)
    print()
    for given in GIVEN:
        told = [row for row in rows if row["given"] == given and row["told"]]
        doubted = sum(bool(row["doubtful"]) for row in told)
        off = np.array([float(row["factor"]) * given - 1 for row in told])
        print(
            f"given {given:.2f} times the true one: told in {len(told)} of {len(rows) // len(GIVEN)} trials, "
            f"doubted in {doubted}; factor wrong by {100 * np.median(off):+.1f} % (median), "
            f"{100 * np.abs(off).max():.1f} % (most)"
        )
    if options.json:
        options.json.write_text(json.dumps({"machine": machine, "seed": options.seed, "rows": rows}, indent=1))


if __name__ == "__main__":
    main()
