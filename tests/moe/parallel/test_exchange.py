"""Rows that know where they come from: to the right ranks, once each, in order, and back."""

import pytest
import torch
from torch import distributed as dist

from pauca.errors import PaucaError
from pauca.moe.layer.permutation import PADDING
from pauca.moe.parallel.exchange import arrange_exchange, peers_answer
from pauca.runs.processes import OtherStopped

EACH, TOP_K, COUNTS = 2, 3, (9, 0, 14)  # experts of a rank, choices, tokens of each rank


def _choices(rank: int) -> torch.Tensor:
    """Nobody chooses the last rank's first expert."""
    generator = torch.Generator().manual_seed(rank)
    return torch.tensor([0, 1, 2, 3, 5])[torch.rand(COUNTS[rank], 5, generator=generator).argsort(1)[:, :TOP_K]]


def _exchange(rank: int) -> dict[str, torch.Tensor | int]:
    ids = _choices(rank).t().contiguous().t()  # whatever their order in memory
    exchange = arrange_exchange(ids, EACH, dist.group.WORLD, fingerprint=7)
    names = torch.stack([torch.full((COUNTS[rank],), rank), torch.arange(COUNTS[rank])], 1)  # of the tokens
    (arrived,) = exchange.send([names[exchange.row_to_token]]).arrive()
    (returned,) = exchange.send_back([torch.cat([arrived, torch.full_like(arrived[:, :1], rank)], 1)]).arrive()
    return {"arrived": arrived, "returned": returned, "rows": exchange.token_to_rows, "copies": exchange.copies}


def test_tokens_visit_each_rank_of_their_experts_once_and_come_back(together):
    ranks = together(_exchange, 3)
    for here, result in enumerate(ranks):
        visits = [(_choices(rank) // EACH == here) for rank in range(3)]
        expected = [[rank, token] for rank in range(3) for token in visits[rank].any(1).nonzero().flatten().tolist()]
        assert result["arrived"].tolist() == expected
        assert result["copies"] == sum(int(visit.sum()) for visit in visits)
    for rank, result in enumerate(ranks):
        for token, rows in enumerate(result["rows"]):
            came_back = result["returned"][rows[rows != PADDING].long()]
            assert torch.all(came_back[:, 0] == rank)
            assert torch.all(came_back[:, 1] == token)
            assert sorted(came_back[:, 2].tolist()) == (_choices(rank)[token] // EACH).unique().tolist()


def test_a_failure_is_explained_in_one_line():
    with (
        pytest.raises(
            OtherStopped, match=r"^rank 0 stops, because another rank has; .* \(expert parallelism, counting\)$"
        ),
        peers_answer("counting"),
    ):
        raise RuntimeError("[/gloo/pair.cc:534] Connection closed by peer [127.0.0.1]:1024\nfrom many sockets")
    with pytest.raises(PaucaError, match=r"counting: .* \(other shapes\)$"), peers_answer("counting"):
        raise RuntimeError("other shapes\nand a trace")
