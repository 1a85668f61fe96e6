"""How much memory the verbs of `pauca events` need for recordings of growing length.

    python benchmarks/events_memory.py [--millions 10 20 40] [--verbs align panorama] [--folder FOLDER] [--json PATH]

The recording is texture_rot of the data that PAUCA_DATA names (240 x 180 pixels, 2.9 million events/s), over and over
as one RAW file (EVT3), which is written to --folder and deleted after. Each verb is a process of its own, whose
largest resident memory the kernel tells. panorama and video take the trajectory that align has found.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from pauca import events
from pauca.events.io.encoders import RawEncoder
from pauca.runs import describe_machine

DATA = Path(os.environ.get("PAUCA_DATA", Path(__file__).resolve().parents[2] / "shared" / "data")) / "events"
VERBS = ("info", "check", "convert", "align", "align --estimator packets", "panorama", "video")

# The kernel's own mark of this process: that of getrusage also counts the process that started it.
CHILD = """
import re, sys, time
from pauca.cli import main
code = main(["events", *sys.argv[1:]])
print(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1], time.process_time(), file=sys.stderr)
sys.exit(code)
"""


def write_long(path: Path, unit: events.Events, count: int) -> None:
    """The same events again and again, as many as are asked for."""
    encoder, left, shift_us = RawEncoder(path, "evt3"), count, 0
    while left > 0:
        part = unit[:left]
        encoder.write(events.Events(part.t_us + shift_us, part.x, part.y, part.p, part.size))
        left, shift_us = left - len(part), shift_us + unit.duration_us + 1
    encoder.close()


def measured(verb: str, path: Path, calibration: Path) -> dict[str, Any]:
    """Largest memory and processor time of a verb; what it wrote stays beside the recording."""
    camera = ["--camera", str(calibration), "--quiet"]
    known = ["--trajectory", f"{path.with_suffix('')}/trajectory.npz"]
    words = {
        "info": ["info", str(path)],
        "check": ["check", str(path)],
        "convert": ["convert", str(path), f"{path}.h5", "--compression", "blosc", "--quiet"],
        "align": ["align", str(path), *camera, "--out", str(path.with_suffix(""))],
        "align --estimator packets": [
            *("align", str(path), *camera, "--out", f"{path}.packets", "--estimator", "packets")
        ],
        "panorama": ["panorama", str(path), *camera, *known, "--out", f"{path}.panorama"],
        "video": ["video", str(path), *camera, *known, "--out", f"{path}.gif"],
    }[verb]
    process = subprocess.Popen([sys.executable, "-c", CHILD, *words], stdout=subprocess.DEVNULL, stderr=-1)
    _, said = process.communicate()
    if process.returncode:
        raise SystemExit(f"{verb} failed: {said.decode()[-300:]}")
    peak_kib, processor_s = said.split()[-2:]
    return {"verb": verb, "peak_mib": round(int(peak_kib) / 1024), "processor_seconds": round(float(processor_s), 1)}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--millions", type=int, nargs="+", default=[10, 20, 40], help="millions of events")
    parser.add_argument("--verbs", nargs="+", default=list(VERBS), choices=VERBS)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()), help="for what is written")
    parser.add_argument("--json", type=Path, help="write all numbers here")
    options = parser.parse_args()
    recording = events.read(DATA / "sim" / "texture_rot.npz")
    assert recording.camera is not None
    rows = []
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        calibration = Path(name) / "calib.txt"
        numbers = (*recording.camera.intrinsics, *recording.camera.distortion)
        calibration.write_text(" ".join(repr(float(number)) for number in numbers))
        for millions in options.millions:
            path = Path(name) / f"{millions}.raw"
            write_long(path, recording.events, millions * 1_000_000)
            for verb in options.verbs:
                row = {"million_events": millions, **measured(verb, path, calibration)}
                rows.append(row)
                told = f"{row['peak_mib']} MiB, {row['processor_seconds']} s of one core"
                print(f"{millions} million events, {verb}: {told}", flush=True)
                if options.json:
                    options.json.write_text(json.dumps({"machine": describe_machine(), "rows": rows}, indent=2) + "\n")
            path.unlink()
            Path(f"{path}.h5").unlink(missing_ok=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
