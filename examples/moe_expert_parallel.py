"""A small model whose experts are divided over processes: gloo between CPUs, NCCL between GPUs.

Run: torchrun --nproc-per-node 2 examples/moe_expert_parallel.py
(with plain python it is a group of one)
"""

import gc
import os

import torch
from torch import distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh

from pauca.moe import MoE, Recipe, parallelize
from pauca.moe.parallel import average_gradients, clip_gradients, wire_bytes

HIDDEN, TOP_K = 64, 2
recipe = Recipe.fp4()


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.RMSNorm(HIDDEN)
        self.moe = MoE(HIDDEN, width=32, experts=8, top_k=TOP_K, shared_experts=1, recipe=recipe)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.moe(self.norm(x))


def train(device: str) -> None:
    rank, world = dist.get_rank(), dist.get_world_size()
    torch.manual_seed(0)  # every rank builds the same model, then keeps its own experts
    model = nn.Sequential(Block(), Block()).to(device)
    parallelize(model, init_device_mesh(device, (world,), mesh_dim_names=("ep",)))
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)

    torch.manual_seed(1 + rank)  # but each has tokens of its own
    tokens = torch.randn(256, HIDDEN, device=device)
    for step in range(31):
        loss = (model(tokens) - tokens.roll(1, 1)).square().mean()
        loss.backward()
        average_gradients(model)
        clip_gradients(model, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        mean = loss.detach().clone()
        dist.all_reduce(mean)
        if rank == 0 and step % 10 == 0:
            print(f"step {step:2d}  mean loss of {world} rank(s) {mean.item() / world:.4f}")

    if rank == 0:
        experts = sum(p.numel() for p in model[0].moe.experts.parameters())
        print(f"{experts:,} expert weights a layer here; {wire_bytes(recipe, HIDDEN, TOP_K)}")


device = "cuda" if torch.cuda.is_available() else "cpu"
if device == "cuda":
    torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
if "RANK" in os.environ:  # started by torchrun
    dist.init_process_group("nccl" if device == "cuda" else "gloo")
else:
    dist.init_process_group("nccl" if device == "cuda" else "gloo", store=dist.HashStore(), rank=0, world_size=1)
train(device)
# A group ends with the last that refers to it: the model. Threads of gloo that outlive the interpreter can abort it.
gc.collect()
dist.destroy_process_group()
