"""Padding changes neither balance, load, loss nor what is generated, and documents do not see each other."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from pauca.errors import InputError
from pauca.moe import LMConfig, MoE, MoELM, Recipe, Recomputation, RouterConfig
from pauca.moe.models.cross_entropy import chunked_cross_entropy

LENGTHS = (3, 9, 6)


def _model(**options) -> MoELM:
    torch.manual_seed(0)
    return MoELM(LMConfig(layers=2, recipe=Recipe.bf16(), **options))


def _padded(left: bool) -> tuple[list[Tensor], Tensor, Tensor]:
    """Sequences, the same in one batch, and where that is no padding."""
    generator = torch.Generator().manual_seed(1)
    rows = [torch.randint(256, (length,), generator=generator) for length in LENGTHS]
    longest = max(LENGTHS)
    batch, mask = torch.zeros(len(rows), longest, dtype=torch.int64), torch.zeros(len(rows), longest, dtype=torch.bool)
    for number, row in enumerate(rows):
        place = slice(longest - len(row), longest) if left else slice(len(row))
        batch[number, place], mask[number, place] = row, True
    return rows, batch, mask


@pytest.mark.parametrize("scoring", ["softmax", "sigmoid"])
def test_padding_counts_neither_in_the_balancing_loss_nor_in_the_load(scoring):
    torch.manual_seed(0)
    layer = MoE(64, 32, 8, 2, router=RouterConfig(scoring=scoring))
    tokens, padding = torch.randn(20, 64), torch.randn(1, 64).expand(30, 64)
    y = layer(tokens)
    balance, load = layer.auxiliary_loss, layer.router.load.clone()
    layer.router.load.zero_()
    mask = torch.arange(50) < 20
    padded = layer(torch.cat([tokens, padding]), mask)
    torch.testing.assert_close(layer.auxiliary_loss, balance)
    assert torch.equal(layer.router.load, load)
    assert torch.equal(padded[:20], y)
    layer(torch.cat([tokens, padding]))
    assert layer.auxiliary_loss > 1.1 * balance  # what padding does that counts


def test_a_batch_of_nothing_but_padding_is_no_trouble():
    layer = MoE(64, 32, 8, 2)
    y = layer(torch.randn(4, 64), torch.zeros(4, dtype=torch.bool))
    (y.sum() + layer.auxiliary_loss).backward()
    assert layer.auxiliary_loss == 0
    assert not layer.router.load.any()


def test_a_mask_that_does_not_fit_is_refused():
    layer = MoE(64, 32, 8, 2)
    for mask in (torch.ones(5, dtype=torch.bool), torch.ones(4)):
        with pytest.raises(InputError, match="mask"):
            layer(torch.randn(4, 64), mask)


def test_ignored_targets_count_neither_in_the_loss_nor_in_its_gradient():
    torch.manual_seed(0)
    hidden, weight = torch.randn(50, 16, requires_grad=True), torch.randn(40, 16, requires_grad=True)
    targets = torch.randint(40, (50,))
    targets[::3] = -100
    expected = F.cross_entropy(hidden @ weight.T, targets)
    wanted = torch.autograd.grad(3 * expected, (hidden, weight))
    found = chunked_cross_entropy(hidden, weight, targets)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(torch.autograd.grad(3 * found, (hidden, weight)), wanted)
    with torch.no_grad():
        torch.testing.assert_close(chunked_cross_entropy(hidden, weight, targets), expected)
    nothing = chunked_cross_entropy(hidden, weight, torch.full_like(targets, -100))
    assert nothing == 0
    assert not torch.autograd.grad(nothing, hidden)[0].any()


@pytest.mark.parametrize("left", [False, True], ids=["on the right", "on the left"])
def test_the_loss_of_padded_sequences_is_the_mean_over_their_own_tokens(left):
    rows, batch, mask = _padded(left)
    model = _model()
    targets = torch.where(mask, batch.roll(-1, 1), -100)
    targets[~mask.roll(-1, 1)] = -100
    targets[:, -1] = -100
    losses = model.loss(batch, targets, mask)
    each = [model.loss(row[None, :-1], row[None, 1:]).cross_entropy * (len(row) - 1) for row in rows]
    torch.testing.assert_close(losses.cross_entropy, sum(each) / sum(len(row) - 1 for row in rows), rtol=2e-3, atol=0)
    # Of all layers' inputs: the same tokens and no others are balanced.
    model.loss(torch.cat(rows)[None], torch.cat(rows)[None], documents=_documents())
    together = [block.feed_forward.auxiliary_loss for block in model.blocks]
    model.loss(batch, targets, mask)
    apart = [block.feed_forward.auxiliary_loss for block in model.blocks]
    torch.testing.assert_close(torch.stack(apart), torch.stack(together), rtol=0.02, atol=0)


def _documents() -> Tensor:
    return torch.repeat_interleave(torch.arange(len(LENGTHS)), torch.tensor(LENGTHS))[None]


def test_documents_in_one_window_do_not_see_each_other():
    rows, _, _ = _padded(False)
    model = _model().eval()
    together = model(torch.cat(rows)[None], documents=_documents())[0]
    apart = torch.cat([model(row[None])[0] for row in rows])
    torch.testing.assert_close(together, apart, atol=0.06, rtol=0.02)
    mixed = model(torch.cat(rows)[None])[0]
    assert (mixed - apart)[LENGTHS[0] :].abs().max() > 0.5


def test_prompts_of_unequal_length_continue_as_each_does_alone():
    rows, batch, mask = _padded(left=True)
    model = _model().eval()
    tokens = model.generate(batch, 12, temperature=0.0, mask=mask)
    assert torch.equal(tokens[:, : batch.shape[1]], batch)
    for number, row in enumerate(rows):
        alone = torch.cat([row, tokens[number, batch.shape[1] :]])[None]
        logits = model(alone[:, :-1])[:, len(row) - 1 :]
        chosen = logits.gather(-1, alone[:, len(row) :, None])[..., 0]
        assert (logits.amax(-1) - chosen).max() < 0.05  # but for rounding, the likeliest


def test_prompts_that_end_in_padding_are_refused():
    _, batch, mask = _padded(left=False)
    with pytest.raises(InputError, match="left"):
        _model().generate(batch, 3, mask=mask)


def test_recomputed_attention_sees_the_same_tokens():
    _, batch, mask = _padded(left=True)
    gradients = []
    for recompute in (Recomputation(), Recomputation(norms=True, attention=True, experts="activation")):
        model = _model(recompute=recompute)
        model.loss(batch, batch, mask).total.backward()
        gradients.append(model.embedding.weight.grad)
    assert torch.equal(*gradients)
