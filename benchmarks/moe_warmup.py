"""Does routing survive the first steps? Imbalance and loss by learning rate and by the steps in which it rises.

    python benchmarks/moe_warmup.py [--steps 60] [--json PATH]

A small stand-in for `large` that a CPU trains in minutes: 64 experts of which a token visits 6, as there, but 4 layers
of 256 channels and the bytes of Python's standard library. The worst imbalance is 10.7: all visit one expert.
"""

import argparse
import json
import platform
import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch

from moe_shapes import show
from pauca.moe import DataConfig, LMConfig, MoELM, Recipe, TokenData, TrainConfig, Trainer, prepare_tokens

MODEL = LMConfig(
    layers=4,
    hidden=256,
    heads=4,
    head_dim=32,
    experts=64,
    top_k=6,
    expert_width=64,
    shared_experts=2,
    context=128,
    recipe=Recipe.bf16(),
)
RUNS = ((3e-3, 1), (3e-3, 15), (3e-3, 30), (6e-4, 1), (6e-4, 30))


@dataclass(frozen=True)
class Rising(TrainConfig):
    """With a rise of so many steps, also fewer than `TrainConfig` allows."""

    rise_steps: int = 1

    @property
    def rise(self) -> int:
        return self.rise_steps


def measure(data: TokenData, rate: float, rise: int, steps: int) -> list[float]:
    """The worst layer's imbalance after 10 steps and at the end, the layers' mean there, and the last ten losses'."""
    torch.manual_seed(0)
    config = Rising(steps=steps, batch_size=8, learning_rate=rate, device="cpu", rise_steps=rise)
    trainer, losses, early = Trainer(MoELM(MODEL), data, config), [], 0.0
    for step in range(steps):
        losses.append(trainer.step().cross_entropy)
        if step == 9:
            early = max(imbalances(trainer))
    last = imbalances(trainer)
    return [early, max(last), sum(last) / len(last), sum(losses[-10:]) / 10]


def imbalances(trainer: Trainer) -> list[float]:
    return [value for name, value in trainer.load_metrics().items() if name.startswith("load_imbalance/")]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    machine = {"torch": torch.__version__, "python": platform.python_version(), "steps": arguments.steps}
    print(machine)
    with tempfile.TemporaryDirectory() as folder:
        data = prepare_tokens(DataConfig(), Path(folder))
        rows = [[f"{rate:g}", str(rise), *measure(data, rate, rise, arguments.steps)] for rate, rise in RUNS]
    columns = ["learning rate", "rise", "worst, step 10", "worst, last", "mean, last", "loss, last ten"]
    show(f"imbalance of {arguments.steps} steps", columns, rows)
    if arguments.json is not None:
        arguments.json.write_text(json.dumps({"machine": machine, "columns": columns, "rows": rows}, indent=1))


if __name__ == "__main__":
    main()
