"""`experts_implementation="pauca_..."` computes what `convert` computes, and is chosen where a model is loaded."""

import copy
import subprocess
import sys

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


def build_gpt_oss() -> nn.Module:
    """Biases, a limited gate, and weights in another layout."""
    torch.manual_seed(0)
    sizes = {**SIZES, "num_local_experts": 8, "intermediate_size": 32, "head_dim": 16}
    return transformers.GptOssForCausalLM(transformers.GptOssConfig(**sizes)).eval()


@pytest.mark.parametrize("family", [build, build_gpt_oss])
@pytest.mark.parametrize("name", IMPLEMENTATIONS)
def test_bits_are_those_of_a_converted_model(name, family):
    model = family()
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
    model = build(hidden_act="mish")
    model.set_experts_implementation("pauca_fp4")
    with pytest.raises(
        InputError, match=r'experts_implementation="pauca_fp4": its activation .* is none that pauca computes'
    ):
        model(TOKENS)
    model = build(moe_intermediate_size=40)
    model.set_experts_implementation("pauca_fp8")
    with pytest.raises(ConfigError, match="width must be a multiple of 32"):
        model(TOKENS)


def test_a_trainer_trains_with_it_and_what_it_saves_loads_without(tmp_path):
    """Twelve steps on sequences of period 4; a BF16 model with the family's own experts then has the same loss."""
    build().save_pretrained(tmp_path / "start")
    load = transformers.Qwen3MoeForCausalLM.from_pretrained
    model = load(tmp_path / "start", dtype=torch.float32, experts_implementation="pauca_fp4")
    tokens = torch.randint(3, 64, (32, 4), generator=torch.Generator().manual_seed(0)).repeat(1, 6)
    arguments = transformers.TrainingArguments(
        output_dir=str(tmp_path / "runs"), max_steps=12, per_device_train_batch_size=8, learning_rate=3e-3,
        logging_steps=1, save_strategy="no", report_to="none", disable_tqdm=True, dataloader_pin_memory=False,
        activation_checkpointing=True, gradient_accumulation_steps=2, use_cpu=True,
    )  # fmt: skip
    examples = [{"input_ids": row, "labels": row} for row in tokens]
    trainer = transformers.Trainer(model, arguments, train_dataset=examples)
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert losses[-1] < 0.8 * losses[0]
    trainer.save_model(str(tmp_path / "end"))
    plain = load(tmp_path / "end", dtype=torch.float32).eval()
    with torch.no_grad():
        own, found = (m.eval()(tokens, labels=tokens).loss for m in (plain, model))
    assert abs(own - found) < 0.02 * own


def test_a_trainer_goes_on_where_the_model_is_loaded_from_its_checkpoint(tmp_path):
    """As the guide has it: by itself the Trainer leaves experts alone that the files store one by one."""
    model, load = build(), transformers.Qwen3MoeForCausalLM.from_pretrained
    examples = [{"input_ids": row, "labels": row} for row in TOKENS.repeat(4, 1)]

    def train(model: nn.Module, steps: int, **going_on: str) -> None:
        arguments = transformers.TrainingArguments(
            output_dir=str(tmp_path), max_steps=steps, per_device_train_batch_size=2, learning_rate=3e-3, save_steps=2,
            lr_scheduler_type="constant", report_to="none", disable_tqdm=True, dataloader_pin_memory=False,
            use_cpu=True,
        )  # fmt: skip
        transformers.Trainer(convert(model, RECIPES["fp4"]), arguments, train_dataset=examples).train(**going_on)

    unbroken = copy.deepcopy(model)
    train(unbroken, 4)
    checkpoint = str(tmp_path / "checkpoint-2")
    resumed = load(checkpoint, dtype=torch.float32)
    train(resumed, 4, resume_from_checkpoint=checkpoint)
    expected = unbroken.state_dict()
    for name, weight in resumed.state_dict().items():
        assert torch.allclose(weight, expected[name], atol=1e-6), name
        assert not torch.allclose(weight, model.state_dict()[name], atol=1e-4), name


@pytest.mark.filterwarnings("ignore:.*is deprecated and will be removed in v6:FutureWarning")  # PEFT's own call
@pytest.mark.parametrize("chosen", ["convert", "pauca_fp4"])
def test_adapters_of_peft_train_beside_frozen_experts_and_on_them(chosen):
    peft = pytest.importorskip("peft")
    model = build()
    if chosen == "convert":
        convert(model, RECIPES["fp4"])
    else:
        model.set_experts_implementation(chosen)
    before = model(TOKENS).logits
    config = peft.LoraConfig(
        r=4, lora_alpha=8, target_modules=["q_proj", "v_proj"],
        target_parameters=["mlp.experts.gate_up_proj", "mlp.experts.down_proj"],
    )  # fmt: skip
    adapted = peft.get_peft_model(model, config)
    assert torch.equal(adapted(TOKENS).logits, before)  # an adapter begins as zero
    optimizer = torch.optim.AdamW([weight for weight in adapted.parameters() if weight.requires_grad], lr=1e-2)
    losses = []
    for _ in range(4):
        optimizer.zero_grad()
        loss = adapted(TOKENS, labels=TOKENS).loss
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    trained = {name for name, weight in adapted.named_parameters() if weight.grad is not None and weight.grad.any()}
    assert all("lora_" in name for name in trained)
    assert any("experts" in name for name in trained)
    assert any("q_proj" in name for name in trained)


@pytest.mark.slow
def test_a_compiled_model_computes_the_same():
    """In a process of its own: torch.compile cannot trace the type checks of the test suite."""
    subprocess.run([sys.executable, __file__], check=True, timeout=500)


def main() -> None:
    """Forward and backward without a graph break in the experts; `aot_eager` needs no compiler on the machine."""
    for model in (build(num_hidden_layers=1), build_gpt_oss()):
        model.set_experts_implementation("pauca_fp4")
        expected = step(model)
        model.forward = torch.compile(model.forward, backend="aot_eager", fullgraph=True)
        step(model)
        for actual, wanted in zip(step(model), expected, strict=True):
            assert (actual - wanted).norm() <= 0.02 * wanted.norm()


if __name__ == "__main__":
    main()
