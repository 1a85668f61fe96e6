"""How well `align --workers` shares a recording: processor time of one process and of several, and equal results.

    python benchmarks/events_workers.py [--millions 12] [--workers 1 2 3] [--json PATH]

The recording is texture_rot of the data that PAUCA_DATA names, over and over, in memory. Processor time, not the clock,
is counted, so that other work on the machine does not matter: on as many idle cores as workers, the clock shows the
larger of this process's time and the workers' divided by their number. What starting the workers takes (imports, the
kernels from their cache) is told apart.
"""

import argparse
import json
import os
import resource
import sys
import time
from pathlib import Path
from typing import Any

from pauca import events
from pauca.events import pieces
from pauca.runs import describe_machine

DATA = Path(os.environ.get("PAUCA_DATA", Path(__file__).resolve().parents[2] / "shared" / "data")) / "events"


def repeated(unit: events.Events, count: int) -> list[events.Events]:
    """The same events again and again, as chunks."""
    chunks, shift_us = [], 0
    while count > 0:
        part = unit[:count]
        chunks.append(events.Events(part.t_us + shift_us, part.x, part.y, part.p, part.size))
        count, shift_us = count - len(part), shift_us + unit.duration_us + 1
    return chunks


def children_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def measured(chunks: list[events.Events], camera: events.Camera, count: int) -> tuple[dict[str, Any], bytes]:
    """Seconds of this process and of the workers, and all velocities as bytes."""
    config = events.AlignConfig(remove_hot_pixels=False, remove_noise=False)
    first = [chunks[0][:1000]]
    before_s = children_s()
    with pieces.Workers(count) as workers:  # imports and compiles in every worker
        for _ in workers.map(_warm, [(camera, config, first)] * count):
            pass
    starting_s = children_s() - before_s
    own_s, before_s = time.process_time(), children_s()
    with pieces.Workers(count) as workers:
        found = [a for piece in pieces.align_in_pieces(chunks, events.Aligner(camera, config), workers) for a in piece]
    own_s, shared_s = time.process_time() - own_s, children_s() - before_s - starting_s
    row = {"workers": count, "own_s": round(own_s, 2), "workers_s": round(max(0.0, shared_s), 2)}
    row["starting_s"] = round(starting_s, 2)
    return row, b"".join(a.velocity.tobytes() + a.covariance.tobytes() for a in found)


def _warm(about: tuple[events.Camera, events.AlignConfig, list[events.Events]]) -> None:
    camera, config, chunks = about
    for _ in events.Aligner(camera, config).follow(chunks):
        pass


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--millions", type=int, default=12, help="millions of events")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--json", type=Path, help="write all numbers here")
    options = parser.parse_args()
    recording = events.read(DATA / "sim" / "texture_rot.npz")
    assert recording.camera is not None
    chunks = repeated(recording.events, options.millions * 1_000_000)
    config = events.AlignConfig(remove_hot_pixels=False, remove_noise=False)
    _warm((recording.camera, config, [chunks[0][:1000]]))
    started_s = time.process_time()
    n = sum(1 for _ in events.Aligner(recording.camera, config).follow(chunks))
    rows: list[dict[str, Any]] = [{"workers": None, "own_s": round(time.process_time() - started_s, 2), "packets": n}]
    told = set()
    for count in options.workers:
        row, velocities = measured(chunks, recording.camera, count)
        row["times_as_fast"] = round(rows[0]["own_s"] / max(row["own_s"], row["workers_s"] / count), 2)
        told.add(velocities)
        rows.append(row)
    print(describe_machine())
    for row in rows:
        print(row)
    print("results are equal, bit for bit" if len(told) == 1 else "RESULTS DIFFER")
    if options.json:
        options.json.write_text(json.dumps({"machine": describe_machine(), "rows": rows}, indent=2) + "\n")
    return 0 if len(told) == 1 else 1


if __name__ == "__main__":
    sys.exit(main())
