"""FP8 (E4M3) and MXFP4 (E2M1 in blocks of 32) matrices whose scales are powers of two, kept as E8M0 bytes.

An E8M0 byte `b` is the power of two 2^(b - 127); 0xFF is NaN. Scales stay `uint8`: casting FP32 to torch's
`float8_e8m0fnu` drops signs and turns zero into 2^-127, and collectives refuse the type. Codes stay `uint8` for the
same reason; `Fp8Tensor.values` is the view that torch's products take. Conversions are in `pauca.moe.ops`.

Sources: OCP 8-bit Floating Point Specification 1.0 (E4M3); OCP Microscaling Formats 1.0 (E2M1, E8M0, blocks of 32).
"""

from dataclasses import dataclass
from enum import StrEnum
from functools import cache

import torch
from jaxtyping import BFloat16, Float, Int32, UInt8
from torch import Tensor

from pauca.errors import InputError

BLOCK = 32  # elements that share an MXFP4 scale
TILE = 128  # elements that share an FP8 scale in a 1x128 tile
GROUP_ROWS = 16  # rows of an expert are padded to a multiple of this: torch's grouped FP8 product asks for it
E8M0_BIAS = 127
E8M0_MAX = 254
E8M0_NAN = 255
E4M3_NAN = 0x7F
E4M3_MAX = 0x7E  # the code of 448


class Layout(StrEnum):
    """Which index runs along memory: channels (ROW, as tokens come) or rows (COLUMN, as weight gradients need)."""

    ROW = "row"
    COLUMN = "column"


class Granularity(StrEnum):
    """What shares an FP8 scale: a whole row, a 1x128 tile of a row, or one channel of all rows of one expert."""

    ROW = "row"
    TILE = "tile"
    GROUP = "group"


class ScaleRule(StrEnum):
    """How the largest magnitude of an MXFP4 block, m * 2^e with 1 <= m < 2, chooses the block's exponent.

    All start from e - 2 (so that m * 2^e lands in [4, 8)) and add one when the mantissa is too large: FLOOR never (the
    OCP rule; values above 6 saturate), EVEN for m >= 1.75, RCEIL for m > 1.5, CEIL for m > 1. BEST takes whichever of
    the two exponents has the smaller squared error over the block, the smaller exponent on a tie.
    """

    FLOOR = "floor"
    EVEN = "even"
    RCEIL = "rceil"
    CEIL = "ceil"
    BEST = "best"


@dataclass(frozen=True)
class Fp8Tensor:
    """A matrix of E4M3 codes whose scales are powers of two.

    ROW and TILE scales belong to row layout, GROUP scales to column layout. Rows past the last group's end hold nothing
    of use. A row, tile or group of zeros has scale byte 0.
    """

    codes: UInt8[Tensor, "major minor"]  # [rows, channels] in row layout, [channels, rows] in column layout
    scales: UInt8[Tensor, "..."]  # ROW [rows]; TILE [rows, ceil(channels / 128)]; GROUP [groups, channels]
    granularity: Granularity
    offsets: Int32[Tensor, "groups"] | None = None  # GROUP: where each group's rows end

    def __post_init__(self) -> None:
        expected = self._scales_shape()
        if tuple(self.scales.shape) != expected:
            raise InputError(
                f"FP8 codes {tuple(self.codes.shape)} with {self.granularity} scales need scales of shape {expected}, "
                f"got {tuple(self.scales.shape)}"
            )

    def _scales_shape(self) -> tuple[int, ...]:
        rows, channels = self.shape
        if self.granularity is Granularity.ROW:
            return (rows,)
        if self.granularity is Granularity.TILE:
            return (rows, -(-channels // TILE))
        if self.offsets is None:
            raise InputError("group scales need the offsets where each group's rows end")
        return (len(self.offsets), channels)

    @property
    def layout(self) -> Layout:
        return Layout.COLUMN if self.granularity is Granularity.GROUP else Layout.ROW

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, channels), whatever the layout."""
        major, minor = self.codes.shape
        return (minor, major) if self.layout is Layout.COLUMN else (major, minor)

    @property
    def values(self) -> Float[Tensor, "major minor"]:
        """The codes as torch's `float8_e4m3fn`, unscaled: what a product takes."""
        return self.codes.view(torch.float8_e4m3fn)

    def scales_float32(self) -> Float[Tensor, "..."]:
        """The scales as FP32, in the scales' shape: what a product takes."""
        return e8m0_to_float32(self.scales)

    def dequantize(self) -> Float[Tensor, "rows channels"]:
        """FP32 values in row order, whatever the layout. Rows past the last group's end are zero."""
        values = _table("e4m3", self.codes.device)[self.codes.int()]
        scales = self.scales_float32()
        if self.granularity is Granularity.ROW:
            return values * scales[:, None]
        if self.granularity is Granularity.TILE:
            return values * scales.repeat_interleave(TILE, 1)[:, : values.shape[1]]
        rows, channels = self.shape
        assert self.offsets is not None
        groups = row_groups(self.offsets, rows)
        padded = torch.cat([scales, scales.new_zeros(1, channels)])
        inside = (groups < len(self.offsets))[:, None]
        return torch.where(inside, values.T * padded[groups], 0.0)


@dataclass(frozen=True)
class MxFp4Tensor:
    """A matrix in MXFP4, row layout: two E2M1 codes a byte (low nibble first), one E8M0 byte per 32 channels.

    Codes and scale bytes of a row lie side by side, padded to 16 bytes, so that a row is what expert parallelism sends
    and what a gather reads: one piece of memory.
    """

    data: UInt8[Tensor, "rows row_bytes"]  # codes, then scale bytes, then padding
    channels: int

    def __post_init__(self) -> None:
        if self.channels <= 0 or self.channels % BLOCK:
            raise InputError(f"MXFP4 needs a multiple of {BLOCK} channels, got {self.channels}: pad the last dimension")
        if self.data.shape[1] != mxfp4_row_bytes(self.channels):
            raise InputError(
                f"{self.channels} MXFP4 channels take {mxfp4_row_bytes(self.channels)} bytes a row, "
                f"got {self.data.shape[1]}"
            )

    @classmethod
    def empty(cls, rows: int, channels: int, device: torch.device | str) -> "MxFp4Tensor":
        """Uninitialized memory for `rows` x `channels`."""
        return cls(torch.empty(rows, mxfp4_row_bytes(channels), dtype=torch.uint8, device=device), channels)

    @classmethod
    def pack(cls, elements: UInt8[Tensor, "rows channels"], scales: UInt8[Tensor, "rows blocks"]) -> "MxFp4Tensor":
        """From one E2M1 code (0 to 15) per element and one scale byte per block."""
        rows, channels = elements.shape
        packed = cls(elements.new_zeros(rows, mxfp4_row_bytes(channels)), channels)
        packed.codes.copy_(elements[:, 0::2] | elements[:, 1::2] << 4)
        packed.scales.copy_(scales)
        return packed

    @property
    def layout(self) -> Layout:
        return Layout.ROW

    @property
    def shape(self) -> tuple[int, int]:
        return self.data.shape[0], self.channels

    @property
    def codes(self) -> UInt8[Tensor, "rows half"]:
        """A view: two elements a byte, low nibble first."""
        return self.data[:, : self.channels // 2]

    @property
    def scales(self) -> UInt8[Tensor, "rows blocks"]:
        """A view: one E8M0 byte per block of 32."""
        start = self.channels // 2
        return self.data[:, start : start + self.channels // BLOCK]

    def elements(self) -> UInt8[Tensor, "rows channels"]:
        """One E2M1 code (0 to 15) per element."""
        return torch.stack([self.codes & 15, self.codes >> 4], 2).flatten(1)

    def dequantize(self) -> Float[Tensor, "rows channels"]:
        """FP32 values; a block whose scale byte is 0xFF is NaN."""
        values = _table("e2m1", self.data.device)[self.elements().int()]
        return values * e8m0_to_float32(self.scales).repeat_interleave(BLOCK, 1)


Quantized = Fp8Tensor | MxFp4Tensor
Stored = BFloat16[Tensor, "_ _"] | Quantized
"""A matrix in any of the forms in which a layer keeps or sends one."""


def mxfp4_row_bytes(channels: int) -> int:
    """Bytes of one MXFP4 row: codes and scale bytes, rounded up to 16."""
    return -(-(channels // 2 + channels // BLOCK) // 16) * 16


def e8m0_to_float32(scales: UInt8[Tensor, "..."]) -> Float[Tensor, "..."]:
    """2^(b - 127) for every byte b, exactly: 2^-127 is an FP32 subnormal, 0xFF becomes NaN."""
    return scales.view(torch.float8_e8m0fnu).float()  # reading is exact, unlike casting to this type


def row_groups(offsets: Int32[Tensor, "groups"], rows: int) -> Int32[Tensor, "rows"]:
    """The group of each row; rows past the last end get the number of groups."""
    return torch.searchsorted(offsets, torch.arange(rows, device=offsets.device, dtype=torch.int32), right=True).int()


@cache
def _table(name: str, device: torch.device) -> Float[Tensor, "codes"]:
    """FP32 value of every code of a format."""
    if name == "e2m1":
        magnitudes = torch.tensor([0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0])
        return torch.cat([magnitudes, -magnitudes]).to(device)
    return torch.arange(256, dtype=torch.uint8).view(torch.float8_e4m3fn).float().to(device)
