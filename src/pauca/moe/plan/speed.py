"""The time of a model's parts on one GPU, in seconds, from operations, bytes and measured rates.

A product takes its operations over the rate of a large product, and the traffic of its weights; every other step
takes its bytes over the bandwidth of a copy. At the two shapes of `docs/moe/measured.md` this agrees with the layer's
measured time within a tenth.
"""

from dataclasses import dataclass

from pauca.errors import ConfigError
from pauca.moe.layer.kept import kept_formats
from pauca.moe.layer.recipe import Precision, Recipe, Recompute
from pauca.moe.models.config import Recomputation
from pauca.moe.models.shapes import LatentAttention, ModelShape
from pauca.moe.parallel.wire import wire_bytes
from pauca.moe.plan.memory import Load, dense_load, routed_load

Seconds = dict[str, float]
"""Time by what takes it."""


@dataclass(frozen=True)
class Rates:
    """What a GPU and its links reach. The first four are measured on an H100 80GB, the others are assumed."""

    bf16_tflops: float = 770.0
    """Rate of large BF16 matrix products, in TFLOP/s."""
    fp8_tflops: float = 1450.0
    """Rate of large FP8 matrix products with fast accumulation, in TFLOP/s."""
    memory_tb_s: float = 3.0
    """Memory bandwidth of a copy, bytes read and bytes written both counted, in TB/s."""
    conversions: float = 0.8
    """Share of the memory bandwidth that conversions to and from FP8 and MXFP4 reach (0.46 to 1.02, by kernel)."""
    attention_tflops: float = 450.0
    """Rate of scaled dot-product attention, forward and backward, in TFLOP/s; assumed."""
    node_gb_s: float = 150.0
    """Bandwidth of an all-to-all between the GPUs of one node, per GPU and direction, in GB/s; assumed (NVLink)."""
    network_gb_s: float = 45.0
    """Bandwidth of an all-to-all between nodes, per GPU and direction, in GB/s; assumed (a 400 Gb/s adapter a GPU)."""
    node_gpus: int = 8
    """GPUs in one node."""
    launch_ms: float = 5.0
    """Time that Python takes to launch one layer's forward and backward, in ms: 3.96 measured for experts, the rest
    assumed for attention. 0 where the whole step is one CUDA graph. Of the loop `fused` alone."""
    host_gb_s: float = 25.0
    """Bandwidth between a GPU and the host's memory, per GPU and direction, in GB/s; assumed (PCIe 5)."""
    host_memory_gb_s: float = 40.0
    """Bandwidth of the host's memory for one GPU's share of an offloaded optimizer, in GB/s; assumed."""
    node_aware: bool = False
    """A token travels to another node once, and is passed on in there, as DeepEP does it; pauca's own exchange sends a
    copy to each GPU."""
    overlap: float = 0.0
    """Share of the all-to-all's time that is hidden behind products, 0 to 1."""
    overlap_cost: float = 0.15
    """Share of the GPU that the all-to-all takes from the products that hide it, 0 to 1; assumed: DeepSeek-V3's takes
    20 of 132 multiprocessors."""

    def __post_init__(self) -> None:
        for name in (
            "bf16_tflops",
            "fp8_tflops",
            "memory_tb_s",
            "attention_tflops",
            "node_gb_s",
            "network_gb_s",
            "host_gb_s",
            "host_memory_gb_s",
        ):
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name} must be positive, got {getattr(self, name)}")
        if not 0 <= self.launch_ms < float("inf"):
            raise ConfigError(f"launch_ms must be 0 or more, got {self.launch_ms}")
        if self.node_gpus < 1:
            raise ConfigError(f"node_gpus must be at least one, got {self.node_gpus}")
        if not 0 <= self.overlap_cost < 1:
            raise ConfigError(f"overlap_cost is a share below 1, got {self.overlap_cost}")
        if not 0 <= self.overlap <= 1 or not 0 < self.conversions <= 1:
            raise ConfigError(f"overlap and conversions are shares up to 1, got {self.overlap} and {self.conversions}")

    def bytes(self, count: int | float, precision: str = "bf16") -> float:
        """Seconds to move so many bytes through the GPU's memory, converting them unless the recipe is BF16."""
        return count / (self.memory_tb_s * 1e12 * (1.0 if precision == "bf16" else self.conversions))

    def products(self, operations: int | float, precision: str) -> float:
        """Seconds for products in BF16, or else in FP8."""
        return operations / ((self.bf16_tflops if precision == "bf16" else self.fp8_tflops) * 1e12)

    def link_bytes_per_second(self, gpus: int) -> float:
        """Bandwidth of a collective among so many GPUs, per GPU and direction."""
        return 1e9 * (self.node_gb_s if gpus <= self.node_gpus else self.network_gb_s)


def bank_time(
    recipe: Recipe, mode: Recompute, load: Load, hidden: int, width: int, rates: Rates, prepared: bool = False
) -> Seconds:
    """Forward and backward of a bank of experts.

    Args:
        prepared: its weights are quantized already, once for many passes.
    """
    weights = 3 * load.experts * hidden * width
    operations = 6 * load.copies * hidden * width  # of forward; backward takes twice as many
    wide = recipe.precision == "bf16"
    traffic = weights * (6 if wide else 4)  # read forward and backward, gradients written in BF16
    time = {
        "experts": rates.products(3 * operations, recipe.precision) + rates.bytes(traffic),
        "conversions, SwiGLU, sums": rates.bytes(_moved(recipe, load, hidden, width), recipe.precision),
    }
    if not wide and not prepared:
        time["quantizing weights"] = rates.bytes(6 * weights, recipe.precision)
    if again := _recomputed(recipe, mode, load, hidden, width, rates, prepared):
        time["recomputing experts"] = again
    return time


def _moved(recipe: Recipe, load: Load, hidden: int, width: int) -> int | float:
    """Bytes of all steps beside the products, each matrix once per step."""
    x, rows, h_rows = load.received * hidden, load.rows * hidden, load.rows * width
    combine = 2 * (2 * rows + 2 * x)
    if recipe.precision == "bf16":
        gather = 2 * (2 * x + 2 * rows)
        return gather + 6 * h_rows + 12 * h_rows + combine
    bytes_each = {"bf16": 2.0, "fp8": 1.0, "mxfp4": 17 / 32}
    stored = bytes_each["mxfp4"] if recipe.precision == "fp4" else 1.0
    z = 2 * h_rows
    keep_z = {"bf16": 0.0, "fp8": 3.0, "mxfp4": bytes_each["mxfp4"]}[recipe.kept_z] * z  # MXFP4 shares SwiGLU's read
    forward = (2 + stored) * x + (stored + 1) * rows + keep_z + 2 * z + h_rows
    d_rows = 3 * x + 4 * rows  # dy: quantized, gathered, transposed
    swiglu = bytes_each[recipe.kept_z] * z + 2 * h_rows + 3 * z  # z's gradient by row, then by column
    fc2_input = (2 if recipe.keep_fc2_input else 3) * h_rows
    return forward + d_rows + swiglu + fc2_input + (stored + 1) * rows + combine


def _recomputed(
    recipe: Recipe, mode: Recompute, load: Load, hidden: int, width: int, rates: Rates, prepared: bool
) -> float:
    rows, h_rows = load.rows * hidden, load.rows * width
    kept, own = kept_formats(recipe, mode), kept_formats(recipe, "none")
    element = 2 if recipe.precision == "bf16" else 1
    moved = 0.0
    if own.gathered and not kept.gathered:
        moved += 2 * element * rows
    if own.fc2_input and not kept.fc2_input:
        moved += 3 * element * h_rows
    if mode != "experts":
        return rates.bytes(moved, recipe.precision)
    if recipe.precision == "fp4":
        moved += 1.5 * rows  # gathered for FC1 once more
    weights = 2 * load.experts * hidden * width
    moved += weights * (2 if element == 2 else 1) + (0 if element == 2 or prepared else 3 * weights)
    return rates.products(4 * load.copies * hidden * width, recipe.precision) + rates.bytes(moved, recipe.precision)


def attention_time(
    shape: ModelShape, policy: Recomputation, tokens: int, context: int, rates: Rates, projected: Precision = "bf16"
) -> Seconds:
    """Forward and backward of one layer's attention, with both of the layer's norms and residual sums.

    Args:
        projected: numerics of its projections.
    """
    attention = shape.attention
    projections = 2 * tokens * attention.parameters(shape.hidden)
    scores = tokens * context * (attention.query_channels + attention.output_channels)  # causal: half the context
    time = {
        "attention": rates.products(3 * projections, projected) + 3.5 * scores / (rates.attention_tflops * 1e12),
        "norms and residuals": rates.bytes(60 * tokens * shape.hidden),
    }
    if projected != "bf16":
        # In and out in BF16 read and written in FP8, by row and by column; the weight read twice and written twice.
        channels = 2 * shape.hidden + attention.query_channels + attention.output_channels
        moved = 8 * tokens * channels + 6 * attention.parameters(shape.hidden)
        time["conversions, SwiGLU, sums"] = rates.bytes(moved, projected)
    again = 0.0
    if policy.attention is True:
        again = rates.products(projections, projected) + scores / (rates.attention_tflops * 1e12)
    elif policy.attention == "up" and isinstance(attention, LatentAttention):
        again = rates.products(2 * tokens * attention.up_parameters, projected)
    if policy.norms:
        again += rates.bytes(8 * tokens * shape.hidden)
    return time | ({"recomputing attention and norms": again} if again else {})


def feed_forward_time(
    shape: ModelShape,
    recipe: Recipe,
    policy: Recomputation,
    tokens: int,
    load: Load | None,
    rates: Rates,
    prepared: bool,
) -> Seconds:
    """Forward and backward of one layer's feed-forward: experts under `load`, or the dense one where that is None."""
    banks = [(load, shape.width), (dense_load(tokens), shape.shared_width)]
    if load is None:
        banks = [(dense_load(tokens), shape.dense_width)]
    times: Seconds = {}
    for bank, width in banks:
        if bank is not None and width:
            time = bank_time(recipe, policy.experts, bank, shape.hidden, width, rates, prepared)
            times = add(times, time)
    return times


def head_time(shape: ModelShape, tokens: int, rates: Rates) -> float:
    """The time of the head, forward and backward."""
    return rates.products(6 * tokens * shape.embedding_parameters, "bf16")


def all_to_all_bytes(recipe: Recipe, shape: ModelShape, tokens: int, ep: int, imbalance: float = 1.0) -> dict[str, int]:
    """What one GPU sends, or the busiest one receives, in one MoE layer, by direction.

    Each token travels once to each other GPU where it has an expert.
    """
    if ep == 1:
        return dict.fromkeys(("dispatch", "combine", "backward dispatch", "backward combine"), 0)
    rows = routed_load(shape, tokens, ep, imbalance).received * (ep - 1) // ep
    row = wire_bytes(recipe, shape.hidden, shape.top_k)
    sizes = {
        "dispatch": row.tokens + row.routing,
        "combine": row.outputs,
        "backward dispatch": row.output_gradients,
        "backward combine": row.input_gradients + row.routing_gradients,
    }
    return {direction: rows * size for direction, size in sizes.items()}


def all_to_all_time(
    sent: int | float, shape: ModelShape, tokens: int, ep: int, rates: Rates, computing: float
) -> float:
    """What the all-to-all of one MoE layer adds to the `computing` of a micro-batch's forward and backward there.

    Args:
        sent: bytes by `all_to_all_bytes`, of all directions.
        tokens: on one GPU.
        computing: seconds, which may hide it.
    """
    travel = sent / rates.link_bytes_per_second(ep)
    if rates.node_aware and ep > rates.node_gpus:
        rows = routed_load(shape, tokens, ep).received * (ep - 1) / ep
        crossing = sent * tokens * other_nodes(shape, ep // rates.node_gpus) / rows
        travel = max(crossing / (1e9 * rates.network_gb_s), sent / (1e9 * rates.node_gb_s))
    hidden = min(rates.overlap * travel, computing)
    # While it is hidden, products run on the rest of the GPU.
    return travel - hidden + hidden * rates.overlap_cost / (1 - rates.overlap_cost)


def other_nodes(shape: ModelShape, nodes: int) -> float:
    """Nodes that a token travels to on average, besides its own, where its experts are chosen evenly.

    A node holds whole groups of experts, or a group lies on several nodes.
    """
    within = nodes
    if shape.groups > 1:
        within = max(1, min(nodes, round(shape.top_groups * nodes / shape.groups)))
    return within * (1 - (1 - 1 / within) ** shape.top_k) * (nodes - 1) / nodes


def add(first: Seconds, second: Seconds, times: int = 1) -> Seconds:
    """Sums by name."""
    names = dict.fromkeys([*first, *second])
    return {name: first.get(name, 0) + times * second.get(name, 0) for name in names}
