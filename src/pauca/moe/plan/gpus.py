"""GPUs that a plan can be asked for by name: their memory, their rates, and which recipes run on them.

The H100's rates are measured (docs/moe/measured.md). The others' are the H100's times the ratio of the makers' figures:
assumptions, which a plan says.
"""

from dataclasses import dataclass, fields, replace

from pauca.errors import ConfigError
from pauca.moe.layer.recipe import Precision
from pauca.moe.plan.speed import Rates


@dataclass(frozen=True)
class Gpu:
    """One kind of GPU."""

    memory: int
    """Bytes."""
    rates: Rates
    recipes: tuple[Precision, ...] = ("bf16", "fp8", "fp4")
    """Those that run on it."""
    reason: str = ""
    """Why the others do not."""


GPUS: dict[str, Gpu] = {
    "h100": Gpu(80 * 10**9, Rates()),
    # As fast as an H100, and 4.8 over 3.35 TB/s of memory.
    "h200": Gpu(141 * 10**9, replace(Rates(), memory_tb_s=4.3)),
    # 2,250 over 989 TFLOP/s in BF16, 8 over 3.35 TB/s of memory, NVLink twice as fast.
    "b200": Gpu(
        180 * 10**9,
        replace(Rates(), bf16_tflops=1750.0, memory_tb_s=7.1, attention_tflops=1020.0, node_gb_s=300.0),
        recipes=("bf16",),
        reason="pauca's FP8 and FP4 recipes need a Hopper GPU (compute capability 9.0)",
    ),
}
"""By name."""


def gpu_of(name: str) -> Gpu:
    """The GPU of a name.

    Raises:
        ConfigError: there is none.
    """
    if name not in GPUS:
        raise ConfigError(f"gpu must be one of {', '.join(GPUS)}, got {name!r}")
    return GPUS[name]


def rates_on(gpu: Gpu, given: Rates) -> Rates:
    """A GPU's rates, but for those that are given otherwise than by default."""
    usual = Rates()
    named = {field.name: getattr(given, field.name) for field in fields(Rates)}
    changed = {name: value for name, value in named.items() if value != getattr(usual, name)}
    return replace(gpu.rates, **changed)
