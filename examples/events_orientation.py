"""From a recording to the camera's orientation over time, compared with the truth where the recording brings it.

Run: python examples/events_orientation.py [RECORDING [CALIBRATION]]
"""

import sys

import numpy as np
from scipy.spatial.transform import Rotation

from pauca import events

if len(sys.argv) > 1:
    recording = events.read(sys.argv[1])
    camera = events.Camera.from_file(sys.argv[2], recording.events.size) if len(sys.argv) > 2 else None
else:
    recording, camera = events.simulate(events.SimulateConfig(duration_s=1.0, seed=2)), None

trajectory = events.align(recording, camera)
orientation = Rotation.from_quat(trajectory.orientation())
angles = orientation.as_euler("xyz", degrees=True)
for t_s, (x, y, z) in list(zip(trajectory.t_s, angles, strict=True))[:: max(1, len(trajectory) // 10)]:
    print(f"{t_s:.3f} s  x {x:7.2f}  y {y:7.2f}  z {z:7.2f} deg")

truth = recording.ground_truth
if truth is not None and truth.quat_xyzw is not None:
    nearest = np.abs(truth.t_s[:, None] - trajectory.t_s[[0, -1]]).argmin(0)
    first, last = Rotation.from_quat(truth.quat_xyzw[nearest])
    drift = (first.inv() * last).inv() * orientation[-1]
    print(f"drift after {np.ptp(trajectory.t_s):.2f} s: {np.degrees(drift.magnitude()):.2f} deg")
