"""Time and memory of one whole block of a transformers model on a GPU, with one option of `convert` after the other.

    python benchmarks/moe_huggingface_time.py [--tokens 16384] [--json PATH]
    python benchmarks/moe_huggingface_time.py --tiny        # on a CPU, to see that it runs; no times

The blocks of benchmarks/moe_huggingface.py: Qwen3-30B-A3B's with all of its 128 experts, DeepSeek-V3's with 32 of its
256, and its dense one. Weights are BF16. Milliseconds are of a forward and backward, launched by the host, medians, and
each ratio is transformers' own time over it. Kept bytes are the allocator's, between forward and backward.
"""

import argparse
from pathlib import Path

import torch

from moe_huggingface import WHOLE_BLOCKS, build_model, forward_of, stages
from moe_shapes import machine, milliseconds, show, write_json

EXPERTS = {"Qwen3-30B-A3B": 128, "DeepSeek-V3": 32, "DeepSeek-V3, dense": 8}


def measure(name: str, tokens: int, device: str) -> dict[str, dict[str, float]]:
    """By option: milliseconds (0 on a CPU) and KiB kept per token."""
    is_gpu = device == "cuda"
    with torch.device(device):
        model = build_model(name, 1, EXPERTS[name]) if is_gpu else build_model(name, 16 if "Deep" in name else 4)
        x = torch.randn(1, tokens, model.config.hidden_size, dtype=torch.bfloat16, requires_grad=True)
    forward, _ = forward_of(model, x)
    wanted, dy = [x, *model.layers.parameters()], torch.randn_like(x)
    found = {}
    for added in stages(model):

        def step() -> None:
            torch.autograd.grad(forward(), wanted, dy, allow_unused=True)

        step()
        before = torch.cuda.memory_allocated() if is_gpu else 0
        y = forward()
        kept = torch.cuda.memory_allocated() - before if is_gpu else 0
        del y
        found[added] = {"ms": milliseconds(step) if is_gpu else 0.0, "kept": kept / tokens / 1024}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", type=int, default=16384)
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    device, tokens = ("cpu", 64) if arguments.tiny else ("cuda", arguments.tokens)
    torch.manual_seed(0)
    print(machine())
    results = {}
    for name in WHOLE_BLOCKS:
        results[name] = found = measure(name, tokens, device)
        own = found["transformers"]["ms"]
        rows = [[added, row["ms"], own / row["ms"] if row["ms"] else 0.0, row["kept"]] for added, row in found.items()]
        show(f"{name}, {tokens} tokens", ["", "ms", "times as fast", "KiB kept per token"], rows)
    write_json(arguments.json, results)


if __name__ == "__main__":
    main()
