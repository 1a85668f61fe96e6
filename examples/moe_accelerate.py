"""Fine-tune a converted Mixtral in a training loop of your own with accelerate, accumulating gradients.

`accelerate launch examples/moe_accelerate.py` runs it on several GPUs; plain `python` on one device.

Run: python examples/moe_accelerate.py [STEPS]
"""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # nothing is downloaded

import torch
from accelerate import Accelerator
from torch.utils.data import DataLoader
from transformers import MixtralConfig, MixtralForCausalLM

from pauca.moe import Recipe, convert, frozen_weights

STEPS, MICRO_BATCHES, CONTEXT = int(sys.argv[1]) if len(sys.argv) > 1 else 10, 4, 64
WINDOWS = torch.frombuffer(bytearray(Path(os.__file__).read_bytes()), dtype=torch.uint8).long().unfold(0, CONTEXT, 16)

torch.manual_seed(0)
config = MixtralConfig(
    vocab_size=256,
    hidden_size=64,
    intermediate_size=128,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    num_local_experts=4,
    max_position_embeddings=CONTEXT,
)
model = MixtralForCausalLM(config)
convert(model.model.layers[:1], Recipe.fp8())  # each part by a recipe of its own
convert(model.model.layers[1:], Recipe.fp4())

accelerator = Accelerator(mixed_precision="bf16")
optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
loader = DataLoader(WINDOWS, batch_size=8, shuffle=True)
model, optimizer, loader = accelerator.prepare(model, optimizer, loader)


def endless_batches() -> Iterator[torch.Tensor]:
    while True:
        yield from loader


batches = endless_batches()
for step in range(STEPS):
    with frozen_weights(model):  # quantized once a step, not once a micro-batch
        for _ in range(MICRO_BATCHES):
            batch = next(batches)
            loss = model(input_ids=batch, labels=batch).loss
            accelerator.backward(loss / MICRO_BATCHES)
    accelerator.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad()
    accelerator.print(f"step {step}: loss {loss.item():.3f}")

prompt = torch.tensor([list(b"import ")], device=accelerator.device)
with frozen_weights(model), accelerator.autocast():
    text = accelerator.unwrap_model(model).generate(prompt, max_new_tokens=20, do_sample=False, pad_token_id=0)
accelerator.print(bytes(text[0].tolist()))
