"""How fast `align --device cuda` is, transfer included, where its time goes, how far from the CPU's its answers are.

    python benchmarks/events_cuda.py [--millions 400] [--plan 1x32 4x8 8x8] [--rates-only] [--json PATH]

Recordings are texture_rot and shapes_rot of the data that PAUCA_DATA names. For the rate, each is repeated in memory;
the clock runs from events in the memory of the process to the list of all alignments, after the kernels are compiled
and every worker has aligned some pieces. Fewer than four processes get as many quarters of the events. A plan is how
many processes, and how many pieces each has at a time (one process alone has its usual 32).

The breakdown is that of one process alone: packing and sending events, what the GPU does (by its own clock) for votes,
images, gathering and sums over parts, the rest of the time for answers (starting kernels, waiting), and what the CPU
decides.

Answers are compared for the recordings as they are, in the same pieces; beside them stand those of the CPU to itself
with scores that are disturbed by a millionth of their deviation: how far a search carries the last bit of a number.
"""

import argparse
import json
import os
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pauca import events
from pauca.events import pieces
from pauca.events.device import align as device_align
from pauca.events.device import kernels
from pauca.events.device.engine import Engine
from pauca.events.recording import camera_of
from pauca.events.score import Scorer
from pauca.runs import describe_machine

DATA = Path(os.environ.get("PAUCA_DATA", Path(__file__).resolve().parents[2] / "shared" / "data")) / "events"
CONFIG = events.AlignConfig(estimator="packets", remove_hot_pixels=False, remove_noise=False)
REPEATS = 2  # the best counts
WARM_PIECE = 50_000  # of the first alignments, until every worker has compiled, or read what is compiled
SMALL_PIECE = 400_000  # of the recordings as they are, so that there are several at once
KERNELS = {"vote": "votes", "score_images": "images", "gather": "gathering", "sums_over_parts": "sums over parts"}


def repeated(unit: events.Events, count: int) -> list[events.Events]:
    """The same events again and again, as chunks."""
    chunks, shift_us = [], 0
    while count > 0:
        part = unit[:count]
        chunks.append(events.Events.checked(part.t_us + shift_us, part.x, part.y, part.p, part.size))
        count, shift_us = count - len(part), shift_us + unit.duration_us + 1
    return chunks


def aligned(
    chunks: list[events.Events], camera: events.Camera, device: events.Device, workers: pieces.Workers
) -> list[events.Alignment]:
    aligner = events.Aligner(camera, replace(CONFIG, device=device))
    return [a for piece in pieces.align_in_pieces(chunks, aligner, workers) for a in piece]


def warmed_up(unit: events.Events, camera: events.Camera, device: events.Device, workers: pieces.Workers) -> float:
    """Small pieces for every worker, twice: one that starts late gets none the first time. Seconds that takes."""
    usual, pieces.PIECE_EVENTS = pieces.PIECE_EVENTS, WARM_PIECE
    start = time.perf_counter()
    try:
        for _ in range(2):
            aligned([unit[: 2 * workers.count * device_align._OF_A_WORKER * WARM_PIECE]], camera, device, workers)
    finally:
        pieces.PIECE_EVENTS = usual
    return time.perf_counter() - start


def rate(
    chunks: list[events.Events], camera: events.Camera, device: events.Device, workers: pieces.Workers
) -> dict[str, Any]:
    """Events a second, with so many processes that have started before."""
    n, starting_s = sum(map(len, chunks)), warmed_up(chunks[0], camera, device, workers)
    clock = [time.perf_counter()]
    for _ in range(REPEATS):
        packets = len(aligned(chunks, camera, device, workers))
        clock.append(time.perf_counter())
    all_s = np.diff(clock).round(3).tolist()
    about = {"device": device, "workers": workers.count, "of_a_worker": device_align._OF_A_WORKER, "events": n}
    found = {"packets": packets, "seconds": all_s, "million_events_per_s": round(n / min(all_s) / 1e6, 1)}
    return about | found | {"starting_s": round(starting_s, 1)}


class Clocks:
    """Where the time of one process goes: Python's clock around the engine, the GPU's around its kernels."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self.rounds = self.requests = 0
        self._spans: list[tuple[str, Any, Any]] = []

    def __enter__(self) -> "Clocks":
        self._kept = Engine.take, Engine.answer
        self._kernels = {name: getattr(kernels, name) for name in KERNELS}
        take, answer = self._kept
        Engine.take = self._timed("packing and sending", take)
        Engine.answer = self._counted(self._timed("answers", answer))
        for name, kernel in self._kernels.items():
            setattr(kernels, name, self._on_gpu(KERNELS[name], kernel))
        return self

    def __exit__(self, *_: object) -> None:
        Engine.take, Engine.answer = self._kept
        for name, kernel in self._kernels.items():
            setattr(kernels, name, kernel)

    def table(self, total_s: float) -> dict[str, float]:
        torch.cuda.synchronize()
        on_gpu: dict[str, float] = defaultdict(float)
        for name, start, end in self._spans:
            on_gpu[name] += start.elapsed_time(end) * 1e-3
        answers, sending = self.seconds["answers"], self.seconds["packing and sending"]
        parts = {"packing and sending": sending, **on_gpu, "rest of answers": answers - sum(on_gpu.values())}
        parts["decisions on the CPU"] = total_s - answers - sending
        return {name: round(value, 4) for name, value in parts.items()}

    def _timed(self, name: str, work: Callable) -> Callable:
        def timed(*args: Any, **kwargs: Any) -> Any:
            start = time.perf_counter()
            try:
                return work(*args, **kwargs)
            finally:
                self.seconds[name] += time.perf_counter() - start

        return timed

    def _counted(self, work: Callable) -> Callable:
        def counted(engine: Engine, requests: list) -> Any:
            self.rounds, self.requests = self.rounds + 1, self.requests + len(requests)
            return work(engine, requests)

        return counted

    def _on_gpu(self, name: str, work: Callable) -> Callable:
        def on_gpu(*args: Any, **kwargs: Any) -> Any:
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            found = work(*args, **kwargs)
            end.record()
            self._spans.append((name, start, end))
            return found

        return on_gpu


def breakdown(chunks: list[events.Events], camera: events.Camera, workers: pieces.Workers) -> dict[str, Any]:
    with Clocks() as clocks:
        start = time.perf_counter()
        found = aligned(chunks, camera, "cuda", workers)
        total_s = time.perf_counter() - start
        parts = clocks.table(total_s)
    about = {"seconds": round(total_s, 3), "packets": len(found), "rounds": clocks.rounds, "requests": clocks.requests}
    us = {name: round(seconds / clocks.requests * 1e6, 1) for name, seconds in parts.items()}
    return about | {"parts_s": parts, "us a question": us}


def disturbed(work: Callable[[], list[events.Alignment]], size: float = 1e-6) -> list[events.Alignment]:
    """What the CPU finds where gradients are off by so much of their deviation."""
    rng, call = np.random.default_rng(0), Scorer.__call__

    def moved(self: Scorer, *args: Any) -> events.Score:
        score = call(self, *args)
        noise = size * np.sqrt(np.diag(score.fisher)) * rng.standard_normal(len(score.gradient))
        return score._replace(gradient=score.gradient + noise)

    Scorer.__call__ = moved
    try:
        return work()
    finally:
        Scorer.__call__ = call


def compared(ours: list[events.Alignment], theirs: list[events.Alignment]) -> dict[str, Any]:
    """How far answers are apart: of packets that are cut alike one by one, of all as velocities over time."""
    alike = {(a.start_us, a.end_us): a for a in theirs}
    both = [(a, alike[a.start_us, a.end_us]) for a in ours if (a.start_us, a.end_us) in alike]
    trusted = [(a, b) for a, b in both if a.status.trusted and b.status.trusted]
    degrees = np.degrees([np.abs(a.velocity - b.velocity).max() for a, b in trusted])
    deviations = [np.max(np.abs(a.velocity - b.velocity) / np.sqrt(np.diag(b.covariance))) for a, b in trusted]
    one, other = events.Trajectory.from_alignments(ours), events.Trajectory.from_alignments(theirs)
    over_time = np.degrees(one.at(other.t_us) - other.velocity)[other.trusted]
    return {
        **{"packets": [len(ours), len(theirs)], "cut alike": len(both)},
        "same status of these": sum(a.status is b.status for a, b in both),
        "deg/s, median": float(np.median(degrees)),
        "deg/s, largest": float(degrees.max()),
        "deviations, median": float(np.median(deviations)),
        "deviations, largest": float(np.max(deviations)),
        "all packets over time, RMS deg/s": float(np.sqrt(np.mean(over_time**2))),
    }


def answers(recording: events.Recording) -> dict[str, Any]:
    """The recording as it is, in small pieces: the GPU beside the CPU, and the CPU beside itself, disturbed."""
    assert recording.camera is not None
    camera, chunks = recording.camera, [recording.events]
    usual, pieces.PIECE_EVENTS = pieces.PIECE_EVENTS, SMALL_PIECE
    try:
        with pieces.Workers(1) as alone:
            cpu = aligned(chunks, camera, "cpu", alone)
            gpu, again = (aligned(chunks, camera, "cuda", alone) for _ in range(2))
            moved = disturbed(lambda: aligned(chunks, camera, "cpu", alone))
    finally:
        pieces.PIECE_EVENTS = usual
    told = {"gpu beside cpu": compared(gpu, cpu), "cpu disturbed beside cpu": compared(moved, cpu)}
    told["gpu repeats bit for bit"] = len(gpu) == len(again) and all(
        np.array_equal(a.velocity, b.velocity) and np.array_equal(a.covariance, b.covariance)
        for a, b in zip(gpu, again, strict=True)
    )
    for name, found in (("cpu", cpu), ("gpu", gpu)):
        result = events.evaluate(events.Trajectory.from_alignments(found), recording.ground_truth)
        told[f"RMS error, deg/s, {name}"] = round(result.rms_deg_s, 3)
    return told


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--millions", type=float, default=400)
    parser.add_argument("--plan", nargs="*", default=["1x32", "4x8", "8x8"])
    parser.add_argument("--cpu-workers", type=int, nargs="*", default=[])
    parser.add_argument("--names", nargs="*", default=["texture_rot", "shapes_rot"])
    parser.add_argument("--rates-only", action="store_true")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    plans = [tuple(map(int, plan.split("x"))) for plan in options.plan]
    report: dict[str, Any] = {"machine": describe_machine(), "gpu": torch.cuda.get_device_name(), "recordings": {}}
    print(report["gpu"], f"torch {torch.__version__}, {os.cpu_count()} CPU cores", flush=True)

    def write() -> None:  # after each step: what a limit of time cuts off leaves the rest
        if options.json:
            options.json.write_text(json.dumps(report, indent=1))

    for name in options.names:
        recording = events.read(DATA / "sim" / f"{name}.npz")
        camera, chunks = camera_of(recording, None), repeated(recording.events, round(options.millions * 1e6))
        row: dict[str, Any] = {}
        report["recordings"][name] = row
        if not options.rates_only:
            row["answers"] = answers(recording)
            print(name, json.dumps(row["answers"], indent=1), flush=True)
            write()
        row["rates"] = []
        for plan in plans:
            count, device_align._OF_A_WORKER = plan
            some = chunks[: -(-len(chunks) * min(4, count) // 4)]
            with pieces.Workers(count) as workers:
                row["rates"].append(rate(some, camera, "cuda", workers))
                print(name, row["rates"][-1], flush=True)
                write()
                if count == 1:
                    row["breakdown"] = breakdown(some, camera, workers)
                    print(name, json.dumps(row["breakdown"], indent=1), flush=True)
                    write()
        for count in options.cpu_workers:
            with pieces.Workers(count) as workers:
                row["rates"].append(rate(chunks[: -(-len(chunks) * min(4, count) // 4)], camera, "cpu", workers))
                print(name, row["rates"][-1], flush=True)
                write()


if __name__ == "__main__":
    main()
