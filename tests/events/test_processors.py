"""The same answer on every machine: kernels that are compiled for a plain processor, in a process of their own."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from pauca import events
from pauca.events import AlignConfig

from .scenes import CAMERA, rotating_events

AGREE_RAD_S = 0.002
ELSEWHERE = """
import json, sys
import numpy as np
from pauca import events
from pauca.events import AlignConfig, Camera, Events
data = np.load(sys.argv[1])
window = Events(*(data[name] for name in ("t_us", "x", "y", "p")), tuple(data["size"].tolist()))
camera = Camera(window.size, *data["camera"].tolist())
for config in (AlignConfig(), AlignConfig.paper()):
    print(json.dumps([a.velocity.tolist() for a in events.align_packets(window, camera, config)]))
"""


def _compare(window, camera, folder):
    numbers = np.array([*camera.intrinsics, *camera.distortion])
    columns = {name: getattr(window, name) for name in ("t_us", "x", "y", "p")}
    np.savez(folder / "window.npz", size=window.size, camera=numbers, **columns)
    plain = {"NUMBA_CPU_NAME": "generic", "NUMBA_CPU_FEATURES": "", "NUMBA_CACHE_DIR": str(folder / "numba")}
    words = [sys.executable, "-c", ELSEWHERE, str(folder / "window.npz")]
    answer = subprocess.run(words, env=os.environ | plain, capture_output=True, text=True, check=True)
    for config, line in zip((AlignConfig(), AlignConfig.paper()), answer.stdout.splitlines(), strict=True):
        here = [a.velocity for a in events.align_packets(window, camera, config)]
        np.testing.assert_allclose(here, json.loads(line), rtol=0, atol=AGREE_RAD_S)


@pytest.mark.slow
def test_velocities_do_not_depend_on_the_processor(tmp_path):
    _compare(rotating_events([1.0, -2.0, 3.0]), CAMERA, tmp_path)


@pytest.mark.slow
@pytest.mark.realdata
@pytest.mark.parametrize("name", ["boxes_rotation", "shapes_rotation"])
def test_velocities_of_real_packets_do_not_depend_on_the_processor(pauca_data, tmp_path, name):
    recording = events.read(pauca_data / "events" / "davis240c_packets" / f"{name}.npz")
    _compare(recording.events, recording.camera, tmp_path)
