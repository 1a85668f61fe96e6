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
from jaxtyping import Float, Int, Int32, Int64
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
        fingerprint: 31 bits of all that must be the same on every rank; travels with the counts.
    """
    world = dist.get_world_size(group)
    # Ours and theirs in one tensor: one copy to wait for.
    counts = torch.empty(2, world, 3, dtype=torch.int64, device=expert_ids.device)
    row_to_token, row_to_rank, token_to_rows = rank_visits(expert_ids, experts_per_rank, world, fingerprint, counts[0])
    with peers_answer("exchanging counts"):
        dist.all_to_all_single(counts[1], counts[0], group=group)
        leaving, arriving = counts.tolist()
    _check_fingerprints([peer for _, _, peer in arriving], fingerprint, group)
    rows = sum(count for count, _, _ in leaving)
    return Exchange(
        group,
        row_to_token[:rows],
        row_to_rank[:rows],
        token_to_rows,
        [count for count, _, _ in leaving],
        [count for count, _, _ in arriving],
        sum(count for _, count, _ in arriving),
    )


def rank_visits(
    expert_ids: Int[Tensor, "tokens top_k"],
    experts_per_rank: int,
    ranks: int,
    fingerprint: int,
    counts: Int64[Tensor, "ranks 3"],
) -> tuple[Int32[Tensor, " most"], Int32[Tensor, " most"], Int32[Tensor, "tokens visits"]]:
    """`row_to_token`, `row_to_rank` and `token_to_rows` of an `Exchange`, before the host knows how many rows it has.

    On a GPU the first two are as long as they can get, and hold anything behind the rows. `counts` becomes, for each
    rank, the rows and the copies of tokens that leave for it, and the fingerprint.
    """
    if expert_ids.is_cuda:
        from pauca.moe.ops.kernels.rank_visits import rank_visits as visits_on_gpu  # imports Triton

        return visits_on_gpu(expert_ids, experts_per_rank, ranks, fingerprint, counts)
    (tokens, top_k), device = expert_ids.shape, expert_ids.device
    rank = expert_ids.long() // experts_per_rank
    visits = torch.zeros(ranks, tokens, dtype=torch.bool, device=device).scatter_(0, rank.t(), True)
    copies = torch.bincount(rank.reshape(-1), minlength=ranks)
    torch.stack([visits.sum(1), copies, torch.full_like(copies, fingerprint)], 1, out=counts)
    row = (visits.view(-1).cumsum(0) - 1).view_as(visits).masked_fill(~visits, PADDING)
    token_to_rows = row.t().sort(1, descending=True).values[:, : min(top_k, ranks)].int().contiguous()
    row_to_rank, row_to_token = visits.nonzero().int().t().contiguous()
    return row_to_token, row_to_rank, token_to_rows


def routing_rows(
    expert_ids: Int[Tensor, "tokens top_k"],
    probabilities: Float[Tensor, "tokens top_k"],
    row_to_token: Int32[Tensor, " rows"],
    row_to_rank: Int32[Tensor, " rows"],
    experts_per_rank: int,
) -> Int32[Tensor, "rows twice_top_k"]:
    """For each row the choices of its token: experts of its rank, or PADDING, and the bits of their weights."""
    if expert_ids.is_cuda:
        from pauca.moe.ops.kernels.rank_visits import routing_rows as routing_on_gpu  # imports Triton

        return routing_on_gpu(expert_ids, probabilities, row_to_token, row_to_rank, experts_per_rank)
    ids = expert_ids[row_to_token].int() - row_to_rank[:, None] * experts_per_rank
    ids = ids.masked_fill((ids < 0) | (ids >= experts_per_rank), PADDING)
    return torch.cat([ids, probabilities[row_to_token].contiguous().view(torch.int32)], 1)


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
