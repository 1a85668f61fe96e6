"""What the planner says is kept, against what autograd holds on to."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from pauca.moe import Recipe, RouterConfig
from pauca.moe.footprint import (
    RecomputePolicy,
    dense_load,
    kept_by_attention,
    kept_by_bank,
    kept_by_head,
    kept_by_layer,
    routed_load,
    working_set,
)
from pauca.moe.kept import kept_bytes
from pauca.moe.lm import LMConfig, MoELM, Recomputation
from pauca.moe.shapes import SHAPES, from_lm

BATCH, LENGTH = 4, 128
TOKENS = BATCH * LENGTH
PLAIN = LMConfig(layers=2, hidden=64, heads=4, kv_heads=2, head_dim=16, experts=8, top_k=2, expert_width=64)
CONFIGS = {
    "shared experts, tied": PLAIN,
    "a dense layer, untied": replace(PLAIN, dense_layers=1, dense_width=128, tied=False, shared_experts=0, kv_heads=4),
    "sigmoid router, wide experts": replace(
        PLAIN, expert_width=192, router=RouterConfig(scoring="sigmoid", scale=2.5), layers=3
    ),
}
RECOMPUTATIONS = {
    "nothing": Recomputation(),
    "norms": Recomputation(norms=True),
    "attention": Recomputation(attention=True),
    "activation": Recomputation(experts="activation"),
    "norms, experts": Recomputation(norms=True, experts="experts"),
    "all": Recomputation(norms=True, attention=True, experts="experts"),
}


@contextmanager
def storages_kept() -> Iterator[dict[int, int]]:
    """Bytes of each storage that autograd saves inside, by address; also where a module has hooks of its own."""
    hooks, found, alive = torch.autograd.graph.saved_tensors_hooks, {}, []

    def pack(tensor: Tensor) -> Tensor:
        found[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        alive.append(tensor)  # or another could come to lie where this one was
        return tensor

    class Counting(hooks):
        def __init__(self, inner, unpack):
            def both(tensor: Tensor) -> object:
                packed = inner(tensor)
                return pack(packed) if isinstance(packed, Tensor) else packed

            super().__init__(both, unpack)

    torch.autograd.graph.saved_tensors_hooks = Counting
    try:
        with hooks(pack, lambda tensor: tensor):
            yield found
    finally:
        torch.autograd.graph.saved_tensors_hooks = hooks


def kept_by_autograd(config: LMConfig) -> int:
    torch.manual_seed(0)
    model = MoELM(config)
    tokens, targets = torch.randint(config.vocabulary, (2, BATCH, LENGTH))
    with storages_kept() as found:
        loss = model.loss(tokens, targets)
    given = [tokens, *model.parameters(), *model.buffers()]
    for tensor in given:
        found.pop(tensor.untyped_storage().data_ptr(), None)
    loss.total.backward()  # all that was kept can be used
    return sum(found.values())


def predicted(config: LMConfig) -> int:
    shape, policy, load = from_lm(config), RecomputePolicy.of(config.recompute), routed_load(from_lm(config), TOKENS)
    kept = sum(kept_by_head(shape, TOKENS).values())
    for layer in range(config.layers):
        of_layer = kept_by_layer(shape, config.recipe, policy, TOKENS, None if layer < config.dense_layers else load)
        kept += sum(of_layer.values())
    if not config.recompute.attention and _attention_output_is_copied():
        kept += config.layers * 2 * TOKENS * config.heads * config.head_dim
    return kept


def _attention_output_is_copied() -> bool:
    """On a GPU attention's output has tokens before heads, as the next product takes it; on CPUs it must be copied."""
    x = torch.randn(1, 2, 64, 16, dtype=torch.bfloat16, requires_grad=True)
    return not scaled_dot_product_attention(x, x, x, is_causal=True).transpose(1, 2).is_contiguous()


@pytest.mark.parametrize("recompute", RECOMPUTATIONS)
@pytest.mark.parametrize("recipe", [Recipe.bf16(), Recipe.fp8(), Recipe.fp4()], ids=lambda recipe: recipe.precision)
@pytest.mark.parametrize("config", CONFIGS)
def test_kept_is_what_autograd_keeps(config, recipe, recompute):
    config = replace(CONFIGS[config], recipe=recipe, recompute=RECOMPUTATIONS[recompute])
    assert predicted(config) == pytest.approx(kept_by_autograd(config), rel=0.01)


def test_a_bank_keeps_what_kept_bytes_says():
    sizes = {"tokens": 512, "top_k": 2, "experts": 8, "hidden": 64, "width": 32}
    load = routed_load(from_lm(replace(PLAIN, expert_width=32)), 512)
    for recipe in (Recipe.bf16(), Recipe.fp8(), Recipe.fp4()):
        assert kept_by_bank(recipe, "none", load, 64, 32)["experts"] == kept_bytes(recipe, "none", **sizes)


def test_deepseek_layer_keeps_a_tenth_in_mxfp4():
    """DeepSeek-V3's experts, 8 on a GPU that all tokens visit: 209.0, 136.6 and 20.9 KiB a token by an H100's allocator
    (docs/moe/measured.md)."""
    from pauca.moe.footprint import Load

    measured = {"bf16": 209.0, "fp8": 136.6, "fp4": 20.9}
    for name, kib in measured.items():
        kept = kept_by_bank(getattr(Recipe, name)(), "none", Load(4096, 32768, 8), 7168, 2048)
        assert sum(kept.values()) / 4096 / 1024 == pytest.approx(kib, rel=0.01)


def test_experts_on_one_gpu_receive_each_token_once():
    shape = SHAPES["deepseek-v3"]
    alone, shared = routed_load(shape, 1024), routed_load(shape, 1024, ep=32)
    assert (alone.received, alone.copies, alone.experts) == (1024, 8192, 256)
    assert (shared.copies, shared.experts) == (8192, 8)
    assert 7.0 < shared.received / 1024 < 7.4  # of 8 visits a token rarely makes two to the same of 32 GPUs
    busy = routed_load(shape, 1024, ep=32, imbalance=1.5)
    assert (busy.copies, busy.received) == (12288, round(1.5 * shared.received))


def test_recomputing_the_up_projection_drops_queries_keys_and_values():
    shape = SHAPES["deepseek-v3"]
    everything, up = (sum(kept_by_attention(shape, RecomputePolicy(attention=a), 1).values()) for a in ("none", "up"))
    assert everything - up == 2 * 128 * (192 + 192 + 128)


def test_the_working_set_holds_gradients_of_rows_and_weights():
    """FC1's input gradient by row and all weight gradients are there at once, whatever the recipe."""
    shape = SHAPES["deepseek-v3"]
    load = routed_load(shape, 4096, ep=32)
    least = 2 * load.rows * 7168 + 2 * load.experts * shape.expert_parameters
    for name in ("bf16", "fp8", "fp4"):
        assert least < working_set(shape, getattr(Recipe, name)(), RecomputePolicy(), 4096, load) < 3 * least


def test_policies_have_readable_names():
    assert str(RecomputePolicy()) == "nothing"
    assert str(RecomputePolicy(True, "up", "activation")) == "norms + MLA up-projection + activation"
    assert str(RecomputePolicy.of(Recomputation(attention=True, experts="experts"))) == "attention + experts"


def test_a_dense_layer_is_one_expert_for_all():
    assert (dense_load(100).received, dense_load(100).copies, dense_load(100).experts) == (100, 100, 1)
