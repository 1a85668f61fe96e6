"""Train a small Qwen3-MoE of transformers with its Trainer, its experts computed by pauca: BF16 beside FP4.

Reads the Python standard library byte by byte. On a CPU FP4 is emulated, with the same quantization decisions.

Run: python examples/moe_huggingface_trainer.py [STEPS]
"""

import os
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # nothing is downloaded

import torch
from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM, Trainer, TrainingArguments

from pauca.moe import Recipe, convert, unconvert

STEPS = int(sys.argv[1]) if len(sys.argv) > 1 else 20
CONTEXT = 64
SOURCES = b"".join(path.read_bytes() for path in sorted(Path(os.__file__).parent.glob("*.py")))[:1_000_000]
WINDOWS = torch.frombuffer(bytearray(SOURCES), dtype=torch.uint8).long().unfold(0, CONTEXT, CONTEXT)
EXAMPLES = [{"input_ids": window, "labels": window} for window in WINDOWS]


def train(recipe: Recipe, folder: str) -> Qwen3MoeForCausalLM:
    torch.manual_seed(0)
    config = Qwen3MoeConfig(
        vocab_size=256,
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        num_experts=8,
        num_experts_per_tok=2,
        moe_intermediate_size=64,
        max_position_embeddings=CONTEXT,
        output_router_logits=True,  # adds the model's own balancing loss
    )
    model = convert(Qwen3MoeForCausalLM(config), recipe)
    arguments = TrainingArguments(
        output_dir=folder,
        max_steps=STEPS,
        per_device_train_batch_size=16,
        learning_rate=3e-3,
        logging_steps=max(1, STEPS // 5),
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        dataloader_pin_memory=torch.cuda.is_available(),
    )
    trainer = Trainer(model, arguments, train_dataset=EXAMPLES)
    trainer.train()
    losses = [f"{entry['loss']:.3f}" for entry in trainer.state.log_history if "loss" in entry]
    print(f"{recipe.precision}: loss", *losses)
    return model


with tempfile.TemporaryDirectory() as folder:
    train(Recipe.bf16(), folder)
    model = train(Recipe.fp4(), folder)
    model.save_pretrained(folder)  # an ordinary checkpoint, in FP32
    loaded = Qwen3MoeForCausalLM.from_pretrained(folder)

with torch.no_grad():
    batch = {name: tensor[None] for name, tensor in EXAMPLES[0].items()}
    as_trained, without_pauca = model.eval()(**batch).loss, loaded(**batch).loss
    assert torch.equal(unconvert(model)(**batch).loss, without_pauca)
print(f"loss of one window: in FP4 {as_trained:.4f}, loaded by transformers alone {without_pauca:.4f}")
