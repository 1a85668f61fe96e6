import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pauca.errors import InputError
from pauca.moe.layer.permutation import PADDING, _sort_by_expert, row_bound, sort_by_expert
from pauca.moe.ops.formats import GROUP_ROWS


@st.composite
def routings(draw: st.DrawFn) -> tuple[torch.Tensor, int]:
    experts, tokens = draw(st.integers(1, 40)), draw(st.integers(0, 60))
    top_k = draw(st.integers(1, min(experts, 5)))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**20)))
    skew = draw(st.sampled_from([0.0, 1.0, 4.0]))
    popularity = torch.arange(1, experts + 1).float() ** -skew
    chosen = [torch.multinomial(popularity, top_k, generator=generator) for _ in range(tokens)]
    return torch.stack(chosen) if tokens else torch.empty(0, top_k, dtype=torch.int64), experts


@given(routings())
def test_every_copy_has_one_row_among_its_experts_rows(routing):
    expert_ids, experts = routing
    permutation = sort_by_expert(expert_ids, experts)
    tokens, top_k = expert_ids.shape
    copies = torch.arange(tokens * top_k)
    rows = permutation.copy_to_row.reshape(-1).long()
    assert torch.equal(permutation.row_to_copy[rows].long(), copies)
    assert torch.equal(permutation.row_to_token[rows].long(), copies // top_k)
    expert_of_row = torch.searchsorted(permutation.offsets, rows.int(), right=True)
    assert torch.equal(expert_of_row, expert_ids.reshape(-1))


@given(routings())
def test_what_is_no_copy_is_padding_less_than_a_group_each(routing):
    expert_ids, experts = routing
    permutation = sort_by_expert(expert_ids, experts)
    used = permutation.row_to_copy != PADDING
    assert int(used.sum()) == expert_ids.numel()
    assert torch.equal(permutation.row_to_token == PADDING, ~used)
    sizes = permutation.offsets.diff(prepend=torch.zeros(1, dtype=torch.int32))
    counts = torch.bincount(expert_ids.reshape(-1), minlength=experts)
    assert torch.all(sizes % GROUP_ROWS == 0)
    assert torch.all((sizes >= counts) & (sizes - counts < GROUP_ROWS))
    assert int(permutation.offsets[-1]) <= row_bound(expert_ids.numel(), experts) == len(permutation.row_to_copy)
    assert not used[int(permutation.offsets[-1]) :].any()


@given(routings())
def test_tokens_keep_their_order_within_an_expert(routing):
    expert_ids, experts = routing
    permutation = sort_by_expert(expert_ids, experts)
    start = 0
    for end in permutation.offsets.tolist():
        kept = permutation.row_to_copy[start:end]
        kept = kept[kept != PADDING]
        assert torch.equal(kept, kept.sort().values)
        start = end


def test_the_bound_is_reached_when_every_expert_has_one_token_over():
    experts, top_k = 4, 1
    expert_ids = torch.arange(experts).repeat(GROUP_ROWS + 1)[:, None]
    permutation = sort_by_expert(expert_ids, experts)
    assert int(permutation.offsets[-1]) == experts * 2 * GROUP_ROWS == row_bound(experts * 17 * top_k, experts)


@given(routings(), st.integers(0, 2**20))
def test_copies_whose_experts_are_elsewhere_take_no_rows(routing, seed):
    """The permutation is that of the copies that are here, alone."""
    expert_ids, experts = routing
    here = torch.rand(expert_ids.shape, generator=torch.Generator().manual_seed(seed)) < 0.5
    ids, copies = expert_ids.masked_fill(~here, PADDING), int(here.sum())
    permutation = sort_by_expert(ids, experts, copies)
    alone = sort_by_expert(expert_ids[here][:, None], experts)  # each copy as a token of its own
    assert torch.equal(permutation.offsets, alone.offsets)
    assert torch.equal(permutation.copy_to_row[here], alone.copy_to_row[:, 0])
    assert torch.all(permutation.copy_to_row[~here] == PADDING)
    numbers = torch.arange(ids.numel()).view_as(ids)[here]
    original = torch.cat([numbers, torch.tensor([PADDING])])[alone.row_to_copy]
    assert torch.equal(permutation.row_to_copy.long(), original)
    assert torch.equal(permutation.row_to_token.long(), original // max(1, ids.shape[1]))


def test_an_expert_that_does_not_exist_is_refused():
    with pytest.raises(InputError, match=r"0\.\.3"):
        sort_by_expert(torch.tensor([[0, 4]]), 4)
    with pytest.raises(InputError, match=r"0\.\.3, got -1"):
        sort_by_expert(torch.tensor([[0, PADDING]]), 4)
    with pytest.raises(InputError, match=r"-1\.\.3, got -2"):
        sort_by_expert(torch.tensor([[0, -2]]), 4, 1)


def test_a_wrong_number_of_copies_is_refused():
    with pytest.raises(InputError, match="2 ids are not -1, more than the 1"):
        sort_by_expert(torch.tensor([[0, PADDING, 3]]), 4, 1)


@pytest.mark.gpu
@pytest.mark.parametrize(
    ("tokens", "top_k", "experts"), [(1, 1, 1), (5, 3, 7), (777, 6, 64), (4096, 8, 8), (2000, 8, 256)]
)
@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
def test_the_kernel_gives_the_permutation_of_its_reference(tokens, top_k, experts, dtype):
    generator = torch.Generator().manual_seed(0)
    popularity = torch.arange(1, experts + 1).float() ** -2  # leaves some experts without tokens
    ids = torch.multinomial(popularity.expand(tokens, -1), top_k, replacement=True, generator=generator).to(dtype)
    expected, actual = _sort_by_expert(ids, experts), sort_by_expert(ids.cuda(), experts)
    for name in ("row_to_copy", "row_to_token", "copy_to_row", "offsets"):
        assert torch.equal(getattr(actual, name).cpu(), getattr(expected, name)), name
