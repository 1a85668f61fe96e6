"""Converted models whose dense and shared feed-forwards are computed and kept in few bits."""

import copy
import io
import subprocess
import sys

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import silu

from pauca.errors import ConfigError, InputError, PaucaError
from pauca.moe import RECIPES, Recipe, convert, frozen_weights, quantize_once, unconvert
from pauca.moe.layer.kept import kept_bytes as bytes_of_bank

transformers = pytest.importorskip("transformers")

from pauca.moe.models.feed_forwards import ConvertedFeedForward, find_feed_forwards  # noqa: E402 - needs transformers

SIZES = {
    **{"vocab_size": 64, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4},
    **{"num_key_value_heads": 4, "max_position_embeddings": 64, "pad_token_id": 0, "bos_token_id": 1},
    **{"eos_token_id": 2, "num_experts_per_tok": 2, "moe_intermediate_size": 32},
    **{"intermediate_size": 96},
}
LATENT = {
    **{"kv_lora_rank": 16, "q_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 16},
    **{"first_k_dense_replace": 1, "n_routed_experts": 4, "n_shared_experts": 1, "n_group": 1, "topk_group": 1},
}
DENSE, SHARED = "model.layers.0.mlp", "model.layers.1.mlp.shared_experts"
FAMILIES = {  # sizes, and names of the feed-forwards
    "DeepseekV3": (LATENT, (DENSE, SHARED)),
    "Glm4Moe": (LATENT, (DENSE, SHARED)),
    "Qwen3Moe": ({"num_experts": 4, "mlp_only_layers": [0], "head_dim": 16}, (DENSE,)),
    "Qwen2Moe": (  # whose shared expert has a gate of its own
        {"num_experts": 4, "shared_expert_intermediate_size": 64, "mlp_only_layers": [0]},
        (DENSE, "model.layers.1.mlp.shared_expert"),
    ),
    "Llama4": (
        {
            "num_local_experts": 4,
            "num_experts_per_tok": 1,
            "intermediate_size_mlp": 96,
            "moe_layers": [1],
            "head_dim": 16,
        },
        ("model.layers.0.feed_forward", "model.layers.1.feed_forward.shared_expert"),
    ),
}
TOKENS = torch.arange(2 * 24).reshape(2, 24) * 31 % 61 + 3


@torch.no_grad()
def build(family: str = "DeepseekV3", **changes: object) -> nn.Module:
    """Of unit variance, so that a feed-forward adds as much as it reads."""
    part = "Text" if family == "Llama4" else ""
    config = getattr(transformers, f"{family}{part}Config")(**{**SIZES, **FAMILIES[family][0], **changes})
    torch.manual_seed(0)
    model = getattr(transformers, f"{family}ForCausalLM")(config).eval()
    for name, weight in model.named_parameters():
        if weight.ndim > 1:
            weight.normal_(std=1.0 if "embed" in name else weight.shape[-1] ** -0.5)
    return model


def llama(**changes: object) -> nn.Module:
    torch.manual_seed(0)
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**SIZES, **changes)).eval()


def step(model: nn.Module) -> tuple[Tensor, dict[str, Tensor]]:
    model.zero_grad()
    found = model(TOKENS, labels=TOKENS)
    found.loss.backward()
    return found.logits.detach(), {n: w.grad.clone() for n, w in model.named_parameters() if w.grad is not None}


def passes(module: nn.Module, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """What a module gives, and the gradients of its weights and of x when that is to become a fixed random matrix."""
    module.zero_grad()
    x = x.detach().requires_grad_()
    y = module(x)
    y.backward(torch.randn(y.shape, generator=torch.Generator().manual_seed(1)).to(y.dtype))
    return y.detach(), {"x": x.grad} | {name: weight.grad for name, weight in module.named_parameters()}


@torch.no_grad()
def difference(a: Tensor, b: Tensor) -> float:
    return float((a.float() - b.float()).norm() / a.float().norm())


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    ("precision", "of_output", "of_gradients"), [("fp8", 0.08, 0.12), ("fp4", 0.22, 0.35)]
)  # as of routed experts: docs/moe/families.md and huggingface.md
def test_each_computes_what_the_original_does_to_the_formats_rounding(family, precision, of_output, of_gradients):
    model = build(family)
    converted = convert(copy.deepcopy(model), Recipe.bf16(), feed_forwards=precision)
    found = {name for name, module in converted.named_modules() if isinstance(module, ConvertedFeedForward)}
    assert found == set(FAMILIES[family][1])
    x = torch.randn(2, 24, 64, generator=torch.Generator().manual_seed(2))
    for name in found:
        y, gradients = passes(model.get_submodule(name), x)
        ours, our_gradients = passes(converted.get_submodule(name), x)
        assert 0 < difference(y, ours) < of_output
        assert gradients.keys() == our_gradients.keys()
        for weight, gradient in gradients.items():
            assert 0 < difference(gradient, our_gradients[weight]) < of_gradients, (name, weight)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_model_computes_the_same_and_its_files_stay_as_they_were(family, tmp_path):
    model = build(family)
    logits, expected = step(model)
    model.save_pretrained(tmp_path / "original")
    before = {name: weight.data_ptr() for name, weight in model.state_dict().items()}
    convert(model, Recipe.bf16(), feed_forwards="fp8")
    ours, gradients = step(model)
    assert 0 < difference(logits, ours) < 0.2  # a router may choose otherwise
    assert expected.keys() == gradients.keys()
    assert {name: weight.data_ptr() for name, weight in model.state_dict().items()} == before
    model.save_pretrained(tmp_path / "converted")
    for name in ("model.safetensors", "config.json"):
        assert (tmp_path / "original" / name).read_bytes() == (tmp_path / "converted" / name).read_bytes()
    loaded = type(model).from_pretrained(tmp_path / "converted", dtype=torch.float32)
    assert torch.equal(convert(loaded.eval(), Recipe.bf16(), feed_forwards="fp8")(TOKENS).logits, ours)


class Fused(nn.Module):
    """One layer for gate and up, which alternate; with biases and a limit."""

    def __init__(self) -> None:
        super().__init__()
        self.wi, self.wo, self.limit = nn.Linear(64, 128), nn.Linear(64, 64), 2.0

    def forward(self, hidden_states: Tensor) -> Tensor:
        z = self.wi(hidden_states)
        return self.wo(silu(z[..., ::2].clamp(max=self.limit)) * z[..., 1::2].clamp(-self.limit, self.limit))


class Plain(nn.Module):
    """Without a gate."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2, self.act = nn.Linear(64, 96), nn.Linear(96, 64), nn.GELU()

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.act(self.fc1(x)))


class Named(nn.Module):
    """Up before gate, under other names."""

    def __init__(self) -> None:
        super().__init__()
        self.w1, self.w3, self.w2 = (nn.Linear(64, 64, bias=False) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        return self.w2(self.w1(x) * silu(self.w3(x)))


@pytest.mark.parametrize("kind", [Fused, Plain, Named])
def test_other_feed_forwards_are_known_by_what_they_do(kind):
    torch.manual_seed(0)
    holder = nn.Sequential(kind())
    original = copy.deepcopy(holder)
    convert(holder, Recipe.fp8(), feed_forwards="fp8")
    assert isinstance(holder[0], ConvertedFeedForward)
    x = torch.randn(3, 21, 64)
    y, gradients = passes(original, x)
    ours, our_gradients = passes(holder, x)
    assert difference(y, ours) < 0.08
    for name, gradient in gradients.items():
        assert difference(gradient, our_gradients[name]) < 0.12, name
    assert torch.equal(ours, holder[0](**{"x" if kind is not Fused else "hidden_states": x}))


class Dropping(Plain):
    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(nn.functional.dropout(self.act(self.fc1(x)), 0.5, self.training))


class Normed(Plain):
    def __init__(self) -> None:
        super().__init__()
        self.act = nn.Sequential(nn.GELU(), nn.LayerNorm(96))


class Residual(Plain):
    def forward(self, x: Tensor) -> Tensor:
        return x + super().forward(x)


class Helped(Plain):
    """Asks its class for more than a converted one has."""

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.act(self.fc1(x)))

    def last(self, x: Tensor) -> Tensor:
        return self.fc2(x)


@pytest.mark.parametrize("kind", [Dropping, Normed, Residual, Helped])
def test_what_does_more_stays_as_it_is(kind):
    module = nn.ModuleDict({"this": kind(), "other": Plain()}).eval()
    convert(module, Recipe.fp4(), feed_forwards="fp4")
    assert type(module["this"]) is kind
    assert isinstance(module["other"], ConvertedFeedForward)


@pytest.mark.parametrize("precision", ["fp8", "fp4"])
def test_it_keeps_its_input_and_fc1s_output_in_few_bits_and_nothing_else(precision):
    model = convert(build().bfloat16(), Recipe.fp4(), feed_forwards=precision).train()
    x = torch.randn(2, 24, 64, dtype=torch.bfloat16, requires_grad=True)
    dense = model.get_submodule(DENSE)
    sizes = {"tokens": 48, "top_k": 1, "experts": 1, "hidden": 64, "width": 96}
    of_bank = bytes_of_bank(RECIPES[precision], "none", **sizes)
    assert of_bank < kept_bytes(dense, x) < of_bank + 64 * 20  # and the place of each row


def kept_bytes(module: nn.Module, x: Tensor) -> int:
    """Of what autograd saves besides weights and x, a joined copy of weights included."""
    ignored = {tensor.untyped_storage().data_ptr() for tensor in (x, *module.parameters())}
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        if tensor.untyped_storage().data_ptr() not in ignored:
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        y = module(x)
    assert y.requires_grad
    return sum(kept.values())


def test_it_is_undone_and_chosen_anew():
    model, untouched = build(), build()
    convert(model, Recipe.fp4(), feed_forwards="fp4")
    convert(model.model.layers[1:], Recipe.fp4(), "experts", feed_forwards="fp8")
    dense, shared = map(model.get_submodule, (DENSE, SHARED))
    assert (dense.recipe, dense.recompute) == (Recipe.fp4(), "none")
    assert (shared.recipe, shared.recompute) == (Recipe.fp8(), "experts")
    convert(model.model.layers[:1], Recipe.fp4())  # which has no experts
    assert not isinstance(model.get_submodule(DENSE), ConvertedFeedForward)
    assert isinstance(model.get_submodule(SHARED), ConvertedFeedForward)
    assert torch.equal(unconvert(model)(TOKENS).logits, untouched(TOKENS).logits)
    for layer, original in zip(model.modules(), untouched.modules(), strict=True):
        assert (type(layer), vars(layer).keys()) == (type(original), vars(original).keys())


def test_models_without_experts_can_be_converted_so():
    model = llama()
    expected = model(TOKENS).logits
    convert(model, Recipe.fp4(), projections="fp8", feed_forwards="fp4")
    assert 0 < difference(expected, model(TOKENS).logits) < 0.1
    convert(model, Recipe.fp4(), projections="fp4")
    assert not any(isinstance(module, ConvertedFeedForward) for module in model.modules())
    convert(model, Recipe.fp4())
    assert torch.equal(expected, model(TOKENS).logits)
    with pytest.raises(InputError, match=r"no experts found in LlamaForCausalLM.*give projections, feed_forwards or n"):
        convert(model, Recipe.fp4())


def test_checkpoints_copies_and_frozen_weights_change_no_bit():
    model = convert(build(), Recipe.fp4(), feed_forwards="fp4").train()
    logits, expected = step(model)
    stored = io.BytesIO()
    torch.save(model, stored)
    stored.seek(0)
    for other in (copy.deepcopy(model), torch.load(stored, weights_only=False)):
        assert torch.equal(other(TOKENS).logits, logits)
    with frozen_weights(model):
        frozen, gradients = step(model)
        with pytest.raises(InputError, match=rf"{DENSE} is in use by frozen_weights"):
            convert(model, Recipe.fp4())
        with torch.no_grad():
            model.get_submodule(DENSE).up_proj.weight.mul_(1)
        with pytest.raises(PaucaError, match="expert weights changed under frozen_weights"):
            model(TOKENS)
    assert torch.equal(logits, frozen)
    assert all(torch.equal(expected[name], gradients[name]) for name in expected)
    quantize_once(model, torch.optim.SGD(model.parameters(), lr=0.1))
    for _ in range(2):
        again, gradients = step(model)
        assert torch.equal(logits, again)
        assert all(torch.equal(expected[name], gradients[name]) for name in expected)
    model.activation_checkpointing_enable({"use_reentrant": False})
    again, gradients = step(model)
    assert torch.equal(logits, again)
    assert all(torch.equal(expected[name], gradients[name]) for name in expected)


def test_frozen_ones_get_no_gradient_and_pass_it_on():
    model = convert(build(), Recipe.fp4(), feed_forwards="fp4")
    _, expected = step(model)
    for name in FAMILIES["DeepseekV3"][1]:
        model.get_submodule(name).requires_grad_(False)
    model.get_submodule(DENSE).up_proj.requires_grad_(True)
    _, found = step(model)
    assert {name for name in found if name.startswith((DENSE + ".", SHARED))} == {f"{DENSE}.up_proj.weight"}
    assert all(torch.equal(expected[name], gradient) for name, gradient in found.items())


def test_generation_and_no_tokens():
    model = convert(build(), Recipe.fp4(), feed_forwards="fp4")
    options = {"max_new_tokens": 8, "do_sample": False, "attention_mask": torch.ones_like(TOKENS)}
    expected = model.generate(TOKENS, **options)
    assert expected.shape == (2, 32)
    with frozen_weights(model):
        assert torch.equal(model.generate(TOKENS, **options), expected)
    nothing, gradients = passes(model.get_submodule(DENSE), torch.zeros(0, 64))
    assert nothing.shape == (0, 64)
    assert not gradients["up_proj.weight"].any()


@pytest.mark.filterwarnings("ignore:.*is deprecated and will be removed in v6:FutureWarning")  # PEFT's own call
def test_adapters_of_peft_are_not_passed_over():
    """What an adapter adds, a product with the weight alone would leave out: such a module computes as its own does."""
    peft = pytest.importorskip("peft")
    model = convert(llama(), Recipe.fp4(), feed_forwards="fp4")
    plain = model(TOKENS).logits
    config = peft.LoraConfig(r=4, target_modules=["up_proj"], init_lora_weights=False)
    adapted = peft.get_peft_model(model, config).eval()
    assert difference(plain, adapted(TOKENS).logits) > 0.1
    adapted(TOKENS, labels=TOKENS).loss.backward()
    trained = {name for name, weight in adapted.named_parameters() if weight.grad is not None and weight.grad.any()}
    assert any("up_proj.lora_A" in name for name in trained)
    assert all("lora_" in name for name in trained)
    assert torch.equal(adapted.unload()(TOKENS).logits, plain)


@pytest.mark.parametrize("layer", ["gate_proj", "act_fn"])
@pytest.mark.parametrize("kind", ["forward_hook", "forward_pre_hook", "full_backward_hook", "full_backward_pre_hook"])
def test_hooks_on_its_layers_are_called(layer, kind):
    model = convert(build(), Recipe.fp4(), feed_forwards="fp4")
    seen = []
    hook = getattr(model.get_submodule(f"{DENSE}.{layer}"), f"register_{kind}")(lambda *_: seen.append(1))
    model(TOKENS).logits.sum().backward()
    assert seen
    hook.remove()


def test_another_forward_of_its_layers_is_called():
    """As accelerate gives one to layers whose weights it loads when they are needed."""
    model = convert(build(), Recipe.fp4(), feed_forwards="fp4")
    seen, layer = [], model.get_submodule(DENSE).up_proj
    layer.forward = lambda x: seen.append(1) or nn.functional.linear(x, layer.weight)
    model(TOKENS)
    assert seen


class Kind(nn.Module):
    """A feed-forward that does one thing more than pauca computes."""

    def __init__(self, more: str) -> None:
        super().__init__()
        self.gate_proj, self.up_proj = nn.Linear(64, 96), nn.Linear(64, 96)
        self.down_proj, self.act_fn, self.more = nn.Linear(96, 64), nn.SiLU(), more
        self.dropout = nn.AlphaDropout(0.5 if more == "drop" else 0.0)

    def forward(self, x: Tensor) -> Tensor:
        other = x.roll(1, 0) if self.more == "mix sequences" else x
        z = self.dropout(self.act_fn(self.gate_proj(x)) * self.up_proj(other))
        return self.down_proj(z.flip(-1) if self.more == "reorder channels" else z)


@pytest.mark.parametrize("more", ["nothing", "drop", "mix sequences", "reorder channels"])
def test_what_only_shows_when_channels_sequences_or_training_differ_is_refused(more):
    """In evaluation, where dropout does nothing yet."""
    module = Kind(more).eval()
    if more == "nothing":
        assert isinstance(convert(module, Recipe.bf16(), feed_forwards="fp8"), ConvertedFeedForward)
        return
    with pytest.raises(InputError, match=r"no feed-forwards found in Kind: the module \(Kind\): what stands between"):
        convert(module, Recipe.bf16(), feed_forwards="fp8")
    assert type(module) is Kind


class TestRefusals:
    """In one line, with nothing changed."""

    def refused(self, model: nn.Module, reason: str, error: type[PaucaError] = InputError, **options: str) -> None:
        with pytest.raises(error, match=reason) as caught:
            convert(model, Recipe.fp4(), **options)
        assert "\n" not in str(caught.value)
        assert unconvert(model) is model
        assert not any(type(module).__name__.startswith("Converted") for module in model.modules())

    def test_other_numerics(self):
        with pytest.raises(ConfigError, match="feed_forwards must be bf16, fp8 or fp4, got 'fp3'"):
            convert.__wrapped__(build(), Recipe.fp4(), feed_forwards="fp3")

    def test_models_that_have_none(self):
        model = build("Qwen3Moe", mlp_only_layers=[])
        assert find_feed_forwards(model) == ({}, {})
        self.refused(
            model,
            "no feed-forwards found in Qwen3MoeForCausalLM: none of its modules .* leave feed_forwards at bf16",
            feed_forwards="fp4",
        )

    def test_other_activation_functions(self):
        model = llama(hidden_act="mish")
        self.refused(
            model,
            r"model\.layers\.0\.mlp \(LlamaMLP\): what stands between its linear layers is none of the gates",
            feed_forwards="fp4",
        )

    def test_half_precision(self):
        model = build("Qwen3Moe")
        model.get_submodule(DENSE).half()
        self.refused(model, rf"{DENSE}\.gate_proj: its weights are torch\.float16: load", feed_forwards="fp8")


@pytest.mark.slow
def test_a_compiled_model_computes_the_same():
    """In a process of its own: torch.compile cannot trace the type checks of the test suite."""
    subprocess.run([sys.executable, __file__], check=True, timeout=500)


def main() -> None:
    """Forward and backward without a graph break in a feed-forward; `aot_eager` needs no compiler on the machine."""
    for precision in ("fp8", "fp4"):
        model = convert(build("Qwen2Moe", num_hidden_layers=1), Recipe.fp4(), feed_forwards=precision)
        (feed_forward,) = (module for module in model.modules() if isinstance(module, ConvertedFeedForward))
        x = torch.randn(2, 24, 64)
        y, expected = passes(feed_forward, x)
        feed_forward.forward = torch.compile(feed_forward.forward, backend="aot_eager", fullgraph=True)
        ours, gradients = passes(feed_forward, x)
        assert torch.equal(y, ours)
        assert all(torch.equal(gradient, gradients[name]) for name, gradient in expected.items())


if __name__ == "__main__":
    main()
