"""Which ranks hold each token's experts: `rank_visits` of `pauca.moe.parallel.exchange` in one launch for thirty.

One program a rank: it reads all ids twice, first to count the rows of the ranks before it, then to give its own tokens
their rows, in order. Integers only. And what travels beside the tokens, `routing_rows`, in another launch for ten.
"""

# Triton gives its functions other signatures than they have in Python.
# pyright: reportCallIssue=false, reportArgumentType=false, reportOperatorIssue=false
# pyright: reportAttributeAccessIssue=false, reportIndexIssue=false, reportGeneralTypeIssues=false

import torch
import triton
import triton.language as tl
from torch import Tensor

from pauca.moe.ops.kernels.bits import next_power_of_two

_VISITS = 8192  # tokens times ranks a program looks at together, 32 a thread
_CHOICES = 2048  # of rows that are about to leave, 16 a thread


@triton.jit
def _visited(expert_ids, token, tokens, experts_per_rank, each, RANKS: tl.constexpr, TOP_K: tl.constexpr):
    """How many experts of each rank tokens chose: int32 [tokens, ranks]."""
    chosen = tl.zeros([token.shape[0], RANKS], tl.int32)
    for choice in tl.static_range(TOP_K):
        ids = tl.load(expert_ids + token * TOP_K + choice, token < tokens, other=-1).to(tl.int32)
        rank = tl.where(ids < 0, RANKS, ids // experts_per_rank)
        chosen += (rank[:, None] == each[None, :]).to(tl.int32)
    return chosen


@triton.jit(do_not_specialize=["fingerprint"])
def rank_visits_kernel(
    expert_ids,  # int32 or int64 [tokens, TOP_K]
    row_to_token,  # int32 [rows], as for row_to_rank
    row_to_rank,
    token_to_rows,  # int32 [tokens, visits]
    counts,  # int64 [ranks, 3]
    tokens,
    visits,
    experts_per_rank,
    fingerprint,
    TOKENS: tl.constexpr,
    RANKS: tl.constexpr,  # a power of two
    TOP_K: tl.constexpr,
):
    rank = tl.program_id(0)
    lane, each = tl.arange(0, TOKENS), tl.arange(0, RANKS)
    totals = tl.zeros([RANKS], tl.int32)
    start = 0
    while start < tokens:
        chosen = _visited(expert_ids, start + lane, tokens, experts_per_rank, each, RANKS, TOP_K)
        totals += tl.sum((chosen > 0).to(tl.int32), 0)
        start += TOKENS

    first = tl.sum(tl.where(each < rank, totals, 0), 0)
    row = first
    copies = 0
    start = 0
    while start < tokens:
        token = start + lane
        chosen = _visited(expert_ids, token, tokens, experts_per_rank, each, RANKS, TOP_K)
        visited = (chosen > 0).to(tl.int32)
        own = tl.sum(tl.where((each == rank)[None, :], chosen, 0), 1)
        mine = (own > 0).to(tl.int32)
        target = row + tl.cumsum(mine, 0) - 1
        tl.store(row_to_token + target, token, mine > 0)
        tl.store(row_to_rank + target, tl.zeros_like(token) + rank, mine > 0)
        # A token's rows from the last rank's to the first one's, and padding behind them.
        place = tl.sum(tl.where((each > rank)[None, :], visited, 0), 1)
        tl.store(token_to_rows + token * visits + place, target, mine > 0)
        behind = (each[None, :] >= tl.sum(visited, 1)[:, None]) & (each[None, :] < visits)
        padding = tl.full([TOKENS, RANKS], -1, tl.int32)
        left = behind & (token[:, None] < tokens) & (rank == 0)
        tl.store(token_to_rows + token[:, None] * visits + each[None, :], padding, left)
        row += tl.sum(mine, 0)
        copies += tl.sum(own, 0)
        start += TOKENS
    tl.store(counts + 3 * rank, (row - first).to(tl.int64))
    tl.store(counts + 3 * rank + 1, copies.to(tl.int64))
    tl.store(counts + 3 * rank + 2, fingerprint.to(tl.int64))


def rank_visits(
    expert_ids: Tensor, experts_per_rank: int, ranks: int, fingerprint: int, counts: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """`row_to_token`, `row_to_rank` and `token_to_rows`; fills `counts` [ranks, 3]."""
    tokens, top_k = expert_ids.shape
    visits, lanes = min(top_k, ranks), next_power_of_two(ranks)
    options = {"dtype": torch.int32, "device": expert_ids.device}
    row_to_token, row_to_rank = torch.empty(2, tokens * visits, **options)
    token_to_rows = torch.empty(tokens, visits, **options)
    rank_visits_kernel[(ranks,)](
        expert_ids.contiguous(),
        row_to_token,
        row_to_rank,
        token_to_rows,
        counts,
        tokens,
        visits,
        experts_per_rank,
        fingerprint,
        TOKENS=max(16, min(2048, _VISITS // lanes)),
        RANKS=lanes,
        TOP_K=top_k,
        num_warps=8,
    )
    return row_to_token, row_to_rank, token_to_rows


@triton.jit
def routing_rows_kernel(
    expert_ids,  # int32 or int64 [tokens, top_k]
    probabilities,  # the bits of FP32 [tokens, top_k]
    row_to_token,  # int32 [rows], as for row_to_rank
    row_to_rank,
    routing,  # int32 [rows, 2 top_k]
    rows,
    top_k,
    experts_per_rank,
    ROWS: tl.constexpr,
    CHOICES: tl.constexpr,  # a power of two, top_k at least
):
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    choice = tl.arange(0, CHOICES)[None, :]
    token = tl.load(row_to_token + row, row < rows, other=0)[:, None]
    first = (tl.load(row_to_rank + row, row < rows, other=0) * experts_per_rank)[:, None]
    inside = (row < rows)[:, None] & (choice < top_k)
    ids = tl.load(expert_ids + token * top_k + choice, inside, other=0).to(tl.int32) - first
    target = routing + row[:, None].to(tl.int64) * (2 * top_k) + choice
    tl.store(target, tl.where((ids >= 0) & (ids < experts_per_rank), ids, -1), inside)
    tl.store(target + top_k, tl.load(probabilities + token * top_k + choice, inside, other=0), inside)


def routing_rows(
    expert_ids: Tensor, probabilities: Tensor, row_to_token: Tensor, row_to_rank: Tensor, experts_per_rank: int
) -> Tensor:
    """An expert of the row's rank, or -1, and the bits of its weight, for each of the choices of a row's token."""
    rows, top_k = len(row_to_token), expert_ids.shape[1]
    routing = torch.empty(rows, 2 * top_k, dtype=torch.int32, device=expert_ids.device)
    choices = next_power_of_two(top_k)
    each = max(16, _CHOICES // choices)
    if rows:
        routing_rows_kernel[(triton.cdiv(rows, each),)](
            expert_ids.contiguous(),
            probabilities.contiguous().view(torch.int32),
            row_to_token,
            row_to_rank,
            routing,
            rows,
            top_k,
            experts_per_rank,
            ROWS=each,
            CHOICES=choices,
            num_warps=4,
        )
    return routing
