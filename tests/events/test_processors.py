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
for path in sys.argv[1:]:
    data = np.load(path)
    window = Events(*(data[name] for name in ("t_us", "x", "y", "p")), tuple(data["size"].tolist()))
    camera = Camera(window.size, *data["camera"].tolist())
    for config in (AlignConfig(), AlignConfig.paper()):
        print(json.dumps([a.velocity.tolist() for a in events.align_packets(window, camera, config)]))
"""


def _compare(windows, folder):
    """Windows of events with their cameras, by the kernels of this processor and by those of a plain one."""
    paths = []
    for number, (window, camera) in enumerate(windows):
        numbers = np.array([*camera.intrinsics, *camera.distortion])
        columns = {name: getattr(window, name) for name in ("t_us", "x", "y", "p")}
        paths.append(folder / f"{number}.npz")
        np.savez(paths[-1], size=window.size, camera=numbers, **columns)
    plain = {"NUMBA_CPU_NAME": "generic", "NUMBA_CPU_FEATURES": "", "NUMBA_CACHE_DIR": str(folder / "numba")}
    words = [sys.executable, "-c", ELSEWHERE, *map(str, paths)]
    answer = subprocess.run(words, env=os.environ | plain, capture_output=True, text=True, check=True)
    lines = iter(answer.stdout.splitlines())
    for window, camera in windows:
        for config in (AlignConfig(), AlignConfig.paper()):
            here = [a.velocity for a in events.align_packets(window, camera, config)]
            np.testing.assert_allclose(here, json.loads(next(lines)), rtol=0, atol=AGREE_RAD_S)


@pytest.mark.slow
def test_velocities_do_not_depend_on_the_processor(tmp_path):
    _compare([(rotating_events([1.0, -2.0, 3.0]), CAMERA)], tmp_path)


@pytest.mark.slow
@pytest.mark.realdata
def test_velocities_of_real_packets_do_not_depend_on_the_processor(pauca_data, tmp_path):
    folder = pauca_data / "events"
    paths = [*sorted(folder.glob("davis240c_packets/*.npz")), *sorted(folder.glob("rotation/*_rotation.npz"))]
    assert len(paths) == 12
    recordings = [events.read(path) for path in paths]
    _compare([(recording.events, recording.camera) for recording in recordings], tmp_path)
