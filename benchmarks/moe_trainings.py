"""Tokens/s of whole trainings, as `pauca moe train` does them, beside what the planner says.

    python benchmarks/moe_trainings.py [--cases base:fp4 base:fp4:compile large:bf16 ...] [--steps 15] [--json PATH]
    python benchmarks/moe_trainings.py [--cases ...] --profile          # kernels by time on the GPU, of three steps
    python benchmarks/moe_trainings.py --cases toy:fp4 --steps 2        # on a CPU, to see that it runs
    torchrun --nproc-per-node 2 benchmarks/moe_trainings.py --cases base:fp4 --ep 2    # the same work for each GPU

A case is SIZE:RECIPE, and behind it `:compile` for torch.compile, `:graph` for CUDA graphs, `:passesN` for N times the
tokens in as many passes, or several of these. Everything of a
step is in the time: data, forward, backward, clipping, AdamW on FP32 weights. The text is random bytes: untrained
routers spread those evenly, so that experts are as busy as in a training that goes well. Peak is the allocator's.
"""

import argparse
import gc
import io
import os
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from moe_shapes import machine, show, write_json
from pauca.errors import PaucaError
from pauca.moe import LM_SIZES, MoELM, TrainConfig
from pauca.moe.data.token_files import TokenData, TokenFile
from pauca.moe.data.tokenizers import ByteTokenizer
from pauca.moe.layer.recipe import RECIPES
from pauca.moe.plan.evaluate import evaluate
from pauca.moe.plan.gpus import GPUS
from pauca.moe.plan.speed import Rates
from pauca.moe.plan.task import Assumptions, ParallelLayout, PlanTask, Way
from pauca.moe.training.trainer import Trainer

SEQUENCES = {"toy": 4, "base": 32, "large": 8, "xl": 4}  # of a step
CASES = (
    "base:bf16", "base:fp8", "base:fp4", "large:bf16", "large:fp8", "large:fp4", "xl:fp4", "base:bf16:graph",
    "base:fp4:graph", "large:bf16:graph", "large:fp4:graph", "xl:fp4:graph", "base:fp4:compile", "large:fp4:compile",
    "base:fp4:compile:graph", "large:fp4:compile:graph", "xl:bf16",
)  # fmt: skip
WARM_UP = 5


def data() -> TokenData:
    tokens = np.random.default_rng(0).integers(1, 256, 1 << 22, np.uint16)
    return TokenData(Path("random"), TokenFile(Path("random"), tokens, ""), None, ByteTokenizer(), 1.0, {})


def rates_here() -> Rates:
    """The planner's of this GPU: an H100's, or an H200's."""
    name = torch.cuda.get_device_name() if torch.cuda.is_available() else ""
    return GPUS["h200" if "H200" in name else "h100"].rates


def predicted(case: str, rates: Rates) -> float:
    """The planner's tokens/s of this loop, with FP32 weights, gradients and Adam."""
    size, recipe, *how = case.split(":")
    config = LM_SIZES[size]
    tokens = SEQUENCES[size] * config.context
    loop = "eager" if "graph" not in how else "compiled" if "compile" in how else "recorded"
    given = Assumptions(4, 4, optimizer_bytes=8, batch_tokens=tokens, reserved_gb=0, loop=loop, rates=rates)
    task = PlanTask(config.shape, 1, 2**37, tokens, config.context, assumptions=given)
    return evaluate(task, Way(recipe, ParallelLayout(1, 1, 1))).tokens_per_second


def trainer_of(case: str, ep: int = 1) -> Trainer:
    size, recipe, *how = case.split(":")
    torch.manual_seed(0)
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):  # a CPU draws so many weights in minutes
        model = MoELM(replace(LM_SIZES[size], recipe=RECIPES[recipe]))
    passes = int(next((word[6:] for word in how if word.startswith("passes")), 1))
    flags = dict.fromkeys((word for word in how if not word.startswith("passes")), True)
    batch = SEQUENCES[size] * passes * int(os.environ.get("WORLD_SIZE", "1"))
    config = TrainConfig(steps=1000, batch_size=batch, passes=passes, ep=ep, **flags)
    return Trainer(model, data(), config)


def measure(case: str, steps: int, ep: int = 1) -> dict:
    on_gpu = torch.cuda.is_available()
    began = time.monotonic()
    trainer = trainer_of(case, ep)
    for _ in range(WARM_UP if on_gpu else 1):
        trainer.step()
    warm = time.monotonic() - began
    trainer.seconds = 0.0
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    for _ in range(steps):
        trainer.step()
    rate = steps * trainer.tokens_per_step / trainer.seconds
    return {
        "case": case,
        "tokens_per_step": trainer.tokens_per_step,
        "ms_per_step": 1e3 * trainer.seconds / steps,
        "tokens_per_s": round(rate),
        "predicted": round(predicted(case, rates_here())),
        "model_tflop_per_s": rate * trainer.model.config.flops_per_token / 1e12,
        "peak_gib": torch.cuda.max_memory_allocated() / 2**30 if on_gpu else 0.0,
        "first_steps_s": warm,
    }


def profile(case: str, steps: int = 3) -> None:
    trainer = trainer_of(case)
    for _ in range(WARM_UP):
        trainer.step()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as trace:
        for _ in range(steps):
            trainer.step()
        torch.cuda.synchronize()
    kernels = sorted(trace.key_averages(), key=lambda kernel: -kernel.device_time_total)
    each = 1000 * steps
    rows = [(k.device_time_total / each, k.count // steps, k.key[:110]) for k in kernels[:40]]
    total = sum(kernel.device_time_total for kernel in kernels) / each
    show(f"{case}: milliseconds a step on the GPU, {total:.2f} in all", ("ms", "calls", "kernel"), rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", nargs="+", default=list(CASES), metavar="SIZE:RECIPE[:compile][:graph]")
    parser.add_argument("--steps", type=int, default=15, help="that are timed, after some that are not")
    parser.add_argument("--ep", type=int, default=1, help="GPUs that divide the experts, under torchrun")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--profile", action="store_true")
    options = parser.parse_args()
    if int(os.environ.get("RANK", "0")):
        sys.stdout = io.StringIO()
    print(machine(), flush=True)
    if options.profile:
        for case in options.cases:
            profile(case)
        return
    results = []
    for case in options.cases:
        try:
            found = measure(case, options.steps, options.ep)
        except (torch.OutOfMemoryError, PaucaError) as error:
            found = {"case": case, "failed": str(error).splitlines()[0]}
        print(found, flush=True)
        results.append(found)
        if not int(os.environ.get("RANK", "0")):
            write_json(options.json, results)
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        torch._dynamo.reset()
    done = [list(found.values()) for found in results if "failed" not in found]
    if done:
        show("whole trainings", list(next(f for f in results if "failed" not in f)), done)


if __name__ == "__main__":
    main()
