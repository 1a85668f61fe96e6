"""What reads chunk by chunk needs no more memory for a longer recording."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from pauca import events
from pauca.events import Camera, Events
from pauca.events.io.encoders import RawEncoder

pytestmark = pytest.mark.slow

_REPEATS = {"short": 2, "long": 6}
_PEAK = """
import re, sys
from pauca import cli
from pauca.events import whole
whole.PIECE_EVENTS = 1_000_000
code = cli.main(sys.argv[1:])
print(code, re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1])
"""
CALIBRATION = "60 60 31.5 23.5 0 0 0 0 0"


@pytest.fixture(scope="module")
def recordings(tmp_path_factory) -> dict[str, Path]:
    """A motion of two seconds over and over: 3.7 and 11 million events of 64 x 48 sensitive pixels."""
    config = events.SimulateConfig(peak_deg_s=300.0, contrast_on=0.05, contrast_off=0.05, refractory_us=20.0)
    camera = Camera((64, 48), 60.0, 60.0, 31.5, 23.5)
    unit = events.simulate(config, camera=camera).events
    assert len(unit) > 1_500_000
    folder, paths = tmp_path_factory.mktemp("long"), {}
    (folder / "calib.txt").write_text(CALIBRATION)
    for name, repeats in _REPEATS.items():
        paths[name] = folder / f"{name}.raw"
        encoder = RawEncoder(paths[name], "evt3")
        for i in range(repeats):
            encoder.write(Events(unit.t_us + i * 2_100_000, unit.x, unit.y, unit.p, unit.size))
        encoder.close()
    return paths


def _peak_mib(words: list[str]) -> float:
    told = subprocess.run(
        [sys.executable, "-c", _PEAK, "events", *words], capture_output=True, text=True, check=True
    ).stdout.split()
    assert told[-2] == "0"
    return int(told[-1]) / 1024


@pytest.mark.parametrize("verb", ["info", "check", "convert", "align", "packets", "panorama", "video"])
def test_memory_does_not_grow_with_the_recording(recordings, verb, tmp_path):
    peaks = {}
    for name, path in recordings.items():
        out = tmp_path / name
        turned = ["--camera", str(path.parent / "calib.txt"), "--out", str(out), "--quiet"]
        still = [*turned, "--trajectory", str(_at_rest(path, tmp_path / f"{name}.npz"))]
        words = {
            "info": ["info", str(path), "--json"],
            "check": ["check", str(path), "--json"],
            "convert": ["convert", str(path), str(out.with_suffix(".h5")), "--compression", "none", "--quiet"],
            "align": ["align", str(path), *turned],
            "packets": ["align", str(path), *turned, "--estimator", "packets"],
            "panorama": ["panorama", str(path), *still],
            "video": ["video", str(path), *still[:3], str(out.with_suffix(".gif")), *still[4:], "--fps", "10"],
        }[verb]
        peaks[name] = _peak_mib(words)
    assert peaks["long"] - peaks["short"] < 50, peaks  # MiB; the events alone would be 98 more


def _at_rest(recording: Path, path: Path) -> Path:
    """A trajectory of some slow turn, as long as the recording."""
    from .mosaic.test_attitude import trajectory

    n = int(max(chunk.t_us[-1] for chunk in events.open_events(recording)) // 5000)
    t_s = np.arange(n) * 5e-3
    velocity = 0.2 * np.stack([np.sin(t_s), np.cos(t_s), 0 * t_s], axis=1)
    trajectory(velocity, 5000, 0).to_npz(path, force=True)
    return path
