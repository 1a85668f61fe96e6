"""Muon: its steps are torch's, part by part and expert by expert; several ranks step as one does."""

import copy
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from pauca.errors import PaucaError
from pauca.moe import Recipe, TokenData, TrainConfig
from pauca.moe.training.muon import Muon, orthogonalized, parts_of
from pauca.moe.training.trainer import Trainer
from pauca.runs import from_dict

from .smallest import CONFIG, MODEL, fresh, text


@pytest.mark.parametrize("shape", [(24, 24), (48, 16), (16, 48), (3, 48, 16)])
def test_singular_values_come_near_one(shape):
    torch.manual_seed(0)
    values = torch.linalg.svdvals(orthogonalized(torch.randn(shape)).float())
    assert values.min() > 0.5
    assert values.max() < 1.3


def test_zeros_stay_zeros():
    assert not orthogonalized(torch.zeros(2, 4, 8)).any()


@pytest.mark.parametrize("parts", [(8,), (4, 4), (5, 2, 1)])
def test_each_part_of_each_expert_steps_as_torchs_muon_does(parts):
    torch.manual_seed(0)
    weight = nn.Parameter(torch.randn(3, 8, 6))
    parents = [nn.Parameter(piece.clone()) for expert in weight.detach() for piece in expert.split(parts)]
    ours = Muon([{"params": [weight], "parts": parts, "weight_decay": 0.1}], lr=0.01)
    theirs = torch.optim.Muon(parents, lr=0.01, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    for _ in range(3):
        weight.grad = torch.randn_like(weight)
        for parent, piece in zip(
            parents, [piece for expert in weight.grad for piece in expert.split(parts)], strict=True
        ):
            parent.grad = piece.clone()
        before = weight.detach().clone()
        ours.step()
        theirs.step()
        expected = torch.stack(list(torch.cat(list(map(Tensor.detach, parents))).split(8)))
        # BF16 in both, rounded at other places.
        assert (weight - expected).norm() < 0.05 * (expected - before).norm()


def test_all_else_steps_as_adamw_does():
    torch.manual_seed(0)
    pairs = [nn.Parameter(torch.ones(4)) for _ in range(2)]
    matrix = nn.Parameter(torch.ones(2, 2))
    ours = Muon([{"params": [matrix], "parts": (2,)}, {"params": pairs[:1]}], lr=0.1)
    theirs = torch.optim.AdamW(pairs[1:], lr=0.1)
    for _ in range(3):
        gradient = torch.randn(4)
        for parameter in pairs:
            parameter.grad = gradient.clone()
        ours.step()
        theirs.step()
    assert torch.equal(*pairs)
    assert torch.equal(matrix, torch.ones(2, 2))  # had no gradient
    assert len(ours.param_groups) == 2


def test_attention_and_experts_step_by_muon_and_nothing_else():
    model = fresh(replace(MODEL, dense_layers=1, dense_width=64))
    names = {name for name, weight in model.named_parameters() if weight in parts_of(model)}
    rest = {name for name, _ in model.named_parameters()} - names
    assert {name.rsplit(".", 1)[-1] for name in names} == {"weight", "gate_up", "down"}
    assert all(".attention." in name or ".experts." in name or ".shared." in name for name in names), names
    assert all("norm" in name or "router" in name or name in ("embedding.weight", "head.weight") for name in rest), rest
    for weight, parts in parts_of(model).items():
        assert sum(parts) == weight.shape[-2]


def test_muon_learns(tmp_path):
    config = replace(CONFIG, steps=60, learning_rate=1e-2, optimizer="muon")
    trainer = Trainer(fresh(), text(tmp_path), config)
    losses = [trainer.step().cross_entropy for _ in range(25)]
    assert sum(losses[-5:]) < 0.65 * sum(losses[:5])


def test_a_state_goes_on_bit_for_bit(tmp_path):
    data, config = text(tmp_path), replace(CONFIG, optimizer="muon")
    first, second = (Trainer(fresh(), data, config) for _ in range(2))
    for _ in range(3):
        first.step()
    second.load_state(copy.deepcopy(first.state()))  # not the very tensors that the first goes on with
    for _ in range(2):
        assert first.step() == second.step()


def _step(rank: int, data: TokenData, ep: int) -> dict[str, Tensor]:
    config = replace(CONFIG, optimizer="muon", ep=ep)
    trainer = Trainer(fresh(replace(MODEL, recipe=Recipe.bf16())), data, config)
    for _ in range(2):
        trainer.step()
    return trainer.weights()


@pytest.mark.parametrize(("ranks", "ep"), [(2, 1), (2, 2), (4, 2)])
def test_ranks_step_as_one_process_does(tmp_path, together, ranks, ep):
    data = text(tmp_path)
    expected, start = _step(0, data, 1), fresh(MODEL).state_dict()
    found = together(_step, ranks, data, ep, only=0)[0]
    for name, weight in expected.items():
        # Ranks add gradients in another order, and Muon lengthens the shortest directions to the size of the longest;
        # a rank that made its own rows orthogonal alone would be wrong by as much as the step is long.
        moved = (weight - start[name]).norm()
        assert (found[name] - weight).norm() <= 0.3 * moved, name


def test_an_unknown_optimizer_is_refused():
    with pytest.raises(PaucaError, match="optimizer"):
        from_dict(TrainConfig, {"optimizer": "sgd"})
