"""A divided model does what the whole one does; its training is tested with the trainer."""

import pytest
import torch

from pauca.moe.training.fsdp import divide

from .smallest import fresh

PROMPT = torch.arange(12).view(2, 6)
CHOICE = {"count": 8, "temperature": 0.0}


def _generate(rank: int, ep: int) -> torch.Tensor:
    model = fresh().eval()
    divide(model, torch.device("cpu"), ep)
    return model.generate(PROMPT, **CHOICE)


@pytest.mark.parametrize("ep", [1, 2])
def test_a_divided_model_generates_as_the_whole_one(together, ep):
    whole = fresh().eval().generate(PROMPT, **CHOICE)
    for tokens in together(_generate, 2, ep):
        assert torch.equal(tokens, whole)
