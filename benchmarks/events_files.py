"""How fast recordings are decoded, beside other packages, and how much memory a long one takes.

    python benchmarks/events_files.py [--peer-python PYTHON] [--events 200000000] [--folder FOLDER] [--json PATH]

Decoding: sample files of the data that PAUCA_DATA names, the best of several runs, in processor time of one core: other
work on the machine does not count. pauca also checks and repairs what it decodes; "decoder" is without that, as its
peers are: faery 0.7.1, eventcv 1.0.8 and the packages for one format (expelliarmus 1.1.12, event_stream 1.6.3, aedat
2.3.0). They run in the same run, in the environment of --peer-python, up to numpy arrays of the events.

Memory: a synthetic RAW file (EVT2, 640 x 480) of --events events is written to --folder, and deleted after. Each verb
is a process of its own, whose largest resident memory the operating system tells. 0 events leave this part out.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from pauca import events
from pauca.runs import describe_machine

DATA = Path(os.environ.get("PAUCA_DATA", Path(__file__).resolve().parents[2] / "shared" / "data")) / "events"
FILES = (
    "faery_evt2.raw",
    "expelliarmus_evt2_sample.raw",
    "expelliarmus_evt3_sample.raw",
    "faery_dvs.es",
    "davis346_emlb_demo-01.aedat4",
    "tonic_sample_dvxplorer.aedat4",
    "dvs128_MovingDarkBox.aedat",
)
RUNS = 40

PEERS = ("faery", "eventcv", "expelliarmus", "event_stream", "aedat")
PEER = """
import importlib, json, sys, time
tool = importlib.import_module(sys.argv[1])
read = {
    "faery": lambda path: tool.events_stream_from_file(path).to_array(),
    "eventcv": lambda path: tool.load(path).numpy(),
    "expelliarmus": lambda path: tool.Wizard(encoding="evt2" if "evt2" in path else "evt3").read(path),
    "event_stream": lambda path: list(tool.Decoder(path)),
    "aedat": lambda path: [packet["events"] for packet in tool.Decoder(path) if "events" in packet],
}[sys.argv[1]]
found = {}
for path in sys.argv[3:]:
    best = float("inf")
    try:
        for _ in range(int(sys.argv[2])):
            start = time.process_time()
            events = read(path)
            best = min(best, time.process_time() - start)
        n = sum(map(len, events)) if isinstance(events, list) else len(events)
        if n:
            found[path] = [n, best]
    except Exception:
        pass  # it does not read this format
print(json.dumps(found))
"""

# The kernel's own mark of this process: that of getrusage also counts the process that started it.
CHILD = """
import re, sys, time
from pauca.cli import main
code = main(["events", *sys.argv[1:]])
print(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1], time.process_time(), file=sys.stderr)
sys.exit(code)
"""

_STEP_NS = 400  # from one event of the synthetic file to the next, in nanoseconds: 2.5 million events/s


def decoding(peer_python: str | None) -> list[dict[str, Any]]:
    """Events and events for each second of processor time of each file, ours and the peers'."""
    rows, peers = [], {tool: _peer(tool, peer_python) for tool in PEERS}
    for name in FILES:
        path, best = DATA / "formats" / name, float("inf")
        for _ in range(RUNS):
            start = time.process_time()
            n = len(events.read(path).events)
            best = min(best, time.process_time() - start)
        row = {"file": name, "events": n, "pauca_per_s": n / best, "decoder_per_s": n / _unchecked(path)}
        for tool, found in peers.items():
            if str(path) in found:
                count, seconds = found[str(path)]
                row |= {f"{tool}_events": count, f"{tool}_per_s": count / seconds}
        rows.append(row)
    return rows


def _unchecked(path: Path) -> float:
    """Seconds of the decoder alone, which does what the peers do."""
    source, best = events.open_events(path).source, float("inf")
    for _ in range(RUNS):
        start = time.process_time()
        blocks = list(source.blocks([]))
        best = min(best, time.process_time() - start)
        del blocks
    return best


def _peer(tool: str, python: str | None) -> dict[str, Any]:
    if python is None:
        return {}
    paths = [str(DATA / "formats" / name) for name in FILES]
    done = subprocess.run([python, "-c", PEER, tool, str(RUNS), *paths], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def write_long(path: Path, count: int) -> None:
    """A RAW file of events at 2.5 million a second, which sweep over the sensor."""
    block = 64 * 1024
    with path.open("wb") as file:
        file.write(b"% evt 2.0\n% format EVT2;height=480;width=640\n% geometry 640x480\n% end\n")
        rng, written = np.random.default_rng(0), 0
        x, y = rng.integers(0, 640, block, dtype=np.uint32), rng.integers(0, 480, block, dtype=np.uint32)
        on = rng.integers(0, 2, block, dtype=np.uint32)
        while written < count:
            n = min(block, count - written)
            t = (np.arange(written, written + n) * _STEP_NS) // 1000
            words = on[:n] << 28 | (t & 63).astype(np.uint32) << 22 | x[:n] << 11 | y[:n]
            new = np.flatnonzero(np.diff(t >> 6, prepend=-1))  # before these the high part of the time
            high = 0x80000000 | (t[new] >> 6).astype(np.uint32)
            np.insert(words, new, high).astype("<u4").tofile(file)
            x, y, written = (x + 1) % 640, (y + 1) % 480, written + n


def memory(count: int, folder: Path) -> list[dict[str, Any]]:
    """Seconds and largest resident memory of each verb on a long file."""
    rows = []
    with tempfile.TemporaryDirectory(dir=folder) as name:
        path = Path(name) / "long.raw"
        write_long(path, count)
        size_gb = path.stat().st_size / 1e9
        verbs = {
            "info": ["info", str(path)],
            "check": ["check", str(path)],
            "convert to RAW (EVT3)": ["convert", str(path), f"{name}/a.raw", "--quiet"],
            "convert to HDF5 (Blosc)": ["convert", str(path), f"{name}/a.h5", "--compression", "blosc", "--quiet"],
        }
        for verb, words in verbs.items():
            start = time.perf_counter()
            process = subprocess.Popen([sys.executable, "-c", CHILD, *words], stdout=subprocess.DEVNULL, stderr=-1)
            _, said = process.communicate()
            if process.returncode:
                raise SystemExit(f"{verb} failed: {said.decode()[-300:]}")
            peak_kib, processor_s = said.split()[-2:]
            rows.append(
                {
                    "verb": verb,
                    "events": count,
                    "file_gb": round(size_gb, 2),
                    "seconds": round(time.perf_counter() - start, 1),
                    "processor_seconds": round(float(processor_s), 1),
                    "peak_mib": round(int(peak_kib) / 1024),
                }
            )
            for made in Path(name).glob("a.*"):
                made.unlink()
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peer-python", help="Python of an environment with faery and eventcv")
    parser.add_argument("--events", type=int, default=200_000_000, help="of the synthetic file; 0 for none")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()), help="for the synthetic file")
    parser.add_argument("--json", type=Path, help="write all numbers here")
    options = parser.parse_args()
    found = {"machine": describe_machine(), "decoding": decoding(options.peer_python)}
    for row in found["decoding"]:
        speeds = {tool: row[f"{tool}_per_s"] / 1e6 for tool in ("pauca", "decoder", *PEERS) if f"{tool}_per_s" in row}
        told = ", ".join(f"{tool} {speed:.1f}" for tool, speed in speeds.items())
        print(f"{row['file']:<32}{row['events']:>9,} events; million/s: {told}")
    found["memory"] = memory(options.events, options.folder) if options.events else []
    for row in found["memory"]:
        print(
            f"{row['verb']:<26}{row['events']:,} events ({row['file_gb']} GB): {row['peak_mib']} MiB, "
            f"{row['seconds']} s, {row['processor_seconds']} s of one core"
        )
    if options.json:
        options.json.write_text(json.dumps(found, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
