"""What the planner says is kept, against what autograd holds on to."""

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from pauca.moe import Recipe, RouterConfig
from pauca.moe.layer.kept import kept_bytes
from pauca.moe.models.config import Recomputation
from pauca.moe.models.lm import LMConfig, MoELM
from pauca.moe.ops.formats import mxfp4_row_bytes
from pauca.moe.plan.memory import (
    dense_load,
    kept_by_attention,
    kept_by_bank,
    kept_by_feed_forward,
    kept_by_head,
    kept_by_layer,
    routed_load,
    working_set,
)
from pauca.moe.plan.published import SHAPES

BATCH, LENGTH = 8, 32
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
    shape, policy, load = config.shape, config.recompute, routed_load(config.shape, TOKENS)
    kept = sum(kept_by_head(shape, TOKENS).values())
    for layer in range(config.layers):
        of = None if layer < config.dense_layers else load
        of_layer = kept_by_layer(shape, config.recipe, policy, TOKENS, of, config.projections)
        kept += sum(of_layer.values())
    return kept


@pytest.mark.parametrize("recompute", RECOMPUTATIONS)
@pytest.mark.parametrize("recipe", [Recipe.bf16(), Recipe.fp8(), Recipe.fp4()], ids=lambda recipe: recipe.precision)
@pytest.mark.parametrize("config", CONFIGS)
def test_kept_is_what_autograd_keeps(config, recipe, recompute):
    config = replace(CONFIGS[config], recipe=recipe, recompute=RECOMPUTATIONS[recompute])
    assert predicted(config) == pytest.approx(kept_by_autograd(config), rel=0.01)


@pytest.mark.parametrize("recompute", ["nothing", "norms", "attention"])
@pytest.mark.parametrize("projections", ["fp8", "fp4"])
def test_kept_with_projections_in_few_bits_is_what_autograd_keeps(projections, recompute):
    config = replace(PLAIN, recipe=Recipe.fp4(), recompute=RECOMPUTATIONS[recompute], projections=projections)
    assert predicted(config) == pytest.approx(kept_by_autograd(config), rel=0.005)


@pytest.mark.parametrize("norms", [False, True])
@pytest.mark.parametrize(("projections", "row"), [("fp8", 64 + 1), ("fp4", mxfp4_row_bytes(64))])
def test_projections_in_few_bits_keep_a_row_of_their_format_in_place_of_bf16(projections, row, norms):
    config = replace(PLAIN, recipe=Recipe.fp4(), recompute=Recomputation(norms=norms))
    in_place_of = 0 if norms else 2 * config.hidden
    in_bf16, in_few_bits = (kept_by_autograd(replace(config, projections=of)) for of in ("bf16", projections))
    # And for each of the two projections the largest scale byte of its weight.
    assert in_few_bits - in_bf16 == config.layers * (TOKENS * (row - in_place_of) + 2)


def test_a_bank_keeps_what_kept_bytes_says():
    sizes = {"tokens": 512, "top_k": 2, "experts": 8, "hidden": 64, "width": 32}
    load = routed_load(replace(PLAIN, expert_width=32).shape, 512)
    for recipe in (Recipe.bf16(), Recipe.fp8(), Recipe.fp4()):
        assert kept_by_bank(recipe, "none", load, 64, 32)["experts"] == kept_bytes(recipe, "none", **sizes)


def test_deepseek_layer_keeps_a_tenth_in_mxfp4():
    """DeepSeek-V3's experts, 8 on a GPU that all tokens visit: 209.0, 136.6 and 20.9 KiB a token by an H100's allocator
    (docs/moe/measured.md)."""
    from pauca.moe.plan.memory import Load

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
    # No GPU gets more than all tokens, nor any choice twice; one that has all experts gets what there is.
    assert (routed_load(shape, 1024, ep=2, imbalance=9.0).copies, routed_load(shape, 1024, imbalance=9.0)) == (
        16384,
        alone,
    )


def test_recomputing_the_up_projection_drops_queries_keys_and_values():
    shape = SHAPES["deepseek-v3"]
    everything, up = (sum(kept_by_attention(shape, Recomputation(attention=a), 1).values()) for a in ("none", "up"))
    assert everything - up == 2 * 128 * (192 + 192 + 128)


def test_the_working_set_holds_gradients_of_rows_and_weights():
    """At DeepSeek-V3's layer most is there when the input's gradient is summed over a token's experts: that gradient by
    row and by token, all weight gradients, z's gradient, and the output's gradient as it came; less the shared experts,
    whose turn is over."""
    shape = SHAPES["deepseek-v3"]
    load = routed_load(shape, 4096, ep=32)
    rows, z, tokens = load.rows * 7168, load.rows * 2 * 2048, load.received * 7168
    gradients = 2 * rows + 2 * tokens + 2 * load.experts * shape.expert_parameters
    residual = 2 * 4096 * 7168
    # z's gradient and FC2's input in BF16 and dy in BF16; z's in FP8, dy in both.
    others = {"bf16": 3 * z + 2 * tokens, "fp8": z + 3 * tokens, "fp4": z + 3 * tokens}
    for name in ("bf16", "fp8", "fp4"):
        recipe = getattr(Recipe, name)()
        shared = kept_by_feed_forward(shape, recipe, Recomputation(), 4096, load)["shared experts"]
        expected = gradients + others[name] + residual - shared
        assert working_set(shape, recipe, Recomputation(), 4096, load) == pytest.approx(expected, rel=0.005)


def test_policies_have_readable_names():
    assert str(Recomputation()) == "nothing"
    assert str(Recomputation(True, "up", "activation")) == "norms + MLA up-projection + activation"
    assert str(Recomputation(attention=True, experts="experts")) == "attention + experts"


def test_a_dense_layer_is_one_expert_for_all():
    assert (dense_load(100).received, dense_load(100).copies, dense_load(100).experts) == (100, 100, 1)


class Allocator(TorchDispatchMode):
    """Counts the bytes of all storages that live, and the most there have been, in the allocator's units of 512."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: dict[int, int] = {}
        self.now = self.peak = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for tensor in tree_iter(result):
            if isinstance(tensor, Tensor) and tensor.untyped_storage()._cdata not in self.sizes:
                self._add(tensor.untyped_storage())
        return result

    def _add(self, storage: torch.UntypedStorage) -> None:
        self.sizes[storage._cdata] = -(-storage.nbytes() // 512) * 512
        self.now += self.sizes[storage._cdata]
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._free, storage._cdata)

    def _free(self, address: int) -> None:
        self.now -= self.sizes.pop(address)


class FlashAttention(torch.autograd.Function):
    """The tensors that attention on a GPU makes, and no numbers: gradients of all heads, and the queries' in FP32."""

    @staticmethod
    def forward(ctx, q, k, v):
        y = q.new_empty(q.transpose(1, 2).shape).transpose(1, 2)
        ctx.save_for_backward(q, k, v, y, q.new_empty(q.shape[:3], dtype=torch.float32))
        return y

    @staticmethod
    def backward(ctx, *_):
        q, k, *_ = ctx.saved_tensors
        _, *gradients = (torch.empty_like(q, dtype=t) for t in (torch.float32, q.dtype, q.dtype, q.dtype))
        shared = [gradient.unflatten(1, (k.shape[1], -1)).sum(2) for gradient in gradients[1:]]
        return gradients[0], *shared


@pytest.fixture
def as_on_a_gpu(monkeypatch):
    """Let fake tensors take the GPU's way through the library: its kernels' tensors are made, nothing is launched."""
    pytest.importorskip("triton")
    import triton

    from pauca.moe.layer import autograd, experts, permutation
    from pauca.moe.models import blocks, cross_entropy
    from pauca.moe.ops import checked, kernels, products
    from pauca.moe.ops.kernels.sort_by_expert import sort_by_expert

    def sort(ids: Tensor, count: int) -> permutation.Permutation:
        return permutation.Permutation(*sort_by_expert(ids, count, permutation.row_bound(ids.numel(), count)))

    def columns(a: Tensor, *others: Tensor) -> Tensor:
        b, offsets = (others[0], others[1]) if len(others) == 2 else (others[1], others[3])
        return a.new_empty(len(offsets), len(a), len(b), dtype=torch.bfloat16)

    # Fake tensors have no address; which of them share a storage is told all the same.
    monkeypatch.setattr(Tensor, "data_ptr", lambda tensor: tensor.untyped_storage()._cdata + tensor.storage_offset())
    monkeypatch.setattr(triton.runtime.JITFunction, "__getitem__", lambda self, grid: lambda *_, **__: None)
    monkeypatch.setattr(checked, "_backend_of", lambda device: kernels)
    monkeypatch.setattr(experts, "require_fp8", lambda device: None)
    monkeypatch.setattr(autograd, "sort_by_expert", sort)
    monkeypatch.setattr(products, "rows_by_weights", lambda rows, w, _: rows.new_empty(len(rows), w.shape[2]))
    monkeypatch.setattr(
        products,
        "fp8_rows_by_weights",
        lambda rows, _, w, *__: rows.new_empty(len(rows), w.shape[1], dtype=torch.bfloat16),
    )
    monkeypatch.setattr(products, "columns_by_columns", columns)
    monkeypatch.setattr(products, "fp8_columns_by_columns", columns)
    for module in (blocks, cross_entropy):
        monkeypatch.setattr(module, "product", torch.matmul)
    monkeypatch.setattr(
        blocks.F, "scaled_dot_product_attention", lambda q, k, v, *_, **__: FlashAttention.apply(q, k, v)
    )


# Sizes at which the experts of many rows, the experts' weights and the loss decide the peak.
PEAKS = {
    "rows": (replace(PLAIN, hidden=1024, heads=8, head_dim=128, top_k=8, expert_width=512), 8192),
    "weights": (replace(PLAIN, hidden=512, kv_heads=4, head_dim=128, experts=64, expert_width=704), 4096),
    "loss": (replace(PLAIN, vocabulary=32768, hidden=512, heads=8, head_dim=64, expert_width=512), 8192),
}


@pytest.mark.parametrize("recompute", ["nothing", "attention", "all"])
@pytest.mark.parametrize("precision", ["bf16", "fp8", "fp4"])
@pytest.mark.parametrize("sizes", PEAKS)
def test_the_peak_is_that_of_an_allocator(as_on_a_gpu, sizes, precision, recompute):
    from pauca.moe.plan.evaluate import evaluate
    from pauca.moe.plan.task import Assumptions, ParallelLayout, PlanTask, Way

    config, tokens = PEAKS[sizes]
    config = replace(
        config, tied=False, context=tokens, recipe=getattr(Recipe, precision)(), recompute=RECOMPUTATIONS[recompute]
    )
    with FakeTensorMode(), Allocator() as allocator:
        model = MoELM(config)
        for parameter in model.parameters():
            parameter.grad = torch.empty_like(parameter)
        text = torch.zeros(1, tokens, dtype=torch.int64)
        allocator.peak = allocator.now
        model.loss(text, text).total.backward()

    given = Assumptions(parameter_bytes=4, optimizer_bytes=0, reserved_gb=0.0)
    task = PlanTask(config.shape, 1, 2**40, tokens, tokens, assumptions=given)
    plan = evaluate(task, Way(precision, ParallelLayout(1, 1, 1), config.recompute))
    assert plan.total == pytest.approx(allocator.peak, rel=0.05)
