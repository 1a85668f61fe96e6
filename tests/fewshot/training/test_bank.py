"""The contrast of views, and the bank that it is made against."""

import torch
from torch.nn import functional as F

from pauca.fewshot.training.bank import ContrastBank, contrast


def unit(*shape: int, seed: int = 0) -> torch.Tensor:
    return F.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)), dim=-1)


def test_contrast_is_the_cross_entropy_of_finding_the_first_view():
    views, others = unit(3, 4, 8), unit(10, 8, seed=1)
    expected = []
    for image in views:
        for view in image[1:]:
            logits = torch.cat([image[:1] @ view, others @ view]) / 0.5
            expected.append(F.cross_entropy(logits[None], torch.tensor([0])))
    torch.testing.assert_close(contrast(views, others, temperature=0.5), torch.stack(expected).mean())


def test_the_bank_moves_what_was_seen_and_nothing_else():
    bank = ContrastBank(6, 8, move=0.25)
    before, seen = bank.rows.clone(), unit(2, 8)
    bank.remember(torch.tensor([4, 1]), seen)
    torch.testing.assert_close(bank.rows[[4, 1]], F.normalize(0.75 * before[[4, 1]] + 0.25 * seen, dim=1))
    torch.testing.assert_close(bank.rows[[0, 2, 3, 5]], before[[0, 2, 3, 5]])
    torch.testing.assert_close(bank.rows.norm(dim=1), torch.ones(6))
    assert bank.draw(100).shape == (100, 8)
