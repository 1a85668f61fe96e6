"""Bytes that one MoE block of a transformers model keeps for backward, per token, before and after conversion.

    python benchmarks/moe_huggingface.py [--json PATH]

Blocks have the models' real widths and top-k, twice top-k experts (the number of experts changes padding only), BF16
weights of normal noise, and the experts' implementation that transformers chooses by itself (`grouped_mm`). Counted are
the tensors that autograd saves in one forward, each storage once; neither weights nor the block's input. "BF16, input
once" is what a BF16 layout keeps that holds its input once a token (counted here) and FC1's output, and computes the
rest again, as SonicMoE does: the leanest without fewer bits. Counting needs no GPU, but some minutes: FP8 products are
emulated.

Then whole blocks, attention and norms and the block's input with them: by transformers, with `convert`'s experts alone,
and with one option after the other. Of DeepSeek-V3's widths, heads and ranks it is a quarter, so that a CPU can hold
them; and its queries and keys have 128 channels a head, like its values, rather than 192, as torch's attention on a CPU
would keep probabilities otherwise. And pauca's own block of Qwen3-30B-A3B's
sizes (`MoELM`'s), by `pauca moe plan`'s count, which is autograd's to within 1 % (tests/moe/plan/test_memory.py).
"""

import argparse
import json
import platform
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn
from transformers import (
    DeepseekV2Config,
    DeepseekV3Config,
    DeepseekV3Model,
    OlmoeConfig,
    PreTrainedConfig,
    PreTrainedModel,
    Qwen3MoeConfig,
    Qwen3MoeModel,
    __version__,
)
from transformers.models.deepseek_v2.modeling_deepseek_v2 import DeepseekV2Moe
from transformers.models.olmoe.modeling_olmoe import OlmoeSparseMoeBlock
from transformers.models.qwen3_moe.modeling_qwen3_moe import Qwen3MoeSparseMoeBlock

from moe_shapes import show
from pauca.moe import LMConfig, Recipe, Recomputation, convert
from pauca.moe.layer.recipe import Precision
from pauca.moe.plan.memory import kept_by_layer, routed_load

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


def kept_bytes(forward: Callable[[], Tensor], ignored: Iterable[Tensor]) -> int:
    """Bytes of what autograd saves in a forward, each storage once, besides these tensors."""
    weights = {tensor.untyped_storage().data_ptr() for tensor in ignored}
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        y = forward()  # while y lives, so does what is kept: no address is used twice
    assert y.requires_grad
    return sum(kept.values())


def kept_by_block(block: nn.Module, x: Tensor) -> int:
    return kept_bytes(lambda: block(x), (x, *block.parameters(), *block.buffers()))


def measure(block: nn.Module, channels: int) -> dict[str, float]:
    """KiB per token by who computes the routed experts, and the part of it that shared experts keep."""
    x = torch.randn(1, TOKENS, channels, dtype=torch.bfloat16, requires_grad=True)
    kept = {"transformers": kept_by_block(block, x)}
    lean = kept_by_block(convert(block, Recipe.bf16(), recompute="activation"), x)
    kept["BF16, input once"] = lean + x.numel() * x.element_size()
    for name, recipe in RECIPES.items():
        kept[name] = kept_by_block(convert(block, recipe), x)
    shared = getattr(block, "shared_experts", None)
    kept["of it shared"] = 0 if shared is None else kept_by_block(shared, x)
    return {name: count / TOKENS / 1024 for name, count in kept.items()}


WHOLE_BLOCKS = {"Qwen3-30B-A3B": 16, "DeepSeek-V3": 8, "DeepSeek-V3, dense": 8}
"""Experts that are built of each; their number changes padding only."""


OPTIONS: dict[str, dict[str, Any]] = {  # of `convert`, one after the other
    "experts": {},
    "+ projections": {"projections": "fp4"},
    "+ feed-forwards": {"feed_forwards": "fp4"},
    "+ norms, bf16": {"norms": "bf16"},
    "+ norms, fp8": {"norms": "fp8"},
    "+ norms, mxfp4": {"norms": "mxfp4"},
}


def build_model(name: str, smaller: int = 1, experts: int | None = None) -> PreTrainedModel:
    """A model of one layer, its widths, heads and ranks divided by `smaller`."""
    experts = WHOLE_BLOCKS[name] if experts is None else experts
    common = {"num_hidden_layers": 1, "num_experts_per_tok": 8, "vocab_size": 64, "pad_token_id": 0}
    if name == "Qwen3-30B-A3B":
        sizes = {"hidden_size": 2048, "moe_intermediate_size": 768, "num_attention_heads": 32, "num_key_value_heads": 4}
        config = Qwen3MoeConfig(**common, **_divided(sizes, smaller), num_experts=experts, head_dim=128)
        model: PreTrainedModel = Qwen3MoeModel(config)
    else:
        sizes = {
            **{"hidden_size": 7168, "moe_intermediate_size": 2048, "intermediate_size": 18432},
            **{"num_attention_heads": 128, "num_key_value_heads": 128, "q_lora_rank": 1536, "kv_lora_rank": 512},
        }
        config = DeepseekV3Config(
            **common, **_divided(sizes, smaller), n_routed_experts=experts, n_shared_experts=1, n_group=1, topk_group=1,
            qk_nope_head_dim=64, qk_rope_head_dim=64, v_head_dim=128, first_k_dense_replace=int("dense" in name),
        )  # fmt: skip
        model = DeepseekV3Model(config)
    return model.bfloat16().train()


def _divided(sizes: dict[str, int], by: int) -> dict[str, int]:
    return {name: size // by for name, size in sizes.items()}


def stages(model: PreTrainedModel) -> Iterator[str]:
    """Convert with one option after the other, and say each time which was added last; first as transformers has it."""
    named = [name for name, _ in model.layers.named_parameters()]
    has_experts = any(name.endswith("experts.down_proj") for name in named)
    has_feed_forwards = any(name.endswith("up_proj.weight") for name in named)
    yield "transformers"
    options: dict[str, Any] = {}
    for added, more in OPTIONS.items():
        options |= more if has_feed_forwards else {name: more[name] for name in more if name != "feed_forwards"}
        if has_experts or options:
            convert(model, Recipe.fp4(), **options)
        yield added


def forward_of(model: PreTrainedModel, x: Tensor) -> tuple[Callable[[], Tensor], list[Tensor]]:
    """A forward of a model's one layer, and the tensors that it keeps for itself or for all layers."""
    (layer,) = model.layers
    places = torch.arange(x.shape[1], device=x.device)[None]
    rotation = model.rotary_emb(x, places)
    own = [*rotation, *model.parameters(), *model.buffers()]
    return lambda: layer(x, position_embeddings=rotation, attention_mask=None, position_ids=places), own


def measure_whole(model: PreTrainedModel, tokens: int = TOKENS) -> dict[str, float]:
    """KiB per token of a model's one layer, with one option of `convert` after the other."""
    x = torch.randn(1, tokens, model.config.hidden_size, dtype=torch.bfloat16, requires_grad=True)
    forward, own = forward_of(model, x)
    found = {added: kept_bytes(forward, own) / tokens / 1024 for added in stages(model)}
    return found | {"of it attention": bytes_of_attention(forward) / tokens / 1024}


def bytes_of_attention(forward: Callable[[], Tensor]) -> int:
    """Of what attention itself reads and gives, each storage once: it keeps all of that."""
    function, storages = nn.functional.scaled_dot_product_attention, {}

    def watched(*given: Any, **options: Any) -> Tensor:
        y = function(*given, **options)
        storages.update((t.untyped_storage().data_ptr(), t.untyped_storage().nbytes()) for t in (*given[:3], y))
        return y

    with patch.object(nn.functional, "scaled_dot_product_attention", watched):
        y = forward()
    assert y.requires_grad
    return sum(storages.values())


def plan_own() -> dict[str, float]:
    """KiB per token of pauca's own block in Qwen3-30B-A3B's sizes, with one setting after the other."""
    sizes = {"hidden": 2048, "heads": 32, "kv_heads": 4, "head_dim": 128, "expert_width": 768, "shared_experts": 0}
    shape = LMConfig(**sizes, experts=16, top_k=8).shape

    def kept(recipe: Recipe, projections: Precision, again: Recomputation) -> float:
        load = routed_load(shape, TOKENS)
        return sum(kept_by_layer(shape, recipe, again, TOKENS, load, projections).values()) / TOKENS / 1024

    fp4, norms = Recipe.fp4(), Recomputation(norms=True)
    return {
        "bf16": kept(Recipe.bf16(), "bf16", Recomputation()),
        "experts": kept(fp4, "bf16", Recomputation()),
        "+ projections": kept(fp4, "fp4", Recomputation()),
        "+ norms computed again": kept(fp4, "fp4", norms),
        "+ attention computed again": kept(fp4, "fp4", replace(norms, attention=True)),
    }


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
    whole = {name: measure_whole(build_model(name, 4 if "DeepSeek" in name else 1)) for name in WHOLE_BLOCKS}
    last = "+ norms, mxfp4"
    columns = ["whole block", "transformers", *OPTIONS, "of it attention", "experts alone over all"]
    rows = [[name, *row.values(), row["experts"] / row[last]] for name, row in whole.items()]
    show("KiB kept per token, whole block", columns, rows)
    own = plan_own()
    show("KiB kept per token, pauca's own block", ["block", *own], [["Qwen3-30B-A3B", *own.values()]])
    if arguments.json is not None:
        results = {"machine": machine, "results": results, "whole": whole, "own": own}
        arguments.json.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
