"""Rows of bytes to the ranks that hold a token's experts, and back: the collectives of expert parallelism.

A token travels once to each rank that holds one of its experts, not once per copy. All else follows from one small
exchange of counts, for whose result the host must wait: `torch.distributed` takes the sizes of an all-to-all from the
host. Rows arrive ordered by the rank they come from, and by token within it, so the same routing always gives the same
bits.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from jaxtyping import Int, Int32
from torch import Tensor
from torch import distributed as dist

from pauca.errors import PaucaError
from pauca.moe import ops
from pauca.moe.layer.permutation import PADDING
from pauca.moe.ops.formats import Fp8Tensor, MxFp4Tensor, Stored
from pauca.runs.processes import OtherStopped, explain, first_line, own_rank


@contextmanager
def peers_answer(what: str) -> Iterator[None]:
    """Say what failed when a collective does: its own error names sockets, not causes."""
    try:
        yield
    except RuntimeError as error:
        reason = explain(error)
        if reason is not None:
            raise OtherStopped(f"{reason} (expert parallelism, {what})") from error
        raise PaucaError(
            f"rank {own_rank()}: expert parallelism, {what}: ranks that run other code, or a fault of this one "
            f"({first_line(error)})"
        ) from error


@dataclass(frozen=True)
class Journey:
    """Tensors on their way; the device that computes goes on until `arrive`."""

    tensors: list[Tensor]
    works: list[dist.Work]

    def arrive(self) -> list[Tensor]:
        with peers_answer("waiting for rows"):
            for work in self.works:
                work.wait()
        return self.tensors


@dataclass(frozen=True)
class Exchange:
    """Which rows go to which rank, and back: made by `arrange_exchange`, good for forward and backward."""

    group: dist.ProcessGroup
    row_to_token: Int32[Tensor, " rows"]  # sorted by rank, then by token
    row_to_rank: Int32[Tensor, " rows"]
    token_to_rows: Int32[Tensor, "tokens visits"]  # or PADDING
    leaving: list[int]  # rows for each rank
    arriving: list[int]  # rows from each rank
    copies: int  # of the arriving tokens, for experts of this rank; at most

    def send(self, tensors: list[Tensor]) -> Journey:
        """Rows [sum(leaving), ...] to the experts' ranks."""
        return self._all_to_all(tensors, self.leaving, self.arriving)

    def send_back(self, tensors: list[Tensor]) -> Journey:
        """Rows [sum(arriving), ...] to the tokens' ranks."""
        return self._all_to_all(tensors, self.arriving, self.leaving)

    def rows(self, tokens: Stored) -> Stored:
        """One row for each rank that a token visits, in the order of leaving."""
        if isinstance(tokens, Fp8Tensor):
            return ops.gather_fp8_rows(tokens, self.row_to_token)
        if isinstance(tokens, MxFp4Tensor):  # copied as 16-bit words, whatever they mean
            data = ops.gather_rows(tokens.data.view(torch.bfloat16), self.row_to_token)
            return MxFp4Tensor(data.view(torch.uint8), tokens.channels)
        return ops.gather_rows(tokens, self.row_to_token)

    def _all_to_all(self, tensors: list[Tensor], leaving: list[int], arriving: list[int]) -> Journey:
        results = [tensor.new_empty(sum(arriving), *tensor.shape[1:]) for tensor in tensors]
        with peers_answer("sending rows"):
            works = [
                dist.all_to_all_single(result, tensor, arriving, leaving, group=self.group, async_op=True)
                for result, tensor in zip(results, tensors, strict=True)
            ]
        return Journey(results, [work for work in works if work is not None])


def arrange_exchange(
    expert_ids: Int[Tensor, "tokens top_k"], experts_per_rank: int, group: dist.ProcessGroup, fingerprint: int
) -> Exchange:
    """Agree with the other ranks on who sends how much to whom; all of them must call it. Waits for the device once.

    Args:
        expert_ids: the experts of this rank's tokens, counted over all ranks.
        experts_per_rank: rank r holds experts r * experts_per_rank and following.
        group: ranks that divide the experts.
        fingerprint: of all that must be the same on every rank; travels with the counts.
    """
    world, (tokens, top_k) = dist.get_world_size(group), expert_ids.shape
    ranks = expert_ids.long() // experts_per_rank
    visits = torch.zeros(tokens, world, dtype=torch.bool, device=ranks.device).scatter_(1, ranks, True)
    copies = torch.zeros(world, dtype=torch.int64, device=ranks.device)
    copies.scatter_add_(0, ranks.reshape(-1), torch.ones_like(ranks).reshape(-1))
    ours = torch.stack([visits.sum(0), copies, torch.full_like(copies, fingerprint)], 1)
    theirs = torch.empty_like(ours)
    with peers_answer("exchanging counts"):
        dist.all_to_all_single(theirs, ours, group=group)
        leaving, arriving = torch.stack([ours, theirs]).tolist()
    _check_fingerprints([peer for _, _, peer in arriving], fingerprint, group)

    by_rank = visits.t().contiguous()
    row = (by_rank.view(-1).cumsum(0) - 1).view_as(by_rank)
    token_to_rows = row.masked_fill(~by_rank, PADDING).t().sort(1, descending=True).values
    rows = sum(count for count, _, _ in leaving)
    row_to_rank, row_to_token = torch.nonzero_static(by_rank, size=rows).int().t().contiguous()
    return Exchange(
        group,
        row_to_token,
        row_to_rank,
        token_to_rows[:, : min(top_k, world)].int().contiguous(),
        [count for count, _, _ in leaving],
        [count for count, _, _ in arriving],
        sum(count for _, count, _ in arriving),
    )


def bounded_exchange(
    expert_ids: Int[Tensor, "tokens top_k"], experts_per_rank: int, group: dist.ProcessGroup
) -> Exchange:
    """Every token to every rank: all sizes are known beforehand, so that nothing is asked and no GPU is waited for.

    All ranks must have the same number of tokens, which `require_equal_tokens` makes sure of. A rank gives nothing back
    for a token that visits none of its experts. With few ranks this sends little more than `arrange_exchange`: of two,
    with 4 of 32 experts, a token visits 1.9 on average.
    """
    world, (tokens, top_k), device = dist.get_world_size(group), expert_ids.shape, expert_ids.device
    rows = torch.arange(world * tokens, device=device, dtype=torch.int32)
    return Exchange(
        group,
        rows % max(1, tokens),
        rows // max(1, tokens),
        rows.view(world, tokens).t().flip(1).contiguous(),  # summed in the order of `arrange_exchange`
        [tokens] * world,
        [tokens] * world,
        world * tokens * min(top_k, experts_per_rank),
    )


def require_equal_tokens(tokens: int, fingerprint: int, ranks: dist.ProcessGroup, group: dist.ProcessGroup) -> None:
    """Compare what a bounded exchange takes for granted; all ranks must call it. Waits for their CPUs, not for a GPU.

    Args:
        tokens: of this rank.
        fingerprint: of all else that must be the same on every rank.
        ranks: that divide the experts.
        group: the same ranks, for messages of CPUs.

    Raises:
        PaucaError: ranks that differ, on all of them.
    """
    ours = torch.tensor([tokens, fingerprint])
    theirs = [torch.empty_like(ours) for _ in range(dist.get_world_size(group))]
    with peers_answer("comparing the numbers of tokens"):
        dist.all_gather(theirs, ours, group=group)
    counts, fingerprints = torch.stack(theirs).t().tolist()
    _check_fingerprints(fingerprints, fingerprint, ranks)
    if len(set(counts)) > 1:
        raise PaucaError(
            f"expert parallelism: the ranks have {', '.join(map(str, counts))} tokens, but bounded experts need as "
            "many on each: pad the shorter batches, or leave `bounded` unset"
        )


def _check_fingerprints(theirs: list[int], ours: int, group: dist.ProcessGroup) -> None:
    others = [dist.get_global_rank(group, place) for place, peer in enumerate(theirs) if peer != ours]
    if others:
        raise PaucaError(
            f"expert parallelism: rank(s) {', '.join(map(str, others))} run another layer, recipe or mode (training, "
            f"no_grad) than rank {dist.get_rank()}; all ranks must make the same calls in the same order"
        )
