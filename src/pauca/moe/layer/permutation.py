"""Which row of the grouped products belongs to which copy of which token.

The copies of the tokens (`top_k` of each) are sorted by expert, each expert's rows padded to a multiple of 16, the
granularity of torch's grouped FP8 product. The number of rows that are really used stays on the device: tensors are
sized by an upper bound, so nothing waits for the host and a CUDA graph can hold it all. The sort is stable and moves
integers only, so the same routing always gives the same rows, and sums over them the same bits.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Int, Int32
from torch import Tensor

from pauca.errors import InputError
from pauca.moe.ops.formats import GROUP_ROWS

PADDING = -1
"""What stands for a row that holds no token, and for an expert that is elsewhere."""


@dataclass(frozen=True)
class Permutation:
    """Rows sorted by expert and padded, and the way back.

    Rows beyond `offsets[-1]` belong to no expert: products leave them unwritten, and nothing may read them.
    """

    row_to_copy: Int32[Tensor, " rows"]  # token * top_k + choice, or PADDING
    row_to_token: Int32[Tensor, " rows"]  # or PADDING
    copy_to_row: Int32[Tensor, "tokens top_k"]  # or PADDING, for a copy whose expert is elsewhere
    offsets: Int32[Tensor, " experts"]  # end of each expert's rows, multiples of GROUP_ROWS

    def tensors(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The fields, in order."""
        return self.row_to_copy, self.row_to_token, self.copy_to_row, self.offsets


def row_bound(copies: int, experts: int) -> int:
    """Rows that always suffice for `copies` over `experts`, whatever the routing."""
    occupied = min(copies, experts)  # an expert without tokens takes no padding
    rows = copies + occupied * (GROUP_ROWS - 1)
    return -(-rows // GROUP_ROWS) * GROUP_ROWS


def sort_by_expert(expert_ids: Int[Tensor, "tokens top_k"], experts: int, copies: int | None = None) -> Permutation:
    """Sort the copies of the tokens by expert (at most 32,766 experts).

    Args:
        expert_ids: the experts that each token was routed to, 0 to experts - 1, and with `copies` also -1 (PADDING)
            for experts that are elsewhere. Not checked on a GPU: that would wait for the device.
        experts: number of experts; any of them may get no token.
        copies: how many of the ids at most are not -1, where some are.
    """
    if expert_ids.device.type == "cpu" and not torch.compiler.is_compiling():
        _check_ids(expert_ids, experts, copies)
    if expert_ids.device.type == "cuda" and not torch.compiler.is_compiling():
        from pauca.moe.ops.kernels.sort_by_expert import sort_by_expert as sort_on_gpu  # imports Triton

        rows = row_bound(expert_ids.numel() if copies is None else copies, experts)
        return Permutation(*sort_on_gpu(expert_ids, experts, rows))
    return _sort_by_expert(expert_ids, experts) if copies is None else _sort_those_here(expert_ids, experts, copies)


def _sort_those_here(expert_ids: Int[Tensor, "tokens top_k"], experts: int, copies: int) -> Permutation:
    """`_sort_by_expert` where an id of -1 is not a copy: such ids become one expert more, whose rows are cut off."""
    elsewhere = expert_ids == PADDING
    permutation = _sort_by_expert(expert_ids.masked_fill(elsewhere, experts), experts + 1)
    rows, offsets = row_bound(min(copies, expert_ids.numel()), experts), permutation.offsets[:-1]
    here = torch.arange(rows, device=offsets.device) < offsets[-1]
    row_to_copy, row_to_token = (
        t[:rows].where(here, PADDING) for t in (permutation.row_to_copy, permutation.row_to_token)
    )
    return Permutation(row_to_copy, row_to_token, permutation.copy_to_row.masked_fill(elsewhere, PADDING), offsets)


def _sort_by_expert(expert_ids: Int[Tensor, "tokens top_k"], experts: int) -> Permutation:
    """In torch operations: for the CPU, for `torch.compile`, and as the kernel's reference."""
    tokens, top_k = expert_ids.shape
    copies, device = tokens * top_k, expert_ids.device
    # A radix sort of 16-bit keys takes a quarter of the passes that one of 64-bit keys takes.
    sorted_ids, sorted_to_copy = torch.sort(expert_ids.reshape(-1).to(torch.int16), stable=True)
    boundaries = torch.arange(experts + 1, device=device, dtype=sorted_ids.dtype)
    starts = torch.searchsorted(sorted_ids, boundaries, out_int32=True)  # the last entry is the number of copies
    counts = starts.diff()
    padded = (counts + GROUP_ROWS - 1) // GROUP_ROWS * GROUP_ROWS
    offsets = padded.cumsum(0, dtype=torch.int32)
    shift = offsets - padded - starts[:-1]  # how far padding has moved each expert's first row
    rows = torch.arange(copies, device=device, dtype=torch.int32) + shift[sorted_ids.long()]

    row_to_copy = torch.full((row_bound(copies, experts),), PADDING, device=device, dtype=torch.int32)
    row_to_copy[rows.long()] = sorted_to_copy.int()
    copy_to_row = torch.empty(copies, device=device, dtype=torch.int32)
    copy_to_row[sorted_to_copy] = rows
    # Floor division keeps PADDING as it is: -1 // top_k == -1.
    row_to_token = row_to_copy.div(top_k, rounding_mode="floor")
    return Permutation(row_to_copy, row_to_token, copy_to_row.view(tokens, top_k), offsets)


def _check_ids(expert_ids: Int[Tensor, "tokens top_k"], experts: int, copies: int | None) -> None:
    if expert_ids.numel() == 0:
        return
    lowest, highest = int(expert_ids.min()), int(expert_ids.max())
    first = 0 if copies is None else PADDING
    if lowest < first or highest >= experts:
        raise InputError(f"expert ids must lie in {first}..{experts - 1}, got {lowest}..{highest}")
    here = int((expert_ids != PADDING).sum())
    if copies is not None and here > copies:
        raise InputError(f"{here} ids are not {PADDING}, more than the {copies} that copies allows")
