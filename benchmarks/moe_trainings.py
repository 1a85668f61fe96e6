"""Tokens/s of whole trainings, as `pauca moe train` does them, beside what the planner says.

    python benchmarks/moe_trainings.py [--cases base:fp4 base:fp4:eager large:bf16 ...] [--steps 15] [--json PATH]
    python benchmarks/moe_trainings.py [--cases ...] --profile          # kernels by time on the GPU, of three steps
    python benchmarks/moe_trainings.py --cases toy:fp4 --steps 2        # on a CPU, to see that it runs
    torchrun --nproc-per-node 2 benchmarks/moe_trainings.py --cases base:fp4 --ep 2    # the same work for each GPU

A case is SIZE:RECIPE, and behind it `:eager` for steps that are not recorded as CUDA graphs, `:compile` for
torch.compile, `:passesN` for N times the tokens in as many passes, `:batchN` for N sequences a pass, or several of
these. Under torchrun also `:whole` for weights that no rank shares, and `:gather16` or `:gather8` for experts gathered
in BF16 or FP8.
Everything of a step is in the time: data, forward, backward, clipping, AdamW on FP32 weights. The text is random bytes:
untrained routers spread those evenly, so that experts are as busy as in a training that goes well. Peak is the
allocator's, in all steps; "reserved" is what it took from the GPU.
"""

import argparse
import gc
import io
import os
import sys
import time
from dataclasses import replace
from functools import cache
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
from pauca.moe.training.loop import _matrix_rate
from pauca.moe.training.trainer import BOUNDED_RANKS, Trainer

SEQUENCES = {"toy": 4, "base": 32, "large": 8, "xl": 4}  # of a step
CASES = (
    "base:bf16", "base:fp8", "base:fp4", "large:bf16", "large:fp8", "large:fp4", "xl:fp4", "xl:bf16",
    "base:bf16:eager", "base:fp4:eager", "large:bf16:eager", "large:fp4:eager", "xl:fp4:eager",
    "base:fp4:compile", "large:fp4:compile", "large:fp4:compile:batch32",
)  # fmt: skip
WARM_UP = 5
RANKS = int(os.environ.get("WORLD_SIZE", "1"))


def data() -> TokenData:
    tokens = np.random.default_rng(0).integers(1, 256, 1 << 22, np.uint16)
    return TokenData(Path("random"), TokenFile(Path("random"), tokens, ""), None, ByteTokenizer(), 1.0, {})


def rates_here() -> Rates:
    """The planner's of this GPU: an H100's, or an H200's."""
    name = torch.cuda.get_device_name() if torch.cuda.is_available() else ""
    return GPUS["h200" if "H200" in name else "h100"].rates


@cache
def matrix_rate() -> float:
    return _matrix_rate(torch.device("cuda"))


def number_in(how: list[str], word: str, otherwise: int) -> int:
    """N of the words `passesN` and `batchN`."""
    return next((int(one.removeprefix(word)) for one in how if one.startswith(word)), otherwise)


def predicted(case: str, rates: Rates, ranks: int, ep: int) -> float:
    """The planner's tokens/s of this loop on all ranks, with FP32 weights, gradients and Adam."""
    size, recipe, *how = case.split(":")
    config = LM_SIZES[size]
    tokens = number_in(how, "batch", SEQUENCES[size]) * config.context
    is_eager = "eager" in how or ep > BOUNDED_RANKS
    loop = "eager" if is_eager else "compiled" if "compile" in how else "recorded"
    given = Assumptions(4, 4, optimizer_bytes=8, batch_tokens=ranks * tokens, reserved_gb=0, loop=loop, rates=rates)
    task = PlanTask(config.shape, ranks, 2**37, tokens, config.context, assumptions=given)
    return ranks * evaluate(task, Way(recipe, ParallelLayout(ranks, 1, ep))).tokens_per_second


def trainer_of(case: str, ep: int = 1) -> Trainer:
    size, recipe, *how = case.split(":")
    torch.manual_seed(0)
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):  # a CPU draws so many weights in minutes
        model = MoELM(replace(LM_SIZES[size], recipe=RECIPES[recipe]))
    passes = number_in(how, "passes", 1)
    batch = number_in(how, "batch", SEQUENCES[size]) * passes * RANKS
    flags = {"graph": "eager" not in how, "compile": "compile" in how, "shard": "whole" not in how}
    flags["gather"] = {16: "bf16", 8: "fp8"}.get(number_in(how, "gather", 32), "fp32")
    return Trainer(model, data(), TrainConfig(steps=1000, batch_size=batch, passes=passes, ep=ep, **flags))


def measure(case: str, steps: int, ep: int = 1) -> dict:
    on_gpu = torch.cuda.is_available()
    began = time.monotonic()
    trainer = trainer_of(case, ep)
    for _ in range(WARM_UP if on_gpu else 1):
        trainer.step()
    warm = time.monotonic() - began
    trainer.seconds = 0.0
    losses = [trainer.step().cross_entropy for _ in range(steps)]
    rate = steps * trainer.tokens_per_step / trainer.seconds
    return {
        "case": case,
        "tokens_per_step": trainer.tokens_per_step,
        "ms_per_step": 1e3 * trainer.seconds / steps,
        "tokens_per_s": round(rate),
        "predicted": round(predicted(case, rates_here(), RANKS, ep)),
        "model_tflop_per_s": rate * trainer.model.config.flops_per_token / 1e12,
        "of_matrix_rate": rate * trainer.model.config.flops_per_token / matrix_rate() / RANKS if on_gpu else 0.0,
        "loss": losses[-1],  # the same, whatever the way
        "peak_gib": torch.cuda.max_memory_allocated() / 2**30 if on_gpu else 0.0,
        "reserved_gib": torch.cuda.max_memory_reserved() / 2**30 if on_gpu else 0.0,
        "first_steps_s": warm,
        "not_recorded": trainer.not_recorded,
    }


def profile(case: str, ep: int, steps: int = 3) -> None:
    trainer = trainer_of(case, ep)
    for _ in range(WARM_UP):
        trainer.step()
    both = torch.profiler.ProfilerActivity.CUDA, torch.profiler.ProfilerActivity.CPU
    for activity in both if RANKS > 1 else both[:1]:
        with torch.profiler.profile(activities=[activity]) as trace:
            trainer.seconds = 0.0
            for _ in range(steps):
                trainer.step()
            torch.cuda.synchronize()
        on_gpu, each = activity is both[0], 1000 * steps
        name = "device_time_total" if on_gpu else "self_cpu_time_total"
        found = sorted(trace.key_averages(), key=lambda kernel: -getattr(kernel, name))
        rows = [(getattr(k, name) / each, k.count // steps, k.key[:110]) for k in found[:40]]
        total, place = sum(getattr(kernel, name) for kernel in found) / each, "GPU" if on_gpu else "host"
        wall = 1000 * trainer.seconds / steps
        show(f"{case}: milliseconds a step on the {place}, {total:.2f} in all of {wall:.2f}", ("ms", "calls", ""), rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", nargs="+", default=list(CASES), metavar="SIZE:RECIPE[:eager][:compile]")
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
            profile(case, options.ep)
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
            torch.cuda.reset_peak_memory_stats()
        torch._dynamo.reset()
    done = [list(found.values()) for found in results if "failed" not in found]
    if done:
        show("whole trainings", list(next(f for f in results if "failed" not in f)), done)


if __name__ == "__main__":
    main()
