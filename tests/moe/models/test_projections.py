"""Converted models whose attention's projections are computed in FP8 and keep their input in few bits."""

import copy
import gc
import inspect

import pytest
import torch
from torch import Tensor, nn

from pauca.errors import ConfigError, InputError
from pauca.moe import Recipe, convert, unconvert
from pauca.moe.layer.linear import _STORED, apply_linear, quantize_input
from pauca.moe.ops.formats import mxfp4_row_bytes

transformers = pytest.importorskip("transformers")

from pauca.moe.models.projections import ConvertedLinear, find_projections  # noqa: E402 - of a model of transformers

SIZES = {
    **{"vocab_size": 64, "hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4},
    **{"num_key_value_heads": 2, "max_position_embeddings": 64, "pad_token_id": 0, "head_dim": 16},
}
TOKENS = torch.arange(2 * 24).reshape(2, 24) * 31 % 61 + 3


def qwen() -> nn.Module:
    torch.manual_seed(0)
    sizes = {**SIZES, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
    return transformers.Qwen3MoeForCausalLM(transformers.Qwen3MoeConfig(**sizes)).eval()


def gpt_oss() -> nn.Module:
    """Projections with biases."""
    torch.manual_seed(0)
    sizes = {**SIZES, "num_local_experts": 4, "num_experts_per_tok": 2, "intermediate_size": 32}
    return transformers.GptOssForCausalLM(transformers.GptOssConfig(**sizes)).eval()


def step(model: nn.Module) -> tuple[Tensor, dict[str, Tensor]]:
    model.zero_grad()
    found = model(TOKENS, labels=TOKENS)
    found.loss.backward()
    return found.logits.detach(), {n: w.grad.clone() for n, w in model.named_parameters() if w.grad is not None}


def difference(a: Tensor, b: Tensor) -> float:
    return float((a - b).norm() / a.norm())


@pytest.mark.parametrize("build", [qwen, gpt_oss])
@pytest.mark.parametrize(("precision", "bound"), [("fp8", 0.12), ("fp4", 0.25)])
def test_it_computes_the_same_to_the_formats_rounding(build, precision, bound):
    model = build()
    names = set(model.state_dict())
    logits, expected = step(convert(copy.deepcopy(model), Recipe.bf16()))
    converted = convert(copy.deepcopy(model), Recipe.bf16(), projections=precision)
    assert {type(layer) for layer in find_projections(converted).values()} == {ConvertedLinear}
    found, gradients = step(converted)
    assert set(converted.state_dict()) == names
    assert 0 < difference(logits, found) < 0.06
    for name in find_projections(model):
        if name.endswith(("v_proj", "o_proj")):  # of queries and keys little arrives at initial weights
            assert difference(expected[f"{name}.weight"], gradients[f"{name}.weight"]) < bound, name


def test_what_queries_keys_and_values_read_is_kept_once():
    x = torch.randn(3, 32, 64, dtype=torch.bfloat16)
    text, weight = Recipe.fp4().to_json(), torch.randn(32, 64, requires_grad=True)
    stored = quantize_input(x, text, "mxfp4")
    assert quantize_input(x, text, "mxfp4") is stored
    assert quantize_input(x, text, "fp8") is not stored
    alone, shared = apply_linear(x, weight, text), apply_linear(x, weight, text, stored=stored)
    assert torch.equal(alone, shared)
    one, other = (torch.autograd.grad(y.float().square().sum(), weight)[0] for y in (alone, shared))
    assert torch.equal(one, other)
    before = quantize_input(x, text, "mxfp4")
    x.mul_(2)  # another content of the same tensor
    assert not torch.equal(before[0], quantize_input(x, text, "mxfp4")[0])
    del x
    gc.collect()
    assert len(_STORED) == 0


def test_a_block_keeps_less():
    def kept(projections: str) -> int:
        model = convert(qwen().bfloat16(), Recipe.fp4(), projections=projections).train()
        weights = {weight.untyped_storage().data_ptr() for weight in model.parameters()}
        found: dict[int, int] = {}
        alive = []

        def pack(tensor: Tensor) -> Tensor:
            alive.append(tensor)
            if tensor.untyped_storage().data_ptr() not in weights:
                found[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        x = torch.randn(2, 24, 64, dtype=torch.bfloat16, requires_grad=True)
        layer = model.model.layers[0]
        rotation = model.model.rotary_emb(x, torch.arange(24)[None])
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            layer.self_attn(x, position_embeddings=rotation, attention_mask=None)
        return sum(found.values())

    bf16, fp8, fp4 = map(kept, ("bf16", "fp8", "fp4"))
    assert fp4 < fp8 < bf16


@pytest.mark.parametrize(
    ("order", "kept"),
    [("as attention reads it", "bf16"), ("copied", "mxfp4"), ("gated", "mxfp4"), ("fp32", "mxfp4"), ("none", "mxfp4")],
)
def test_attentions_output_is_kept_once_in_bf16_and_a_copy_of_it_in_few_bits(order, kept):
    """Heads that lie one after the other (DeepSeek's) are put in order, token by token: a copy that nothing keeps."""
    torch.manual_seed(0)
    shape = (2, 4, 24, 16) if order == "copied" else (2, 24, 4, 16)
    q, k, v = (torch.randn(shape, requires_grad=order != "none").bfloat16() for _ in range(3))
    if order != "copied":
        q, k, v = (heads.transpose(1, 2) for heads in (q, k, v))
    x = nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(2, 24, 64).contiguous()
    x = x * 2 if order == "gated" else x.float() if order == "fp32" else x
    layer = convert(qwen().bfloat16(), Recipe.fp4(), projections="fp4").model.layers[0].self_attn.o_proj
    seen = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: seen.append(t) or t, lambda t: t):
        layer(x)
    kinds = {(tensor.dtype, tensor.shape[-1]) for tensor in seen if tensor.ndim == 2 and tensor.shape[0] == 48}
    assert kinds == ({(torch.bfloat16, 64)} if kept == "bf16" else {(torch.uint8, mxfp4_row_bytes(64))})


def test_it_is_undone_and_chosen_anew():
    model, untouched = qwen(), qwen()
    convert(model, Recipe.fp4(), projections="fp4")
    convert(model, Recipe.fp4())
    assert not any(isinstance(layer, ConvertedLinear) for layer in model.modules())
    convert(model, Recipe.fp4(), projections="fp8")
    assert torch.equal(unconvert(model)(TOKENS).logits, untouched(TOKENS).logits)
    for layer, original in zip(model.modules(), untouched.modules(), strict=True):
        assert (type(layer), vars(layer).keys()) == (type(original), vars(original).keys())


def test_frozen_projections_keep_nothing_and_checkpoints_change_no_bit():
    model = convert(qwen(), Recipe.fp4(), projections="fp4").train()
    logits, expected = step(model)
    model.activation_checkpointing_enable({"use_reentrant": False})
    again, gradients = step(model)
    assert torch.equal(logits, again)
    assert all(torch.equal(expected[name], gradients[name]) for name in expected)
    for layer in find_projections(model).values():
        layer.requires_grad_(False)
    _, gradients = step(model)
    assert not any("_proj.weight" in name and "self_attn" in name for name in gradients)


def test_a_part_without_attention_is_refused():
    model = qwen()
    with pytest.raises(InputError, match=r"no projections found in Qwen3MoeSparseMoeBlock.*leave projections at bf16"):
        convert(model.model.layers[0].mlp, Recipe.fp4(), projections="fp4")
    with pytest.raises(ConfigError, match="projections must be bf16, fp8 or fp4, got 'fp3'"):
        inspect.unwrap(convert)(model, Recipe.fp4(), projections="fp3")  # as users have it, without the tests' hook
    assert not any(isinstance(layer, ConvertedLinear) for layer in model.modules())
