import math
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch.multiprocessing.reductions import StorageWeakRef
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from pauca.errors import ConfigError, InputError
from pauca.moe.layer.recipe import Recipe
from pauca.moe.layer.router import RouterConfig
from pauca.moe.models import blocks, cross_entropy
from pauca.moe.models.blocks import Attention, RMSNorm, rotary_table, rotate
from pauca.moe.models.config import Recomputation
from pauca.moe.models.cross_entropy import chunked_cross_entropy
from pauca.moe.models.lm import LM_SIZES, LMConfig, MoELM, length_of


def _model(**options) -> MoELM:
    torch.manual_seed(0)
    return MoELM(replace(LM_SIZES["toy"], context=64, **options))


def _tokens(batch: int = 2, time: int = 33) -> torch.Tensor:
    return torch.randint(256, (batch, time), generator=torch.Generator().manual_seed(1))


def _loss_and_gradients(model: MoELM, tokens: torch.Tensor) -> list[torch.Tensor]:
    loss = model.loss(tokens[:, :-1], tokens[:, 1:]).total
    loss.backward()
    return [loss.detach(), *(parameter.grad for parameter in model.parameters())]


@pytest.mark.parametrize("size", LM_SIZES)
def test_a_size_has_as_many_parameters_as_it_says(size):
    with torch.device("meta"):
        model = MoELM(LM_SIZES[size])
    assert sum(parameter.numel() for parameter in model.parameters()) == LM_SIZES[size].parameters


def test_untouched_experts_are_what_active_parameters_leave_out():
    config = replace(LM_SIZES["toy"], dense_layers=1, dense_width=96)
    idle = (config.experts - config.top_k) * 3 * config.hidden * config.expert_width  # in the one layer with experts
    assert config.parameters - config.active_parameters == idle


@pytest.mark.parametrize("tied", [True, False])
def test_flops_are_those_that_torch_counts(tied):
    config = LMConfig(layers=2, dense_layers=2, dense_width=96, context=64, tied=tied)
    model, tokens = MoELM(config), _tokens(2, 65)
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):  # torch does not count fused kernels
        model.loss(tokens[:, :-1], tokens[:, 1:]).total.backward()
    # That kernel computes the half of the scores, too, which the mask then removes.
    masked = 6 * config.layers * config.heads * config.head_dim * config.context
    assert counter.get_total_flops() == 2 * 64 * (config.flops_per_token + masked)


def test_no_logit_depends_on_a_later_token():
    model, tokens = _model().eval(), _tokens()
    changed = tokens.clone()
    changed[:, 20:] = (changed[:, 20:] + 7) % 256
    before, after = model(tokens), model(changed)
    torch.testing.assert_close(before[:, :20], after[:, :20], atol=0.02, rtol=0.02)
    assert (before[:, 20:] - after[:, 20:]).abs().amax(-1).min() > 0.1


def test_the_loss_is_the_cross_entropy_of_the_logits():
    model, tokens = _model(), _tokens()
    losses = model.loss(tokens[:, :-1], tokens[:, 1:])
    expected = F.cross_entropy(model(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())
    torch.testing.assert_close(losses.cross_entropy, expected, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(losses.total, losses.cross_entropy + 0.01 * losses.balance)


def test_the_z_loss_counts_in_the_loss_and_not_in_the_balance():
    tokens = _tokens(2, 17)
    losses = [
        _model(router=RouterConfig(z_weight=weight)).loss(tokens[:, :-1], tokens[:, 1:]) for weight in (0.0, 10.0)
    ]
    assert losses[1].total > losses[0].total + 0.01
    torch.testing.assert_close(losses[1].balance, losses[0].balance)


def test_a_fresh_model_knows_nothing():
    model, tokens = _model(hidden=128), _tokens(8, 65)
    # Logits of variance one cost half a nat over guessing.
    assert model.loss(tokens[:, :-1], tokens[:, 1:]).cross_entropy.item() == pytest.approx(math.log(256) + 0.5, abs=0.2)


def test_the_loss_in_chunks_is_the_loss_at_once(monkeypatch):
    torch.manual_seed(0)
    hidden, weight = torch.randn(50, 16, requires_grad=True), torch.randn(40, 16, requires_grad=True)
    targets = torch.randint(40, (50,))
    F.cross_entropy(hidden @ weight.T, targets).mul(3).backward()
    expected = hidden.grad, weight.grad
    for at_once in (40 * 7, 40 * 50):
        monkeypatch.setattr(cross_entropy, "LOGITS_AT_ONCE", at_once)
        hidden.grad = weight.grad = None
        loss = chunked_cross_entropy(hidden, weight, targets)
        (3 * loss).backward()
        torch.testing.assert_close((hidden.grad, weight.grad), expected)
        with torch.no_grad():
            torch.testing.assert_close(chunked_cross_entropy(hidden, weight, targets), loss.detach())


def test_the_norm_and_its_gradient_are_those_of_torch():
    torch.manual_seed(0)
    norm, x, gradient = RMSNorm(16), torch.randn(3, 5, 16, requires_grad=True), torch.randn(3, 5, 16)
    torch.nn.init.normal_(norm.weight)
    norm(x).backward(gradient)
    actual = norm(x).detach(), x.grad, norm.weight.grad
    x.grad = norm.weight.grad = None
    expected = F.rms_norm(x, (16,), norm.weight, norm.epsilon)
    expected.backward(gradient)
    torch.testing.assert_close(actual, (expected.detach(), x.grad, norm.weight.grad))


def test_rotated_products_depend_on_the_distance_alone():
    torch.manual_seed(0)
    q, k = torch.randn(1, 1, 1, 8), torch.randn(1, 1, 1, 8)
    table = rotary_table(torch.arange(20.0), 8, 100.0)

    def at(x: torch.Tensor, place: int) -> torch.Tensor:
        return rotate(x, table[0][place, None], table[1][place, None])

    def product(i: int, j: int) -> float:
        return (at(q, i) * at(k, j)).sum().item()

    assert product(3, 7) == pytest.approx(product(13, 17), abs=1e-5)
    assert product(3, 7) != pytest.approx(product(3, 8), abs=1e-3)


def test_rotated_heads_have_the_gradient_that_autograd_finds():
    torch.manual_seed(0)
    heads = torch.randn(2, 5, 4, 8, requires_grad=True)
    table, sizes = rotary_table(torch.arange(5.0), 8, 100.0), [2, 1, 1]
    parts = blocks._RotatedHeads.apply(heads, *table, sizes)
    gradients = [torch.randn_like(part) for part in parts]
    (found,) = torch.autograd.grad(parts, heads, gradients)
    q, k, v = heads.split(sizes, dim=2)
    expected = rotate(q, *table), rotate(k, *table), v
    torch.testing.assert_close(parts, expected)
    torch.testing.assert_close(found, torch.autograd.grad(expected, heads, gradients)[0])


def test_query_heads_share_keys_in_order():
    torch.manual_seed(0)
    attention, x = Attention(32, heads=4, kv_heads=2, head_dim=8), torch.randn(1, 6, 32)
    table = torch.ones(6, 4), torch.zeros(6, 4)  # turns nothing
    q, k, v = attention.qkv(x).split([32, 16, 16], dim=-1)
    mask = torch.ones(6, 6, dtype=torch.bool).tril()
    heads = []
    for head in range(4):
        own, shared = slice(8 * head, 8 * head + 8), slice(8 * (head // 2), 8 * (head // 2) + 8)
        scores = (q[..., own] @ k[..., shared].mT / 8**0.5).masked_fill(~mask, float("-inf"))
        heads.append(scores.softmax(-1) @ v[..., shared])
    torch.testing.assert_close(attention(x, table), attention.out(torch.cat(heads, dim=-1)))


@pytest.mark.parametrize("recipe", [Recipe.bf16(), Recipe.fp8(), Recipe.fp4()])
@pytest.mark.parametrize(
    "recompute",
    [Recomputation(norms=True), Recomputation(attention=True), Recomputation(norms=True, experts="activation")],
)
def test_recomputing_changes_no_bit(recipe, recompute):
    sizes = {"dense_layers": 1, "dense_width": 64, "recipe": recipe}
    plain = _loss_and_gradients(_model(**sizes), _tokens())
    again = _loss_and_gradients(_model(**sizes, recompute=recompute), _tokens())
    assert all(torch.equal(a, b) for a, b in zip(plain, again, strict=True))


@pytest.mark.parametrize(("recompute", "kept"), [(Recomputation(), True), (Recomputation(norms=True), False)])
def test_outputs_of_recomputed_norms_are_not_kept(recompute, kept):
    model = _model(recompute=recompute)
    norms = [norm for block in model.blocks for norm in (block.attention_norm, block.feed_forward_norm)]
    outputs = []
    for norm in norms:
        norm.register_forward_hook(lambda _, __, output: outputs.append(StorageWeakRef(output.untyped_storage())))
    loss = model.loss(_tokens()[:, :-1], _tokens()[:, 1:]).total
    assert [not output.expired() for output in outputs] == [kept] * 4
    loss.backward()


def test_the_model_and_the_planner_have_one_word_for_recomputing():
    assert Recomputation(attention="all") == Recomputation(attention=True)  # as the planner of version 0.1 said it
    assert Recomputation(attention="none") == Recomputation()
    with pytest.raises(ConfigError, match="'up' is of latent attention"):
        LMConfig(recompute=Recomputation(attention="up"))


def test_recomputing_never_routes_again(monkeypatch):
    model = _model(recompute=Recomputation(norms=True, attention=True, experts="experts"))
    loss = model.loss(_tokens()[:, :-1], _tokens()[:, 1:]).total
    monkeypatch.setattr("pauca.moe.layer.router.Router.route", None)  # would fail if it were called
    loss.backward()


def test_generation_continues_as_the_whole_sequence_says():
    model, prompt = _model().eval(), _tokens(2, 5)
    tokens = model.generate(prompt, 20, temperature=0.0)
    assert torch.equal(tokens[:, :5], prompt)
    logits = model(tokens[:, :-1])[:, 4:]
    chosen = logits.gather(-1, tokens[:, 5:, None])[..., 0]
    # Products of other sizes sum in another order: the choice may be the second of two that are nearly equal.
    assert (logits.amax(-1) - chosen).max() < 0.05


def test_generation_repeats_with_its_generator_and_keeps_to_the_likeliest():
    model, prompt = _model().eval(), _tokens(1, 3)

    def generate(seed: int, **options) -> torch.Tensor:
        return model.generate(prompt, 12, generator=torch.Generator().manual_seed(seed), **options)

    assert torch.equal(generate(3), generate(3))
    assert not torch.equal(generate(3), generate(4))
    assert torch.equal(generate(3, top_k=1), generate(4, top_k=1))


@pytest.mark.parametrize(("precision", "projections"), [("bf16", "bf16"), ("fp4", "bf16"), ("paper", "fp4")])
def test_it_learns_a_text_by_heart(precision, projections):
    model, tokens = _model(layers=1, recipe=getattr(Recipe, precision)(), projections=projections), _tokens(1, 17)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(20):
        loss = model.loss(tokens[:, :-1], tokens[:, 1:])
        optimizer.zero_grad()
        loss.total.backward()
        optimizer.step()
    assert loss.cross_entropy.item() < 0.5  # from 6


def test_projections_in_few_bits_keep_less_and_change_the_model_little():
    tokens = _tokens(2, 65)
    losses, kept = {}, {}
    for projections in ("bf16", "fp8", "fp4"):
        model, seen = _model(recipe=Recipe.fp4(), projections=projections), {}
        with torch.autograd.graph.saved_tensors_hooks(
            lambda tensor, seen=seen: seen.update({tensor.data_ptr(): tensor}) or tensor, lambda tensor: tensor
        ):
            losses[projections] = model.loss(tokens[:, :-1], tokens[:, 1:]).cross_entropy.item()
        own = {parameter.data_ptr() for parameter in model.parameters()}
        kept[projections] = sum(t.numel() * t.element_size() for place, t in seen.items() if place not in own)
    assert kept["fp4"] < kept["fp8"] < kept["bf16"]
    assert losses["fp8"] == pytest.approx(losses["bf16"], abs=0.05)
    assert losses["fp4"] == losses["fp8"]  # forward multiplies FP8 under both


def test_parameters_may_be_bf16():
    model, tokens = _model().bfloat16(), _tokens()
    expected = _model().loss(tokens[:, :-1], tokens[:, 1:]).cross_entropy
    losses = model.loss(tokens[:, :-1], tokens[:, 1:])
    losses.total.backward()
    torch.testing.assert_close(losses.cross_entropy, expected, atol=0.01, rtol=0)
    assert all(parameter.grad.dtype == torch.bfloat16 for parameter in model.parameters())


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"heads": 3}, "multiple of kv_heads"),
        ({"head_dim": 7}, "even"),
        ({"layers": 0}, "layers"),
        ({"dense_layers": 3}, r"dense_layers must lie in 0\.\.layers"),
        ({"dense_layers": 1}, "dense_width"),
        ({"expert_width": 40, "recipe": Recipe.fp4()}, "multiple of 32"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(wrong, words):
    with pytest.raises(ConfigError, match=words):
        _model(**wrong)


def test_too_many_tokens_are_refused():
    model = _model()
    with pytest.raises(InputError, match="65 tokens are longer than the model's context of 64"):
        model(_tokens(1, 65))
    with pytest.raises(InputError, match="60 tokens and 5 more"):
        model.generate(_tokens(1, 60), 5)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"tokens": torch.zeros(5, dtype=torch.long)}, r"tokens of torch.int64 and shape \(5,\); give whole numbers"),
        ({"tokens": torch.zeros(2, 5)}, "tokens of torch.float32"),
        ({"targets": torch.zeros(2, 4, dtype=torch.long)}, r"targets of shape \(2, 4\) beside tokens of \(2, 5\)"),
        ({"mask": torch.ones(2, 5, dtype=torch.long)}, r"a mask of torch.int64; .*attention_mask.bool\(\)"),
        ({"mask": torch.ones(5, dtype=torch.bool)}, r"mask of shape \(5,\)"),
        ({"documents": torch.zeros(2, 6, dtype=torch.long)}, r"documents of shape \(2, 6\)"),
        ({"documents": torch.zeros(2, 5)}, "documents of torch.float32"),
    ],
)
def test_what_does_not_belong_to_the_tokens_is_refused(wrong, words):
    whole = torch.zeros(2, 5, dtype=torch.long)
    given = {"tokens": whole, "targets": whole, "mask": None, "documents": None} | wrong
    with pytest.raises(InputError, match=words):
        length_of(**given)
    assert length_of(whole, 3, mask=torch.ones(2, 8, dtype=torch.bool)) == 5


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"count": -3}, "count must be at least 0, got -3"),
        ({"temperature": -1.0}, "temperature must be at least 0, got -1.0"),
        ({"temperature": math.nan}, "temperature must be at least 0, got nan"),
        ({"top_k": 0}, "top_k must be at least 1, got 0"),
    ],
)
def test_choices_outside_their_range_are_refused(wrong, words):
    with pytest.raises(ConfigError, match=words):
        _model().generate(_tokens(1, 3), **({"count": 1} | wrong))


@pytest.mark.slow
@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_a_compiled_model_has_no_graph_breaks_and_the_gradients_of_an_eager_one(device):
    """In a process of its own: the compiler cannot trace the type checks of the test suite."""
    subprocess.run([sys.executable, __file__, device], check=True, timeout=300)


def main(device: str) -> None:
    for recompute, projections in (
        (Recomputation(), "fp4"),
        (Recomputation(norms=True, attention=True, experts="activation"), "bf16"),
    ):
        model = _model(recipe=Recipe.fp4(), recompute=recompute, projections=projections).to(device)
        tokens = _tokens().to(device)
        eager = _loss_and_gradients(model, tokens)
        model.zero_grad()
        model.compile(fullgraph=True, backend="aot_eager")
        model.loss = torch.compile(model.loss, fullgraph=True, backend="aot_eager")
        for actual, expected in zip(_loss_and_gradients(model, tokens), eager, strict=True):
            if device == "cpu":
                assert torch.equal(actual, expected)
            else:  # a compiled model rounds its norms elsewhere, which tips codes of four bits over
                assert (actual - expected).norm() < 0.2 * expected.norm()


if __name__ == "__main__":
    main(sys.argv[1])
