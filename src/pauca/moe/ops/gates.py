"""What other experts than SwiGLU's do between their two products: other functions, limits, biases, no gate at all.

`Gate` says which; a default `Gate()` is SwiGLU in pauca's own layout, and that has kernels (`checked`). All others are
computed here in plain torch operations, in FP32 and some rows at a time, and quantized by the kernels: right on every
device, slower on a GPU than SwiGLU is.
"""

import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import lru_cache
from types import ModuleType
from typing import Literal, get_args

import torch
from jaxtyping import BFloat16, Float, Int32
from torch import Tensor

from pauca.errors import ConfigError
from pauca.moe.ops import checked
from pauca.moe.ops.formats import Fp8Tensor, MxFp4Tensor, ScaleRule, Stored

Function = Literal["silu", "gelu", "gelu_tanh", "relu", "relu_squared"]

_ROWS = 4096
"""Rows computed at a time: what lies in FP32 between two steps stays small beside what is kept."""


@dataclass(frozen=True)
class Gate:
    """How FC1's output z becomes FC2's input: function(gate) * (up + offset), from the two halves of z's channels."""

    function: Function = "silu"
    gated: bool = True
    """Whether z has two halves. Otherwise FC2's input is function(z)."""
    interleaved: bool = False
    """gate and up alternate in z's channels, rather than one standing before the other."""
    alpha: float = 1.0
    """silu is gate * sigmoid(alpha * gate)."""
    limit: float = math.inf
    """gate is cut off above this, up above it and below its negative."""
    limit_after: bool = False
    """Cut off function(gate) instead of gate."""
    offset: float = 0.0
    """Added to up."""
    biased: bool = False
    """FC1 has a bias."""

    def __post_init__(self) -> None:
        if self.function not in get_args(Function):
            raise ConfigError(f"function must be one of {', '.join(get_args(Function))}, got {self.function!r}")
        if not self.limit > 0:
            raise ConfigError(f"limit must be positive, got {self.limit}")
        if self.alpha != 1 and self.function != "silu":
            raise ConfigError(f"alpha belongs to silu, not to {self.function}")
        if not self.gated and (self.interleaved or self.offset or self.limit < math.inf):
            raise ConfigError("experts without a gate have no up to interleave, limit or add to")

    @property
    def halves(self) -> int:
        """Channels of z for each channel of FC2's input."""
        return 2 if self.gated else 1

    @property
    def is_swiglu(self) -> bool:
        """Whether the kernels compute it."""
        return self == Gate(biased=self.biased)

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @staticmethod
    @lru_cache
    def from_json(text: str) -> "Gate":
        """The gate of a text; SwiGLU of an empty one."""
        return Gate(**json.loads(text)) if text else Gate()


def operations(gate: Gate) -> "ModuleType | _Operations":
    """`swiglu` and its relatives for this gate, under the names and with the arguments that `ops` has for SwiGLU."""
    return checked if gate.is_swiglu else _Operations(gate)


def activate(z: Float[Tensor, "rows channels"], gate: Gate) -> Float[Tensor, "rows width"]:
    """FC2's input from FP32 z."""
    value, up = _halves(z, gate)
    return _function(value, gate)[0] * _limited(up, gate) if gate.gated else _function(value, gate)[0]


def activate_backward(
    z: Float[Tensor, "rows channels"], grad: Float[Tensor, "rows width"], gate: Gate
) -> Float[Tensor, "rows channels"]:
    """The gradient of FP32 z from that of `activate`'s result. At a limit itself it passes, as torch's clamp has it."""
    value, up = _halves(z, gate)
    result, derivative = _function(value, gate)
    if not gate.gated:
        return grad * derivative
    d_up = torch.where(up.abs() <= gate.limit, grad * result, 0.0)
    d_gate = grad * _limited(up, gate) * derivative
    return torch.stack([d_gate, d_up], 2).flatten(1) if gate.interleaved else torch.cat([d_gate, d_up], 1)


def _halves(z: Tensor, gate: Gate) -> tuple[Tensor, Tensor]:
    if not gate.gated:
        return z, z
    if gate.interleaved:
        return z[:, ::2], z[:, 1::2]
    value, up = z.chunk(2, 1)
    return value, up


def _limited(up: Tensor, gate: Gate) -> Tensor:
    return up.clamp(-gate.limit, gate.limit) + gate.offset


def _function(value: Tensor, gate: Gate) -> tuple[Tensor, Tensor]:
    """The function, limited as the gate says, and its derivative."""
    if gate.limit_after:
        result, derivative = _FUNCTIONS[gate.function](value, gate.alpha)
        return result.clamp(max=gate.limit), torch.where(result <= gate.limit, derivative, 0.0)
    result, derivative = _FUNCTIONS[gate.function](value.clamp(max=gate.limit), gate.alpha)
    return result, torch.where(value <= gate.limit, derivative, 0.0)


def _silu(x: Tensor, alpha: float) -> tuple[Tensor, Tensor]:
    sigmoid = (alpha * x).sigmoid()
    return x * sigmoid, sigmoid * (1 + alpha * x * (1 - sigmoid))


def _gelu(x: Tensor, _: float) -> tuple[Tensor, Tensor]:
    below = 0.5 * (1 + torch.erf(x * 0.5**0.5))  # the normal distribution's share below x
    return x * below, below + x * torch.exp(-0.5 * x * x) * (2 * math.pi) ** -0.5


def _gelu_tanh(x: Tensor, _: float) -> tuple[Tensor, Tensor]:
    scale, cubic = (2 / math.pi) ** 0.5, 0.044715
    tanh = torch.tanh(scale * (x + cubic * x**3))
    slope = scale * (1 + 3 * cubic * x * x)
    return 0.5 * x * (1 + tanh), 0.5 * (1 + tanh) + 0.5 * x * (1 - tanh * tanh) * slope


def _relu(x: Tensor, _: float) -> tuple[Tensor, Tensor]:
    return x.relu(), (x > 0).to(x.dtype)


def _relu_squared(x: Tensor, _: float) -> tuple[Tensor, Tensor]:
    positive = x.relu()
    return positive * positive, 2 * positive


_FUNCTIONS: dict[Function, Callable[[Tensor, float], tuple[Tensor, Tensor]]] = {
    "silu": _silu,
    "gelu": _gelu,
    "gelu_tanh": _gelu_tanh,
    "relu": _relu,
    "relu_squared": _relu_squared,
}


def _decode(z: Stored, part: slice) -> Float[Tensor, "rows channels"]:
    """Some rows of z in FP32."""
    if isinstance(z, Fp8Tensor):
        return Fp8Tensor(z.codes[part], z.scales[part], z.granularity).dequantize()
    return MxFp4Tensor(z.data[part], z.channels).dequantize() if isinstance(z, MxFp4Tensor) else z[part].float()


class _Operations:
    """What `ops` has for SwiGLU, for another gate."""

    def __init__(self, gate: Gate) -> None:
        self.gate = gate

    def swiglu(self, z: Stored, probability: Float[Tensor, " rows"]) -> BFloat16[Tensor, "rows width"]:
        rows, channels = z.shape
        result = torch.empty(rows, channels // self.gate.halves, dtype=torch.bfloat16, device=probability.device)
        for part in _parts(rows):
            result[part] = activate(_decode(z, part), self.gate) * probability[part, None]
        return result

    def swiglu_fp8(
        self, z: Stored, probability: Float[Tensor, " rows"], rule: ScaleRule | None = None
    ) -> tuple[Fp8Tensor, MxFp4Tensor | None]:
        result = self.swiglu(z, probability)
        return checked.quantize_fp8_rowwise(result), checked.quantize_mxfp4(result, rule) if rule else None

    def swiglu_fp8_keeping_z(
        self, z: BFloat16[Tensor, "rows channels"], probability: Float[Tensor, " rows"], rule: ScaleRule, keep: bool
    ) -> tuple[Fp8Tensor, MxFp4Tensor, MxFp4Tensor | None]:
        result, kept = self.swiglu_fp8(z, probability, rule if keep else None)
        return result, checked.quantize_mxfp4(z, rule), kept

    def swiglu_backward(
        self, z: Stored, probability: Float[Tensor, " rows"], grad: BFloat16[Tensor, "rows width"]
    ) -> tuple[BFloat16[Tensor, "rows channels"], Float[Tensor, " rows"]]:
        d_z = torch.empty(z.shape, dtype=torch.bfloat16, device=grad.device)
        d_probability = torch.empty_like(probability)
        for part in _parts(len(grad)):
            values, incoming = _decode(z, part), grad[part].float()
            d_probability[part] = (incoming * activate(values, self.gate)).sum(1)
            d_z[part] = activate_backward(values, incoming * probability[part, None], self.gate)
        return d_z, d_probability

    def swiglu_backward_fp8(
        self,
        z: Stored,
        probability: Float[Tensor, " rows"],
        grad: BFloat16[Tensor, "rows width"],
        offsets: Int32[Tensor, " groups"],
    ) -> tuple[Fp8Tensor, Fp8Tensor, Float[Tensor, " rows"]]:
        d_z, d_probability = self.swiglu_backward(z, probability, grad)
        rows = checked.quantize_fp8_rowwise(d_z)
        return rows, checked.fp8_rows_to_columns(rows, offsets), d_probability

    def swiglu_backward_fp8_with_activation(
        self,
        z: Stored,
        probability: Float[Tensor, " rows"],
        grad: BFloat16[Tensor, "rows width"],
        offsets: Int32[Tensor, " groups"],
    ) -> tuple[Fp8Tensor, Fp8Tensor, Float[Tensor, " rows"], Fp8Tensor]:
        rows, columns, d_probability = self.swiglu_backward_fp8(z, probability, grad, offsets)
        activation, _ = self.swiglu_fp8(z, probability)
        return rows, columns, d_probability, checked.fp8_rows_to_columns(activation, offsets)


def _parts(rows: int) -> list[slice]:
    return [slice(start, start + _ROWS) for start in range(0, rows, _ROWS)]
