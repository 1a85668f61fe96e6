"""`experts_implementation="pauca_..."` computes what `convert` computes, and is chosen where a model is loaded."""

import copy

import pytest
import torch
from torch import nn

from pauca.errors import ConfigError, InputError
from pauca.moe import RECIPES, convert

transformers = pytest.importorskip("transformers")

from pauca.moe.models.implementations import IMPLEMENTATIONS  # noqa: E402 - needs transformers

SIZES = {
    **{"vocab_size": 64, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4},
    **{"num_key_value_heads": 4, "max_position_embeddings": 64, "pad_token_id": 0, "bos_token_id": 1},
    **{"eos_token_id": 2, "num_experts": 8, "num_experts_per_tok": 3, "moe_intermediate_size": 32},
}
TOKENS = torch.arange(2 * 24).reshape(2, 24) * 31 % 61 + 3


def build(**changes: object) -> nn.Module:
    torch.manual_seed(0)
    return transformers.Qwen3MoeForCausalLM(transformers.Qwen3MoeConfig(**{**SIZES, **changes})).eval()


def step(model: nn.Module) -> list[torch.Tensor]:
    model.zero_grad()
    found = model(TOKENS, labels=TOKENS)
    found.loss.backward()
    return [found.logits.detach(), *(weight.grad.clone() for weight in model.parameters())]


@pytest.mark.parametrize("name", IMPLEMENTATIONS)
def test_bits_are_those_of_a_converted_model(name):
    model = build()
    expected = step(convert(copy.deepcopy(model), RECIPES[IMPLEMENTATIONS[name]]))
    own = step(model)
    model.set_experts_implementation(name)
    for actual, wanted in zip(step(model), expected, strict=True):
        assert torch.equal(actual, wanted)
    model.set_experts_implementation("eager")
    assert torch.allclose(step(model)[0], own[0], atol=1e-5)


def test_it_is_chosen_where_a_model_is_loaded_trained_and_asked(tmp_path):
    build().save_pretrained(tmp_path)
    load = transformers.Qwen3MoeForCausalLM.from_pretrained
    model = load(tmp_path, dtype=torch.float32, experts_implementation="pauca_fp4")
    assert not torch.equal(model(TOKENS).logits, load(tmp_path, dtype=torch.float32)(TOKENS).logits)
    expected = step(model)
    model.train()
    # The second is its older name.
    getattr(model, "activation_checkpointing_enable", model.gradient_checkpointing_enable)()
    for actual, wanted in zip(step(model), expected, strict=True):
        assert torch.equal(actual, wanted)
    model.eval()
    tokens = model.generate(TOKENS, max_new_tokens=4, do_sample=False, attention_mask=torch.ones_like(TOKENS))
    assert tokens.shape == (2, 28)
    model.save_pretrained(tmp_path / "again")  # without a trace of pauca
    assert "pauca" not in (tmp_path / "again" / "config.json").read_text()


def test_what_it_cannot_compute_is_refused_with_the_reason():
    model = build(hidden_act="gelu")
    model.set_experts_implementation("pauca_fp4")
    with pytest.raises(InputError, match=r'experts_implementation="pauca_fp4": its activation function .* is not SiLU'):
        model(TOKENS)
    model = build(moe_intermediate_size=40)
    model.set_experts_implementation("pauca_fp8")
    with pytest.raises(ConfigError, match="width must be a multiple of 32"):
        model(TOKENS)
