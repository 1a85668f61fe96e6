"""How much of a signal FP8 and MXFP4 keep: every scale rule, from BF16 and from FP8, on three kinds of values.

    python benchmarks/moe_formats.py [--rows N] [--json PATH]

Signal to noise in dB, and the size of the result relative to the original (projection on it; below 1 where a format
shrinks what it rounds). Values: Gaussian; Gaussian with a spread that differs tenfold between channels; SwiGLU of
Gaussian inputs. "From FP8" quantizes to FP8 with one scale per row first, and that to MXFP4 directly. Runs on the CPU,
on the reference that the GPU kernels equal bit for bit.
"""

import argparse
import json
import platform
from pathlib import Path

import torch
from torch import Tensor

from pauca.moe import ops
from pauca.moe.ops import ScaleRule
from pauca.runs import processor_name

CHANNELS = 2048


def values(rows: int, generator: torch.Generator) -> dict[str, Tensor]:
    """Three BF16 matrices [rows, CHANNELS]."""
    gauss, gate, up = torch.randn(3, rows, CHANNELS, generator=generator)
    spread = 10 ** (torch.rand(CHANNELS, generator=generator) - 0.5)
    return {
        "gauss": gauss.bfloat16(),
        "uneven": (gauss * spread).bfloat16(),
        "swiglu": (torch.nn.functional.silu(gate) * up).bfloat16(),
    }


def quality(exact: Tensor, rounded: Tensor) -> tuple[float, float]:
    """Signal to noise in dB, and relative size."""
    exact, rounded = exact.double(), rounded.double()
    noise = (rounded - exact).square().sum()
    decibel = 10 * torch.log10(exact.square().sum() / noise)
    return float(decibel), float((rounded * exact).sum() / exact.square().sum())


def formats(x: Tensor) -> dict[str, Tensor]:
    """x through every format, as FP32."""
    rowwise = ops.quantize_fp8_rowwise(x)
    found = {"fp8, a scale per row": rowwise, "fp8, a scale per 1x128 tile": ops.quantize_fp8_tilewise(x)}
    found |= {f"mxfp4 {rule}, from bf16": ops.quantize_mxfp4(x, rule) for rule in ScaleRule}
    found |= {f"mxfp4 {rule}, from fp8": ops.fp8_to_mxfp4(rowwise, rule) for rule in ScaleRule}
    return {name: stored.dequantize() for name, stored in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1024)
    parser.add_argument("--json", type=Path, help="write the results here")
    options = parser.parse_args()
    generator = torch.Generator().manual_seed(0)
    inputs = values(options.rows, generator)
    rows: dict[str, dict[str, tuple[float, float]]] = {}
    for kind, x in inputs.items():
        for name, rounded in formats(x).items():
            rows.setdefault(name, {})[kind] = quality(x, rounded)
    machine = {"processor": processor_name(), "torch": torch.__version__, "python": platform.python_version()}
    print(f"{machine}, {options.rows} rows of {CHANNELS}\n")
    print(f"{'dB / relative size':<30}" + "".join(f"{kind:>18}" for kind in inputs))
    for name, by_kind in rows.items():
        print(f"{name:<30}" + "".join(f"{decibel:10.2f} / {size:.3f}" for decibel, size in by_kind.values()))
    if options.json:
        options.json.write_text(json.dumps({"machine": machine, "formats": rows}, indent=1))


if __name__ == "__main__":
    main()
