"""Follow a camera's rotation in a loop of your own, window by window, as behind a live event camera.

A simulated recording stands in for the camera. Run: python examples/events_live_loop.py
"""

import numpy as np

from pauca import events

WINDOW_US = 10_000  # a controller that wants 100 velocities a second

recording = events.simulate(events.SimulateConfig(scene="shapes", duration_s=0.5, seed=1))
assert recording.camera is not None
aligner = events.Aligner(recording.camera)

start_us, end_us = int(recording.events.t_us[0]), int(recording.events.t_us[-1])
for t_us in range(start_us, end_us, WINDOW_US):
    window = recording.events.between(t_us, t_us + WINDOW_US)
    alignment = aligner.align(window)  # starts from the last window's velocity
    if alignment.status is events.Status.DEGENERATE:
        print(f"{t_us / 1e6:.2f} s  too little to see in {len(window)} events")
        continue
    velocity, sigma = np.degrees(alignment.velocity), np.degrees(np.sqrt(np.diag(alignment.covariance)))
    told = "  ".join(f"{axis} {v:7.1f} +- {s:4.1f}" for axis, v, s in zip("xyz", velocity, sigma, strict=True))
    print(f"{alignment.t_us / 1e6:.3f} s  {told} deg/s  ({len(window)} events)")
