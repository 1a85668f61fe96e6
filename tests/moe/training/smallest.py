"""The smallest training there is: a model, some text, a configuration."""

from dataclasses import replace
from pathlib import Path

import torch

from pauca.moe import LM_SIZES, DataConfig, LMConfig, MoELM, Recipe, TokenData, TrainConfig, prepare_tokens

MODEL = replace(
    LM_SIZES["toy"], hidden=32, heads=2, kv_heads=1, experts=4, expert_width=32, context=16, recipe=Recipe.fp4()
)
CONFIG = TrainConfig(
    steps=6,
    batch_size=4,
    learning_rate=3e-3,
    warmup=0.3,
    log_every=1,
    health_every=2,
    validate_every=3,
    validation_batches=2,
    checkpoint_every=2,
    device="cpu",
)


def text(folder: Path) -> TokenData:
    path = folder / "text.txt"
    path.write_text("".join(f"{number} plus {number} is {2 * number}. " for number in range(400)))
    return prepare_tokens(DataConfig(sources=(str(path),)), folder / "tokens")


def fresh(config: LMConfig = MODEL) -> MoELM:
    torch.manual_seed(0)
    return MoELM(config)
