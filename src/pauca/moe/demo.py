"""The part of `pauca demo` that shows `pauca.moe`: one language model trained in BF16, in FP8 and in FP4."""

import time
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from pauca.moe import plots
from pauca.moe.data.prepare import DataConfig, prepare_tokens
from pauca.moe.data.token_files import TokenData
from pauca.moe.layer.kept import kept_bytes
from pauca.moe.layer.recipe import Recipe
from pauca.moe.models.lm import LMConfig, MoELM
from pauca.moe.training.config import TrainConfig
from pauca.moe.training.trainer import Trainer
from pauca.runs import Progress, Report

RECIPES = {"bf16": Recipe.bf16(), "fp8": Recipe.fp8(), "fp4": Recipe.fp4()}
MODEL = LMConfig(expert_width=32, context=128)
# A minute on two cores, most of it for imitating FP8 and MXFP4. Steps and not seconds, so that the result is the same
# on every machine of a kind.
TRAINING = TrainConfig(steps=200, batch_size=4, learning_rate=1e-2, warmup=0.1, validation_batches=32, device="cpu")
# The experts on one of the GPUs that trained DeepSeek-V3: what a token visits is what counts.
DEEPSEEK_V3 = {"tokens": 4096, "top_k": 8, "experts": 8, "hidden": 7168, "width": 2048}


@dataclass(frozen=True)
class DemoResult:
    """What the demonstration learned, by recipe, in nats per byte."""

    losses: dict[str, list[float]]  # of each step
    validation: dict[str, float]  # of the last model
    seconds: float  # of all trainings


def run_demo(
    data: TokenData, seed: int = 0, quiet: bool = True, model: LMConfig = MODEL, training: TrainConfig = TRAINING
) -> DemoResult:
    """Train the same model on the same text in each recipe: same first weights, same order."""
    losses: dict[str, list[float]] = {}
    validation: dict[str, float] = {}
    started = time.perf_counter()
    for name, recipe in RECIPES.items():
        torch.manual_seed(seed)
        trainer = Trainer(MoELM(replace(model, recipe=recipe)), data, replace(training, seed=seed))
        losses[name] = []
        with Progress(f"train {name}", training.steps, quiet=quiet) as progress:
            for _ in range(training.steps):
                losses[name].append(trainer.step().cross_entropy)
                progress.advance(note=f"loss {losses[name][-1]:.3f}")
        held_out = trainer.validate()
        assert held_out is not None  # as the data have validation text
        validation[name] = held_out
    return DemoResult(losses, validation, time.perf_counter() - started)


def add_to_report(report: Report, folder: Path, seed: int, quiet: bool) -> None:
    """Train, and describe the outcome in `report`; the tokens stay in `folder`."""
    data = prepare_tokens(DataConfig(), folder / "tokens")
    result = run_demo(data, seed, quiet)
    report.heading("Few bits: a mixture of experts in BF16, FP8 and FP4")
    report.text(
        f"A language model with {MODEL.parameters:,} parameters, {MODEL.active_parameters:,} of them at work on each "
        "byte, learned to continue the sources of Python's standard library, three times: from the same weights, with "
        f"the same text in the same order, {TRAINING.steps} steps of {TRAINING.batch_size * MODEL.context} bytes, "
        f"{result.seconds:.0f} s together. Only the formats in which its experts compute and keep differ. On a CPU, "
        "FP8 and MXFP4 are imitated, with the decisions of the GPU's kernels and without their speed."
    )
    columns = ["recipe", "experts compute in", "keep for backward", "loss, nats a byte", "over BF16 %"]
    report.table(
        [*columns, "kept, KiB a token", "by DeepSeek-V3's, KiB a token"],
        [_row(name, result) for name in RECIPES],
        caption="Loss on files that were held out. One seed and so short a training show that all three learn, and no "
        "more. Kept: by the experts of one layer, of this model and, computed, of DeepSeek-V3's size.",
    )
    kept = {name: _kept_large(recipe) for name, recipe in RECIPES.items()}
    report.figure(
        plots.few_bits(result.losses, kept),
        "Left: loss of each training, mean of ten steps; a token is a byte. Right: what the experts of one layer of "
        "DeepSeek-V3's size keep between forward and backward.",
    )


def _row(name: str, result: DemoResult) -> list[object]:
    loss = result.validation[name]
    return [
        name,
        "BF16" if name == "bf16" else "FP8",
        {"bf16": "BF16", "fp8": "FP8, SwiGLU's input in BF16", "fp4": "MXFP4"}[name],
        f"{loss:.4f}",
        "" if name == "bf16" else f"{100 * (loss / result.validation['bf16'] - 1):+.2f}",
        f"{_kept_here(RECIPES[name]):.2f}",
        f"{_kept_large(RECIPES[name]):.1f}",
    ]


def _kept_here(recipe: Recipe) -> float:
    """KiB a token, by the routed and the shared experts of one layer of the demonstration's model."""
    tokens = TRAINING.batch_size * MODEL.context
    sizes = {"tokens": tokens, "hidden": MODEL.hidden}
    routed = kept_bytes(recipe, "none", top_k=MODEL.top_k, experts=MODEL.experts, width=MODEL.expert_width, **sizes)
    shared = kept_bytes(recipe, "none", top_k=1, experts=1, width=MODEL.shared_experts * MODEL.expert_width, **sizes)
    return (routed + shared) / tokens / 1024


def _kept_large(recipe: Recipe) -> float:
    return kept_bytes(recipe, "none", **DEEPSEEK_V3) / DEEPSEEK_V3["tokens"] / 1024
