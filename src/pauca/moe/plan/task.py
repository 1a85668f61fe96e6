"""What a plan is asked for and what it answers: the task, its assumptions, ways to train, and the cost of one."""

import math
import re
from dataclasses import asdict, dataclass, field
from typing import Literal

from pauca.errors import ConfigError, InputError
from pauca.moe.layer.recipe import RECIPES, Precision
from pauca.moe.models.blocks import Recomputation
from pauca.moe.models.shapes import ModelShape
from pauca.moe.plan.memory import (
    Bytes,
)
from pauca.moe.plan.own_loop import MOST_RECORDED_EP
from pauca.moe.plan.speed import Rates, Seconds
from pauca.renamed import formerly


@formerly(optimiser_bytes="optimizer_bytes")
@dataclass(frozen=True)
class Assumptions:
    """What a plan takes for granted; every number can be set."""

    parameter_bytes: int = 2
    """Bytes of one weight on the GPU: 2 (BF16) or 4 (FP32)."""
    gradient_bytes: int = 4
    """Bytes of one gradient summed over micro-batches: 2 (BF16) or 4 (FP32)."""
    optimizer_bytes: int = 12
    """Bytes of the optimizer's state for one parameter; 12: an FP32 master copy and Adam's two moments."""
    offload_optimizer: bool = False
    """Keep the optimizer's state, and take its step, in the host's memory."""
    batch_tokens: int = 2**24
    """Tokens of one optimizer step over all GPUs; decides how many micro-batches fill the pipeline."""
    imbalance: float = 1.0
    """Load of the busiest GPU's experts over the mean load; 1 is balanced."""
    reserved_gb: float = 3.0
    """Memory of a GPU that others take (CUDA, libraries, communication buffers, fragmentation), in GB of 10^9 bytes."""
    loop: Literal["fused", "compiled", "recorded", "eager"] = "fused"
    """Whose training: one whose small operations are fused by hand (`fused`), or that of `pauca moe train` compiled and
    recorded (`compiled`), recorded alone (`recorded`) or neither (`eager`), with weights of 4 bytes, state of 8."""
    rates: Rates = field(default_factory=Rates)
    """How fast a GPU and its links are."""

    def __post_init__(self) -> None:
        for name in ("parameter_bytes", "gradient_bytes"):
            if getattr(self, name) not in (2, 4):
                raise ConfigError(f"{name} must be 2 or 4, got {getattr(self, name)}")
        least = {"optimizer_bytes": 0, "reserved_gb": 0, "batch_tokens": 1, "imbalance": 1}
        for name, bound in least.items():
            if not bound <= getattr(self, name) < math.inf:  # nor NaN
                raise ConfigError(f"{name} must be at least {bound}, got {getattr(self, name)}")
        if self.loop != "fused" and self.rates.launch_ms != Rates.launch_ms:
            raise ConfigError(
                f"launch_ms {self.rates.launch_ms} counts in the loop fused alone: {self.loop} has a measured time of "
                "its own; leave one of the two out"
            )

    @property
    def is_recorded(self) -> bool:
        """Whether a step is a CUDA graph of `pauca moe train`."""
        return self.loop in ("compiled", "recorded")


@dataclass(frozen=True)
class ParallelLayout:
    """How a model is spread over GPUs."""

    gpus: int
    pp: int
    """Pipeline stages."""
    ep: int
    """GPUs of one stage that share the experts of a layer."""

    @property
    def dp(self) -> int:
        """GPUs of one stage: each has its own tokens."""
        return self.gpus // self.pp

    def __str__(self) -> str:
        return f"PP {self.pp} x DP {self.dp}, EP {self.ep}"


@dataclass(frozen=True)
class Way:
    """One way to train."""

    recipe: Precision
    layout: ParallelLayout
    policy: Recomputation = field(default_factory=Recomputation)
    prepared: bool = False
    """Expert weights are quantized once a step and kept (`frozen_weights`), not in every pass."""

    def __str__(self) -> str:
        once = ", FP8 weights kept" if self.prepared else ""
        return f"{self.recipe}, {self.layout}, recomputing {self.policy}{once}"


@dataclass(frozen=True)
class Plan:
    """What one way costs."""

    way: Way
    memory: Bytes
    """Bytes of the fullest GPU, by what they hold."""
    budget: int
    """Bytes of a GPU's memory."""
    time: Seconds
    """Seconds of one micro-batch in the slowest stage, by what takes them."""
    tokens_per_second: float
    """Per GPU."""
    all_to_all: dict[str, int]
    """Bytes that a GPU sends in one MoE layer, by direction."""

    @property
    def total(self) -> int:
        return sum(self.memory.values())

    @property
    def lacks(self) -> int:
        """Bytes above the budget; negative is room."""
        return self.total - self.budget

    def to_dict(self) -> dict[str, object]:
        """Plain values, for JSON."""
        attention = {False: "none", "up": "up", True: "all"}[self.way.policy.attention]
        policy = asdict(self.way.policy) | {"attention": attention}
        way = asdict(self.way) | {"policy": policy, "recomputes": str(self.way.policy), "dp": self.way.layout.dp}
        return asdict(self) | {"way": way, "total": self.total, "fits": self.lacks <= 0}


@dataclass(frozen=True)
class PlanTask:
    """What is asked: a model, GPUs, and what of the layout is given already."""

    shape: ModelShape
    gpus: int
    memory: int
    """Bytes of one GPU."""
    tokens: int = 4096
    """Tokens of one micro-batch on each GPU."""
    context: int | None = None
    """Length of a sequence, for attention's time: whole sequences make a micro-batch. If not given, see `sequence`."""
    ep: int | None = None
    pp: int | None = None
    dp: int | None = None
    assumptions: Assumptions = field(default_factory=Assumptions)
    projections: Literal["bf16", "recipe"] = "bf16"
    """Numerics of attention's projections: BF16 in every recipe, or the recipe's own (a training's `projections`)."""
    recipes: tuple[Precision, ...] = tuple(RECIPES)
    """Those to plan for: what the GPUs can run."""

    def projections_of(self, recipe: Precision) -> Precision:
        """The numerics of attention's projections under a recipe."""
        return recipe if self.projections == "recipe" else "bf16"

    def __post_init__(self) -> None:
        for name in ("gpus", "memory", "tokens", "context", "ep", "pp", "dp"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"{name} must be positive, got {value}")
        self._check_sequence()
        self.shape.require_experts()
        for recipe in (RECIPES[name] for name in self.recipes):
            for width in {self.shape.width, self.shape.shared_width, self.shape.dense_width} - {0}:
                recipe.check_sizes(self.shape.hidden, width)

    @property
    def sequence(self) -> int:
        """Tokens of a sequence: if not given, the most up to 4,096 that the model and, as a whole number, the
        micro-batch hold.
        """
        if self.context is not None:
            return self.context
        most = min(4096, self.tokens, self.shape.context or 4096)
        # A micro-batch of, say, a prime number of tokens is no packing of sequences that anyone means: refused.
        return next((length for length in range(most, most // 2, -1) if self.tokens % length == 0), most)

    def _check_sequence(self) -> None:
        shape, given = self.shape, f"{self.sequence:,}" + " (--context)" * (self.context is not None)
        if 0 < shape.context < self.sequence:
            raise ConfigError(
                f"a sequence of {given} is longer than the {shape.context:,} tokens that {shape.name} has positions "
                "for; to plan for more, give a config.json with a larger max_position_embeddings (a YAML: context)"
            )
        if self.tokens % self.sequence:
            raise ConfigError(
                f"a micro-batch of {self.tokens:,} tokens (--tokens) is no whole number of sequences of {given}: "
                "give a multiple, or a --context that divides it"
            )

    def micro_batches(self, layout: ParallelLayout) -> int:
        """Micro-batches of one step on each GPU of a stage; 0 where the step has no tokens for all of them."""
        return self.assumptions.batch_tokens // (self.tokens * layout.dp)

    def layouts(self) -> list[ParallelLayout]:
        """All that the GPUs, the layers and the experts allow.

        Raises:
            ConfigError: the given ones do not divide, or a step has too few tokens for a micro-batch on each GPU.
        """
        self._check_given()
        found = [
            ParallelLayout(self.gpus, pp, ep)
            for pp in _divisors(self.gpus)
            if pp <= (self.shape.layers if self.assumptions.loop == "fused" else 1)
            if self.pp in (None, pp) and self.dp in (None, self.gpus // pp)
            for ep in _divisors(self.gpus // pp)
            if self.shape.experts % ep == 0 and self.ep in (None, ep)
            if ep <= MOST_RECORDED_EP or not self.assumptions.is_recorded
        ]
        if not found:
            raise ConfigError(
                f"no layout of {self.gpus} GPUs has EP {self.ep}: it must divide the GPUs of a stage, which are all "
                "GPUs over PP"
            )
        fed = [layout for layout in found if self.micro_batches(layout)]
        if not fed:
            least = self.tokens * min(layout.dp for layout in found)
            raise ConfigError(
                f"a step of {self.assumptions.batch_tokens:,} tokens (--batch-tokens) is less than a micro-batch of "
                f"{self.tokens:,} (--tokens) on each GPU of a stage: {least:,} at least"
            )
        return fed

    def _check_given(self) -> None:
        stages = self.pp or (self.gpus // self.dp if self.dp else None)
        for name, value in (("PP", self.pp), ("DP", self.dp)):
            if value and self.gpus % value:
                raise ConfigError(f"{name} {value} does not divide the {self.gpus} GPUs")
        if self.pp and self.dp and self.pp * self.dp != self.gpus:
            raise ConfigError(f"PP {self.pp} x DP {self.dp} is {self.pp * self.dp}, not the {self.gpus} GPUs")
        if stages and stages > self.shape.layers:
            raise ConfigError(f"{stages} stages are more than the {self.shape.layers} layers of {self.shape.name}")
        loop = self.assumptions.loop
        if loop != "fused" and stages and stages > 1:
            raise ConfigError(f"PP {stages}: `pauca moe train` has no pipeline, whose steps the loop {loop} plans")
        if self.assumptions.is_recorded and self.ep and self.ep > MOST_RECORDED_EP:
            raise ConfigError(
                f"EP {self.ep}: the loop {loop} plans steps that are recorded, which those with EP above "
                f"{MOST_RECORDED_EP} are not; plan them by the loop eager"
            )
        if self.ep and self.shape.experts % self.ep:
            raise ConfigError(f"EP {self.ep} does not divide the {self.shape.experts} experts of {self.shape.name}")
        if self.ep and stages and (self.gpus // stages) % self.ep:
            raise ConfigError(f"EP {self.ep} does not divide the {self.gpus // stages} GPUs of one stage")


def _divisors(number: int) -> list[int]:
    return [divisor for divisor in range(1, number + 1) if number % divisor == 0]


_UNITS = {"": 10**9, "GB": 10**9, "GIB": 2**30, "MB": 10**6, "MIB": 2**20, "TB": 10**12}


def parse_memory(text: str) -> int:
    """Bytes of `80GB` (10^9), `79.6 GiB` (2^30) or `80` (GB).

    Raises:
        InputError: something else.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*", text)
    unit = _UNITS.get(match[2].upper()) if match else None
    if match is None or unit is None or not float(match[1]):
        raise InputError(f"memory must be a size such as 80GB or 79.6GiB, got {text!r}")
    return round(float(match[1]) * unit)
