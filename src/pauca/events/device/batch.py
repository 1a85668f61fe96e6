"""What the kernels work on: events on the device, the image they vote into, and a batch of questions about them."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float32, Float64, Int32
from torch import Tensor

from pauca.events.device.requests import moments_of
from pauca.events.likelihood import PixelScore, tabulate
from pauca.events.score import PAD, blur_taps
from pauca.events.types import VoteKernel
from pauca.events.warp import Frame, Warp

BLOCK = 512  # events of one program of a kernel; of 1024, the sums of `gather` would not fit into registers
UNIT = 2.0**-32
"""Votes are counted as 64-bit integers in these units: their sum does not depend on their order, and no image can
overflow. With 32-bit integers (2^-17 for 30,000 events) three in 21 packets took another number of steps than on the
CPU, and ended up to 0.05 deg/s away; with 2^-22 none, and 0.0006 deg/s."""


@dataclass(frozen=True, eq=False)
class Stored:
    """Events on the device, 8 bytes each, and the camera that saw them."""

    words: Int32[Tensor, "capacity"]  # x + y 2^15 + p 2^30
    times: Int32[Tensor, "capacity"]  # lower bits of microseconds
    bearings: Float32[Tensor, "sensor_height sensor_width 2"]  # of each pixel


@dataclass(frozen=True, eq=False)
class Plane:
    """The image that a batch votes into, and how that is scored."""

    intrinsics: tuple[float, float, float, float]  # fx, fy, cx, cy in pixels of the frame
    size: tuple[int, int]  # height and width, with a margin of PAD around the frame
    warp: Warp
    vote: VoteKernel
    taps: tuple[float, float, float]
    table: Float32[Tensor, "segments 4"]
    offset: float
    first_exponent: int

    @classmethod
    def of(
        cls, frame: Frame, warp: Warp, score: PixelScore, vote: VoteKernel, blur_sigma: float, device: torch.device
    ) -> "Plane":
        """The image of a `Scorer` with these settings."""
        width, height = frame.size
        table = tabulate(score)
        w0, w1, w2 = blur_taps(blur_sigma)
        return cls(
            frame.intrinsics,
            (height + 2 * PAD, width + 2 * PAD),
            warp,
            vote,
            (float(w0), float(w1), float(w2)),
            torch.tensor(table.segments, device=device),
            float(table.offset),
            table.first,
        )

    @property
    def radius(self) -> int:
        """Of the blur."""
        return 1 if self.taps[2] == 0 else 2

    @property
    def moments(self) -> int:
        """How many sums `gather` gives."""
        return moments_of(self.warp.parameters)


class Batch(NamedTuple):
    """Questions about packets, all with one plane."""

    where: Int32[Tensor, "r 3"]  # first event, number of events, lower bits of the reference time
    motion: Float32[Tensor, "r 6"]  # velocity, acceleration
    blocks: Int32[Tensor, "b 2"]  # request, and which BLOCK of its events
    most: int  # events of the largest packet

    @property
    def most_blocks(self) -> int:
        """BLOCKs of the largest packet."""
        return -(-self.most // BLOCK)

    @classmethod
    def of(cls, questions: Float64[np.ndarray, "r 11"], device: torch.device) -> "Batch":
        """The batch on the device: one transfer."""
        return cls.at(torch.from_numpy(cls.words(questions)).to(device), questions)

    @staticmethod
    def words(questions: Float64[np.ndarray, "r 11"]) -> Int32[np.ndarray, "words"]:
        """What travels to the device: a multiple of 16 bytes."""
        r = len(questions)
        where, motion = questions[:, 2:5].astype(np.int32), questions[:, 5:].astype(np.float32)
        blocks = -(-where[:, 1] // BLOCK)
        owner = np.repeat(np.arange(r, dtype=np.int32), blocks)
        within = (np.arange(len(owner)) - np.repeat(np.cumsum(blocks) - blocks, blocks)).astype(np.int32)
        pairs = np.stack([owner, within], axis=1)
        room = _aligned(r)
        flat = np.zeros(_aligned(9 * room + pairs.size), np.int32)
        flat[: 3 * r], flat[3 * room : 3 * room + 6 * r] = where.ravel(), motion.ravel().view(np.int32)
        flat[9 * room : 9 * room + pairs.size] = pairs.ravel()
        return flat

    @classmethod
    def at(cls, words: Int32[Tensor, "words"], questions: Float64[np.ndarray, "r 11"]) -> "Batch":
        """The batch whose `words` are on the device already."""
        r, events = len(questions), questions[:, 3].astype(np.int64)
        room, blocks = _aligned(r), int((-(-events // BLOCK)).sum())
        return cls(
            words[: 3 * r].view(r, 3),
            words[3 * room : 3 * room + 6 * r].view(torch.float32).view(r, 6),
            words[9 * room : 9 * room + 2 * blocks].view(-1, 2),
            int(events.max()),
        )


def _aligned(count: int) -> int:
    """Room for so many words: each part begins at a multiple of 16 bytes, Triton compiles for others anew."""
    return -(-count // 4) * 4
