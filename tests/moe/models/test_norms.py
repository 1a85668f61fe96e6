"""Converted models whose RMS norms keep their input once, in a format of pauca's."""

import copy
import inspect
import io
import subprocess
import sys

import pytest
import torch
from torch import Tensor, nn

from pauca.errors import ConfigError, InputError
from pauca.moe import Recipe, convert, unconvert

transformers = pytest.importorskip("transformers")

from pauca.moe.models.norms import ConvertedRMSNorm  # noqa: E402 - of a model of transformers

SIZES = {
    **{"vocab_size": 64, "hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4},
    **{"num_key_value_heads": 2, "max_position_embeddings": 64, "pad_token_id": 0, "head_dim": 32},
    **{"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32},
}
TOKENS = torch.arange(2 * 24).reshape(2, 24) * 31 % 61 + 3


def build(family: str = "Qwen3Moe", **changes: object) -> nn.Module:
    torch.manual_seed(0)
    config = getattr(transformers, f"{family}Config")(**{**SIZES, **changes})
    model = getattr(transformers, f"{family}ForCausalLM")(config).eval()
    for name, weight in model.named_parameters():
        if weight.ndim == 1 and "norm" in name:
            nn.init.normal_(weight, 0 if family == "Qwen3Next" else 1, 0.3)
    return model


def norms_of(model: nn.Module) -> dict[str, nn.Module]:
    return {name: module for name, module in model.named_modules() if isinstance(module, ConvertedRMSNorm)}


def step(model: nn.Module) -> tuple[Tensor, dict[str, Tensor]]:
    model.zero_grad()
    found = model(TOKENS, labels=TOKENS)
    found.loss.backward()
    return found.logits.detach(), {n: w.grad.clone() for n, w in model.named_parameters() if w.grad is not None}


def passes(norm: nn.Module, x: Tensor) -> list[Tensor]:
    """What a norm gives, and the gradients of x and of the weight when that is to become a fixed random matrix."""
    norm.zero_grad()
    x = x.detach().requires_grad_()
    y = norm(x)
    y.backward(torch.randn(y.shape, generator=torch.Generator().manual_seed(1)).to(y.dtype))
    assert norm.weight.grad is not None
    return [y.detach(), x.grad, norm.weight.grad]


@torch.no_grad()
def difference(a: Tensor, b: Tensor) -> float:
    return float((a.float() - b.float()).norm() / a.float().norm())


NEXT = {"layer_types": ["full_attention"]}  # of Qwen3-Next, to whose weight one is added


@pytest.mark.parametrize("family", ["Qwen3Moe", "Qwen3Next", "Llama"])
def test_a_model_computes_the_same_and_keeps_names_and_weights(family, tmp_path):
    model = build(family, **(NEXT if family == "Qwen3Next" else {}))
    logits, expected = step(model)
    before = {name: weight.data_ptr() for name, weight in model.state_dict().items()}
    model.save_pretrained(tmp_path / "original")
    for kept, bound in (("bf16", 1e-4), ("fp8", 0.03), ("mxfp4", 0.15)):
        convert(model, Recipe.bf16(), norms=kept)
        assert len(norms_of(model)) >= 3
        found, gradients = step(model)
        # Experts in BF16 round, too, where there are any.
        assert difference(logits, found) < (1e-5 if family == "Llama" else 2e-3)
        for name, gradient in expected.items() if family == "Llama" else ():
            assert difference(gradient, gradients[name]) < bound, name
    assert {name: weight.data_ptr() for name, weight in model.state_dict().items()} == before
    model.save_pretrained(tmp_path / "converted")
    for name in ("model.safetensors", "config.json"):
        assert (tmp_path / "original" / name).read_bytes() == (tmp_path / "converted" / name).read_bytes()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    # The input's rounding counts in a gradient by the part along the input alone: one of 64 channels.
    ("kept", "of_x", "of_weight"), [("bf16", 1e-6, 1e-6), ("fp8", 0.01, 0.04), ("mxfp4", 0.04, 0.15)],
)  # fmt: skip
def test_gradients_are_right_to_a_part_of_the_formats_rounding(kept, of_x, of_weight, dtype):
    """BF16 rounds by 2^-9 besides."""
    model = build().to(dtype)
    converted = convert(copy.deepcopy(model), Recipe.bf16(), norms=kept)
    rounding = 0.006 if dtype == torch.bfloat16 else 0
    x = torch.randn(2, 24, 64, generator=torch.Generator().manual_seed(2)).to(dtype)
    for name in ("model.norm", "model.layers.0.input_layernorm"):
        expected, found = (passes(one.get_submodule(name), x) for one in (model, converted))
        assert [t.dtype for t in expected] == [t.dtype for t in found]
        for a, b, bound in zip(expected, found, (1e-6, of_x, of_weight), strict=True):
            assert difference(a, b) <= bound + rounding
    query = torch.randn(2, 24, 4, 32, generator=torch.Generator().manual_seed(3)).to(dtype)
    name = "model.layers.0.self_attn.q_norm"
    expected, found = (passes(one.get_submodule(name), query) for one in (model, converted))
    for a, b, bound in zip(expected, found, (1e-6, 2 * of_x, of_weight), strict=True):
        assert difference(a, b) <= bound + rounding


def test_an_fp32_weight_gives_fp32_where_it_did():
    x = torch.randn(3, 64).bfloat16()
    for family in ("Qwen3Moe", "Qwen3Next"):
        model = build(family, **(NEXT if family == "Qwen3Next" else {}))
        expected = passes(model.model.norm, x)
        found = passes(convert(model, Recipe.bf16(), norms="bf16").model.norm, x)
        assert [t.dtype for t in expected] == [t.dtype for t in found]
        assert all(difference(a, b) < 0.006 for a, b in zip(expected, found, strict=True))


@pytest.mark.parametrize(("kept", "row"), [("bf16", 128), ("fp8", 65), ("mxfp4", 48)])
def test_it_keeps_its_input_in_that_format_and_a_number_a_token(kept, row):
    norm = convert(build().bfloat16(), Recipe.fp4(), norms=kept).model.norm
    x = torch.randn(2, 24, 64, dtype=torch.bfloat16, requires_grad=True)
    sizes: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        y = norm(x)
    assert y.requires_grad
    assert sum(sizes.values()) == 48 * (row + 4) + 4 * 64  # and the weight in FP32


def test_it_is_undone_and_chosen_anew():
    model, untouched = build(), build()
    convert(model, Recipe.fp4(), norms="mxfp4")
    convert(model.model.layers, Recipe.fp4(), norms="fp8")
    assert (model.model.norm._kept, model.model.layers[0].input_layernorm._kept) == ("mxfp4", "fp8")
    convert(model.model.layers, Recipe.fp4())
    assert list(norms_of(model)) == ["model.norm"]
    assert torch.equal(unconvert(model)(TOKENS).logits, untouched(TOKENS).logits)
    for layer, original in zip(model.modules(), untouched.modules(), strict=True):
        assert (type(layer), vars(layer).keys()) == (type(original), vars(original).keys())


def test_checkpoints_copies_and_generation_change_no_bit():
    model = convert(build(), Recipe.fp4(), projections="fp4", norms="mxfp4").train()
    logits, expected = step(model)
    stored = io.BytesIO()
    torch.save(model, stored)
    stored.seek(0)
    for other in (copy.deepcopy(model), torch.load(stored, weights_only=False)):
        assert torch.equal(other(TOKENS).logits, logits)
    model.activation_checkpointing_enable({"use_reentrant": False})
    again, gradients = step(model)
    assert torch.equal(logits, again)
    assert all(torch.equal(expected[name], gradients[name]) for name in expected)
    options = {"max_new_tokens": 8, "do_sample": False, "attention_mask": torch.ones_like(TOKENS)}
    assert model.eval().generate(TOKENS, **options).shape == (2, 32)


@pytest.mark.parametrize("kept", ["bf16", "mxfp4"])
def test_a_model_with_everything_in_few_bits_learns_as_fast(kept):
    """Sequences of period 4: thirty steps of Adam bring the loss from ln 64 to below a twentieth of it, as its own."""
    model = build(num_hidden_layers=2, mlp_only_layers=[0], intermediate_size=96).train()
    convert(model, Recipe.fp4(), projections="fp4", feed_forwards="fp4", norms=kept)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    tokens = torch.randint(3, 64, (8, 4), generator=torch.Generator().manual_seed(0)).repeat(1, 6)
    for _ in range(32):
        optimizer.zero_grad()
        loss = model(tokens, labels=tokens).loss
        loss.backward()
        optimizer.step()
    assert loss < 0.05 * torch.tensor(64.0).log()


@pytest.mark.filterwarnings("ignore:Mismatch dtype")
def test_fp32_of_a_feed_forward_becomes_the_weights_type_where_it_did():
    """T5 loads its last weights in FP32, so that a BF16 model's norms read FP32: its linear layers take BF16 alone."""
    torch.manual_seed(0)
    sizes = {"vocab_size": 64, "d_model": 64, "d_kv": 32, "d_ff": 64, "num_heads": 2, "num_layers": 1}
    model = transformers.T5ForConditionalGeneration(transformers.T5Config(**sizes, decoder_start_token_id=0)).eval()
    model.bfloat16()
    for name, module in model.named_modules():
        if name.endswith(".wo"):
            module.float()
    expected = step(model)[0]
    convert(model, Recipe.bf16(), norms="bf16")
    assert difference(expected, step(model)[0]) < 0.02
    for x, weight in [(torch.float32, torch.bfloat16), (torch.bfloat16, torch.float32)]:
        own = unconvert(model).encoder.final_layer_norm
        for norm in (build().model.norm, build("Qwen3Next", **NEXT).model.norm, nn.RMSNorm(64, 1e-6), own):
            given, original = torch.ones(3, 64, dtype=x), nn.Sequential(copy.deepcopy(norm)).to(weight)
            converted = convert(copy.deepcopy(original), Recipe.bf16(), norms="bf16")
            assert converted(given).dtype == original(given).dtype


@pytest.mark.parametrize("kept", ["bf16", "fp8", "mxfp4"])
def test_a_single_row_has_gradients(kept):
    norm = build().model.norm
    x = torch.randn(64, generator=torch.Generator().manual_seed(4))
    expected = passes(norm, x)
    found = passes(convert(nn.Sequential(norm), Recipe.bf16(), norms=kept)[0], x)
    assert all(difference(a, b) < 0.25 for a, b in zip(expected, found, strict=True))


def test_hooks_are_not_called_by_conversion_and_do_not_hinder_it():
    model, seen = build(), []
    for norm in (model.model.norm, model.model.layers[0].input_layernorm):
        norm.register_forward_hook(lambda _, read, gave: seen.append(1) or 2 * gave)
    expected = step(model)[0]
    seen.clear()
    convert(model, Recipe.bf16(), norms="bf16")
    assert not seen
    assert {"model.norm", "model.layers.0.input_layernorm"} <= norms_of(model).keys()
    assert difference(expected, step(model)[0]) < 2e-3
    assert len(seen) == 2


class OverChannels(nn.Module):
    """Normalizes the second dimension, as of images [batch, channels, height, width]."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(64)), 1e-6

    def forward(self, x: Tensor) -> Tensor:
        y = x * torch.rsqrt(x.pow(2).mean(1, keepdim=True) + self.eps)
        return y * self.weight.view(1, -1, *[1] * (x.ndim - 2))


class Gated(nn.Module):
    """A norm that may be given more than its input."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(64)), 1e-6

    def forward(self, x: Tensor, gate: Tensor | None = None) -> Tensor:
        y = x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps) * self.weight
        return y if gate is None else y * gate


def test_others_stay_as_they_are_and_none_is_refused():
    with pytest.raises(InputError, match="no RMS norms found in Sequential: leave out norms"):
        convert(nn.Sequential(Gated(), OverChannels(), nn.LayerNorm(64), nn.Linear(64, 64)), Recipe.fp4(), norms="bf16")
    with pytest.raises(ConfigError, match="norms must be None, bf16, fp8 or mxfp4, got 'fp4'"):
        inspect.unwrap(convert)(build(), Recipe.fp4(), norms="fp4")  # as users have it, without the tests' hook


@pytest.mark.slow
def test_a_compiled_norm_computes_the_same():
    """In a process of its own: torch.compile cannot trace the type checks of the test suite."""
    subprocess.run([sys.executable, __file__], check=True, timeout=500)


def main() -> None:
    norm = convert(build(), Recipe.fp4(), norms="mxfp4").model.norm
    x = torch.randn(2, 24, 64)
    expected = passes(norm, x)
    norm.forward = torch.compile(norm.forward, backend="aot_eager", fullgraph=True)
    for a, b in zip(expected, passes(norm, x), strict=True):
        assert difference(a, b) < 0.15


if __name__ == "__main__":
    main()
