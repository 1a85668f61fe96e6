"""How long a checkpoint holds a training up: written while it waits, and in the background.

    python benchmarks/moe_checkpoints.py [--sizes base large] [--folder PATH] [--json PATH]

Weights and AdamW's moments of a language model, on the GPU where there is one, are written to a folder and flushed to
its disk, three times each way; the median counts. "held up" is how long the training waits, "whole" until the
checkpoint has its seal and its name; gigabytes are those of its files.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import torch

from moe_shapes import machine, show, write_json
from pauca.moe import LM_SIZES, MoELM
from pauca.runs.background import BackgroundCheckpoints
from pauca.runs.checkpoints import save_checkpoint

REPEATS = 3


def state_of(size: str) -> dict:
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        weights = {name: torch.empty_like(value) for name, value in MoELM(LM_SIZES[size]).state_dict().items()}
    parts = {part: {name: torch.randn_like(value) for name, value in weights.items()} for part in ("m", "v")}
    return {"model": weights, **parts, "step": 1}


def timed(function) -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    began = time.perf_counter()
    function()
    return time.perf_counter() - began


def measure(size: str, folder: Path) -> dict:
    state, waiting, held, whole = state_of(size), [], [], []
    with BackgroundCheckpoints() as background:
        for step in range(REPEATS):
            waiting.append(timed(lambda step=step: save_checkpoint(folder, 2 * step, state, {}, 1)))
            began = time.perf_counter()
            held.append(timed(lambda step=step: background.save(folder, 2 * step + 1, state, {}, 1)))
            background.wait()
            whole.append(time.perf_counter() - began)
    gigabytes = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) / 1e9
    row = {"size": size, "gigabytes": gigabytes, "waiting_s": statistics.median(waiting)}
    return row | {"held_up_s": statistics.median(held), "whole_s": statistics.median(whole)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", nargs="+", choices=list(LM_SIZES), default=["base"], metavar="SIZE")
    parser.add_argument("--folder", type=Path, help="on the disk to measure; default: the system's temporary one")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    print(machine(), flush=True)
    results = []
    for size in options.sizes:
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            results.append(measure(size, Path(folder)))
        print(results[-1], flush=True)
        write_json(options.json, results)
    show("seconds of a checkpoint", list(results[0]), [list(row.values()) for row in results])


if __name__ == "__main__":
    main()
