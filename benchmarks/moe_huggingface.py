"""Bytes that one MoE block of a transformers model keeps for backward, per token, before and after conversion.

    python benchmarks/moe_huggingface.py [--json PATH]

Blocks have the models' real widths and top-k, twice top-k experts (the number of experts changes padding only), BF16
weights of normal noise, and the experts' implementation that transformers chooses by itself (`grouped_mm`). Counted are
the tensors that autograd saves in one forward, each storage once; neither weights nor the block's input. "BF16, input
once" is what a BF16 layout keeps that holds its input once a token (counted here) and FC1's output, and computes the
rest again, as SonicMoE does: the leanest without fewer bits. Counting needs no GPU, but some minutes: FP8 products are
emulated.
"""

import argparse
import json
import platform
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import (
    DeepseekV2Config,
    OlmoeConfig,
    PreTrainedConfig,
    Qwen3MoeConfig,
    __version__,
)
from transformers.models.deepseek_v2.modeling_deepseek_v2 import DeepseekV2Moe
from transformers.models.olmoe.modeling_olmoe import OlmoeSparseMoeBlock
from transformers.models.qwen3_moe.modeling_qwen3_moe import Qwen3MoeSparseMoeBlock

from moe_shapes import show
from pauca.moe import Recipe, convert

TOKENS = 512
RECIPES = {"bf16": Recipe.bf16(), "fp8": Recipe.fp8(), "fp4": Recipe.fp4()}
BLOCKS: dict[str, tuple[Callable[..., nn.Module], PreTrainedConfig]] = {
    "Qwen3-30B-A3B": (
        Qwen3MoeSparseMoeBlock,
        Qwen3MoeConfig(hidden_size=2048, moe_intermediate_size=768, num_experts_per_tok=8, num_experts=16),
    ),
    "OLMoE-1B-7B": (
        OlmoeSparseMoeBlock,
        OlmoeConfig(hidden_size=2048, intermediate_size=1024, num_experts_per_tok=8, num_experts=16),
    ),
    "DeepSeek-V2-Lite": (
        DeepseekV2Moe,
        DeepseekV2Config(
            hidden_size=2048,
            moe_intermediate_size=1408,
            num_experts_per_tok=6,
            n_routed_experts=12,
            n_shared_experts=2,
            topk_method="greedy",
        ),
    ),
}


def build(block: Callable[..., nn.Module], config: PreTrainedConfig) -> nn.Module:
    config._experts_implementation = "grouped_mm"
    built = block(config).bfloat16()
    for weight in built.parameters():
        nn.init.normal_(weight, std=0.02)
    return built


def kept_bytes(block: nn.Module, x: Tensor) -> int:
    """Bytes of what autograd saves in a forward of `block`, besides its weights and x."""
    ignored = {tensor.untyped_storage().data_ptr() for tensor in (x, *block.parameters(), *block.buffers())}
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in ignored:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        y = block(x)  # while y lives, so does what is kept: no address is used twice
    assert y.requires_grad
    return sum(kept.values())


def measure(block: nn.Module, channels: int) -> dict[str, float]:
    """KiB per token by who computes the routed experts, and the part of it that shared experts keep."""
    x = torch.randn(1, TOKENS, channels, dtype=torch.bfloat16, requires_grad=True)
    kept = {"transformers": kept_bytes(block, x)}
    lean = kept_bytes(convert(block, Recipe.bf16(), recompute="activation"), x)
    kept["BF16, input once"] = lean + x.numel() * x.element_size()
    for name, recipe in RECIPES.items():
        kept[name] = kept_bytes(convert(block, recipe), x)
    shared = getattr(block, "shared_experts", None)
    kept["of it shared"] = 0 if shared is None else kept_bytes(shared, x)
    return {name: count / TOKENS / 1024 for name, count in kept.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.manual_seed(0)
    machine = {"torch": torch.__version__, "transformers": __version__, "python": platform.python_version()}
    print(machine)
    results = {name: measure(build(*block), block[1].hidden_size) for name, block in BLOCKS.items()}
    columns = ["block", *next(iter(results.values())), "transformers over fp4", "BF16, input once, over fp4"]
    rows = [
        [name, *row.values(), row["transformers"] / row["fp4"], row["BF16, input once"] / row["fp4"]]
        for name, row in results.items()
    ]
    show("KiB kept per token", columns, rows)
    if arguments.json is not None:
        arguments.json.write_text(json.dumps({"machine": machine, "results": results}, indent=1))


if __name__ == "__main__":
    main()
