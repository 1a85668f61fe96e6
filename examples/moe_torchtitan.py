"""Train torchtitan's small DeepSeek-V3 with its own experts, then with pauca's converters in BF16 and FP4.

Needs torchtitan 0.3 and torch 2.13. Reads a file of the Python standard library byte by byte. On a CPU FP4 is emulated,
with the same quantization decisions.

Run: python examples/moe_torchtitan.py [STEPS]
"""

import copy
import os
import sys
import warnings
from pathlib import Path

import torch
from torch import nn

warnings.filterwarnings("ignore", module="torch|torchtitan|spmd_types")  # parts of torch that torchtitan will leave
try:
    from torchtitan.models import deepseek_v3
    from torchtitan.models.common.attention import ScaledDotProductAttention

    from pauca.moe.models.titan import PaucaGroupedExpertsConverter, PaucaLinearConverter
except ImportError as error:
    needed = "pip install --no-deps torchtitan==0.3.0 spmd_types==0.2.3 einops torchdata"
    sys.exit(f"this example needs torchtitan 0.3 and torch 2.13 ({error}); {needed}")

STEPS, BATCH, CONTEXT = int(sys.argv[1]) if len(sys.argv) > 1 else 15, 4, 64
SOURCE = torch.frombuffer(bytearray(Path(os.__file__).read_bytes()), dtype=torch.uint8).long()
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def build(converters: list) -> nn.Module:
    config = deepseek_v3.model_registry("debugmodel", converters=converters).model
    config.layers = config.layers[:3]  # the first is dense
    for layer in config.layers:  # torchtitan's own choice has no backward on a CPU
        layer.attention.inner_attention = ScaledDotProductAttention.Config()
    torch.manual_seed(0)
    model = config.build().to(DEVICE)
    model.init_states(buffer_device=DEVICE)
    return model


def train(model: nn.Module) -> torch.Tensor:
    """The losses of all steps."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    windows, losses = SOURCE.unfold(0, CONTEXT + 1, CONTEXT), []
    chance = torch.Generator().manual_seed(0)
    for _ in range(STEPS):
        batch = windows[torch.randint(len(windows), (BATCH,), generator=chance)].to(DEVICE)
        with torch.autocast(DEVICE.type, dtype=torch.bfloat16):
            logits = model(batch[:, :-1])
        loss = nn.functional.cross_entropy(logits.float().flatten(0, 1), batch[:, 1:].flatten())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return torch.tensor(losses)


def kept_bytes(model: nn.Module, rows: int = 1024) -> float:
    """What a layer's routed experts keep for backward, for each row of its tokens sorted by expert."""
    experts = copy.deepcopy(model.layers["1"].moe.routed_experts.inner_experts).bfloat16()
    weights, kept = {weight.data_ptr() for weight in experts.parameters()}, {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    x = torch.randn(rows, experts.w1_EFD.shape[2], dtype=torch.bfloat16, device=DEVICE, requires_grad=True)
    counts = torch.full((experts.num_experts,), rows // experts.num_experts, device=DEVICE)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        y = experts(x, counts)  # while it lives, no address is used twice
    assert y.requires_grad
    return sum(size for address, size in kept.items() if address not in weights) / rows


FP4 = [PaucaGroupedExpertsConverter.Config(precision="fp4"), PaucaLinearConverter.Config(fqns=["attention"])]
for name, converters in {
    "torchtitan's own": [],
    "pauca, BF16": [PaucaGroupedExpertsConverter.Config(precision="bf16")],
    "pauca, FP4, attention's projections too": FP4,
}.items():
    model = build(converters)
    means = " ".join(f"{losses.mean():.3f}" for losses in train(model).tensor_split(min(STEPS, 5)))
    print(f"{name}: loss {means}; a layer's experts keep {kept_bytes(model):,.0f} bytes a row", flush=True)
