"""Experts divided over gloo processes against the same experts in one."""

import re
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import pytest
import torch
from torch import distributed as dist
from torch.distributed.device_mesh import init_device_mesh

from pauca.errors import PaucaError
from pauca.moe.layer import passes
from pauca.moe.layer.call import ExpertCall
from pauca.moe.layer.experts import Experts
from pauca.moe.layer.kept import kept_shapes
from pauca.moe.layer.moe import MoE
from pauca.moe.layer.passes import Wanted
from pauca.moe.layer.permutation import PADDING, row_bound, sort_by_expert
from pauca.moe.layer.recipe import Recipe
from pauca.moe.parallel import exchange as exchange_module
from pauca.moe.parallel.experts import divide_banks
from pauca.moe.parallel.model import parallelize
from pauca.moe.parallel.wire import wire_bytes

HIDDEN, WIDTH, EXPERTS, TOP_K = 64, 32, 8, 3


@dataclass(frozen=True)
class Case:
    recipe: Recipe
    tokens: tuple[int, ...] = (23, 40)  # of each rank
    popular: tuple[int, ...] = tuple(range(EXPERTS))  # experts that are visited
    recompute: str = "none"
    dispatch: str | None = None
    bounded: bool = False


RECIPES = {
    "bf16": Recipe.bf16(),
    "fp8": Recipe.fp8(),
    "fp4": Recipe.fp4(),
    "fp4, FC2 input kept": Recipe.fp4(kept_z="bf16", keep_fc2_input=True),
}
CASES = {
    **{f"{name}, {recompute}": Case(recipe, recompute=recompute)
       for name, recipe in RECIPES.items() for recompute in ("none", "activation", "experts")},
    **{f"{name}, a rank without tokens": Case(recipe, (40, 0)) for name, recipe in RECIPES.items()},
    **{f"{name}, a rank that nobody visits": Case(recipe, popular=(4, 5, 7)) for name, recipe in RECIPES.items()},
    **{f"{name}, no tokens at all": Case(recipe, (0, 0)) for name, recipe in RECIPES.items()},
    "fp8, sent in bf16": Case(Recipe.fp8(), dispatch="bf16"),
    "fp4, sent in bf16": Case(Recipe.fp4(), dispatch="bf16"),
    "fp4, sent in fp8": Case(Recipe.fp4(), dispatch="fp8"),
}  # fmt: skip
WIDE_CASES = {
    name: Case(recipe, (17, 0, 40, 5), popular=(0, 1, 2, 6, 7)) for name, recipe in RECIPES.items()
}  # four ranks: one without tokens, one that nobody visits


def _bank(case: Case) -> Experts:
    torch.manual_seed(0)
    return Experts(HIDDEN, WIDTH, EXPERTS, case.recipe, case.recompute)


def _problem(case: Case) -> dict[str, torch.Tensor]:
    """Of all ranks' tokens, one rank after the other."""
    generator, tokens = torch.Generator().manual_seed(1), sum(case.tokens)
    order = torch.rand(tokens, len(case.popular), generator=generator).argsort(1)[:, :TOP_K]
    return {
        "x": torch.randn(tokens, HIDDEN, generator=generator).bfloat16(),
        "ids": torch.tensor(case.popular)[order],
        "probabilities": torch.randn(tokens, TOP_K, generator=generator).softmax(1),
        "dy": torch.randn(tokens, HIDDEN, generator=generator).bfloat16(),
    }


def _run(bank: Experts, problem: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    x, probabilities = (problem[name].clone().requires_grad_() for name in ("x", "probabilities"))
    y = bank(x, problem["ids"], probabilities)
    y.backward(problem["dy"])
    results = {"y": y.detach(), "x": x.grad, "probabilities": probabilities.grad}
    return results | {"gate_up": bank.gate_up.grad, "down": bank.down.grad}


def _count_bytes(log: list[tuple[str, int]]) -> None:
    """Log what leaves this process, from now on."""
    original = dist.all_to_all_single

    def counted(output, input, output_split_sizes=None, input_split_sizes=None, **options):
        here, world = dist.get_rank(), dist.get_world_size()
        splits = input_split_sizes or [len(input) // world] * world
        log.append((str(input.dtype), (sum(splits) - splits[here]) * input[:1].nbytes))
        return original(output, input, output_split_sizes, input_split_sizes, **options)

    exchange_module.dist.all_to_all_single = counted


def _divided(rank: int, cases: dict[str, Case]) -> dict[str, Any]:
    mesh = init_device_mesh("cpu", (dist.get_world_size(),), mesh_dim_names=("ep",))
    log: list[tuple[str, int]] = []
    _count_bytes(log)
    results = {}
    for name, case in cases.items():
        own = slice(sum(case.tokens[:rank]), sum(case.tokens[: rank + 1]))
        (bank,) = divide_banks({"": _bank(case)}, mesh, case.dispatch)
        bank.bounded = case.bounded
        log.clear()
        kept: list[torch.Tensor] = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t, kept=kept: kept.append(t) or t, lambda t: t):
            outputs = _run(bank, {k: t[own] for k, t in _problem(case).items()})
        stored = sum(tensor.nbytes for tensor in kept if tensor.dtype == torch.uint8)
        results[name] = outputs | {"sent": list(log), "stored": stored}
    return results


@pytest.fixture(scope="module")
def of_two(together) -> list[dict[str, Any]]:
    return together(_divided, 2, CASES)


def _joined(ranks: list[dict[str, Any]], name: str) -> dict[str, torch.Tensor]:
    parts = [results[name] for results in ranks]
    return {key: torch.cat([part[key] for part in parts]) for key in parts[0] if key not in ("sent", "stored")}


def _of_one_process(case: Case, world: int) -> dict[str, torch.Tensor]:
    """In one process, with the one rounding more that the ranks make: each rank's sum for a token, in BF16."""
    bank, problem, each = _bank(case), _problem(case), EXPERTS // world
    x = problem["x"]
    if case.dispatch == "fp8":
        from pauca.moe import ops

        x = ops.quantize_fp8_rowwise(x)
    sums = {name: torch.zeros(len(problem["x"]), HIDDEN) for name in ("y", "x")}
    weights: dict[str, list[torch.Tensor]] = {"gate_up": [], "down": []}
    d_probabilities = torch.zeros_like(problem["probabilities"])
    for rank in reversed(range(world)):
        own = slice(rank * each, (rank + 1) * each)
        ids = problem["ids"] - own.start
        ids = ids.masked_fill((ids < 0) | (ids >= each), PADDING)
        permutation = sort_by_expert(ids, each, int((ids != PADDING).sum()))
        gate_up, down = bank.gate_up.detach()[own], bank.down.detach()[own]
        part = ExpertCall(
            gate_up, down, problem["probabilities"], permutation, [], case.recipe.to_json(), case.recompute
        )
        y, kept = passes.forward(part, x)
        own_input = problem["x"] if case.recipe.precision == "bf16" and case.recompute != "none" else None
        gradients = passes.backward(part, problem["dy"], kept, own_input, Wanted(True, True, True))
        sums["y"] += y.float()
        sums["x"] += gradients.x.float()
        here = permutation.copy_to_row != PADDING
        d_probabilities[here] = gradients.row_probability[permutation.copy_to_row[here]]
        weights["gate_up"].insert(0, gradients.gate_up.float())
        weights["down"].insert(0, gradients.down.float())
    return {name: total.bfloat16() for name, total in sums.items()} | {
        "probabilities": d_probabilities,
        **{name: torch.cat(parts) for name, parts in weights.items()},
    }


@pytest.mark.parametrize("name", CASES)
def test_two_ranks_compute_the_bits_of_one_process_but_for_each_ranks_sum_in_bf16(name, of_two):
    expected = _of_one_process(CASES[name], 2)
    for key, actual in _joined(of_two, name).items():
        assert torch.equal(actual, expected[key]), key


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.dispatch != "fp8"])
def test_that_rounding_is_all_that_differs_from_the_bank_in_one_process(name, of_two):
    """And it touches only tokens whose experts are on both ranks: relative 2^-9 of a part, twice."""
    case, actual = CASES[name], _joined(of_two, name)
    expected, problem = _run(_bank(case), _problem(case)), _problem(case)
    for key in ("probabilities", "gate_up", "down"):
        assert torch.equal(actual[key], expected[key]), key
    visited = problem["ids"] // (EXPERTS // 2)
    one_rank = (visited == visited[:, :1]).all(1)
    for key in ("y", "x"):
        assert torch.equal(actual[key][one_rank], expected[key][one_rank]), key
        assert (actual[key] - expected[key]).float().norm() <= 2**-8 * expected[key].float().norm(), key


def test_how_tokens_travel_changes_no_bit_if_they_are_quantized_once(of_two):
    for own, sent in (("fp8, none", "fp8, sent in bf16"), ("fp4, none", "fp4, sent in bf16")):
        for key, tensor in _joined(of_two, own).items():
            assert torch.equal(tensor, _joined(of_two, sent)[key]), key


@pytest.mark.parametrize("name", CASES)
def test_the_bytes_on_the_wire_are_those_of_the_formula(name, of_two):
    case, problem, world = CASES[name], _problem(CASES[name]), 2
    row = wire_bytes(case.recipe, HIDDEN, TOP_K, case.dispatch)
    visits = torch.zeros(len(problem["x"]), world, dtype=torch.bool)
    visits.scatter_(1, problem["ids"] // (EXPERTS // world), True)
    for rank, results in enumerate(of_two):
        own = slice(sum(case.tokens[:rank]), sum(case.tokens[: rank + 1]))
        leaving = int(visits[own, 1 - rank].sum())  # once for each rank, not for each copy
        arriving = int(visits[:, rank].sum() - visits[own, rank].sum())
        counts = 3 * 8 * (world - 1)
        forward = leaving * (row.tokens + row.routing) + arriving * row.outputs
        backward = leaving * row.output_gradients + arriving * (row.input_gradients + row.routing_gradients)
        assert sum(size for _, size in results[name]["sent"]) == counts + forward + backward


@pytest.mark.parametrize("name", CASES)
def test_a_rank_keeps_what_the_formula_says_of_the_tokens_that_arrive_once_each(name, of_two):
    case, ids, each = CASES[name], _problem(CASES[name])["ids"], EXPERTS // 2
    for rank, results in enumerate(of_two):
        here = ids // each == rank
        tokens, rows = int(here.any(1).sum()), row_bound(int(here.sum()), each)
        shapes = kept_shapes(case.recipe, case.recompute, tokens, rows, each, HIDDEN, WIDTH) if tokens else []
        assert results[name]["stored"] == sum(prod(shape) for shape in shapes)


def test_four_ranks_compute_the_bits_of_one_process_but_for_each_ranks_sum_in_bf16(together):
    ranks = together(_divided, 4, WIDE_CASES)
    for name, case in WIDE_CASES.items():
        expected = _of_one_process(case, 4)
        for key, actual in _joined(ranks, name).items():
            assert torch.equal(actual, expected[key]), (name, key)


@pytest.mark.parametrize("world", [2, 4])
def test_tokens_that_all_travel_to_all_ranks_give_the_same_bits_and_ask_no_counts(together, world):
    popular = (0, 1, 2, 6, 7)  # of four ranks one is visited by nobody
    cases = {name: Case(recipe, (12,) * world, popular, bounded=True) for name, recipe in RECIPES.items()}
    ranks = together(_divided, world, cases)
    for name, case in cases.items():
        expected = _of_one_process(case, world)
        for key, actual in _joined(ranks, name).items():
            assert torch.equal(actual, expected[key]), (name, key)
        assert all(kind != "torch.int64" for result in ranks for kind, _ in result[name]["sent"])


def _unequal(rank: int, tokens: tuple[int, ...], frozen: int | None) -> str:
    mesh = init_device_mesh("cpu", (len(tokens),), mesh_dim_names=("ep",))
    (bank,) = divide_banks({"": _bank(Case(Recipe.fp4()))}, mesh)
    bank.bounded = True
    bank.requires_grad_(rank != frozen)
    problem = _problem(Case(Recipe.fp4(), tokens))
    own = slice(sum(tokens[:rank]), sum(tokens[: rank + 1]))
    try:
        _run(bank, {name: tensor[own] for name, tensor in problem.items()})
    except PaucaError as error:
        return str(error)
    return ""


def test_ranks_with_different_numbers_of_tokens_say_so_where_all_must_have_as_many(together):
    for line in together(_unequal, 4, (12, 12, 11, 12), None):
        assert "the ranks have 12, 12, 11, 12 tokens" in line
        assert "pad the shorter batches" in line
    assert all(
        re.search(r"rank\(s\) .* run another layer, recipe or mode", line) for line in together(_unequal, 2, (8, 8), 1)
    )
    assert together(_unequal, 2, (8, 8), None) == ["", ""]


def test_experts_that_rotate_their_input_send_it_rotated(together):
    case = Case(replace(Recipe.fp4(), rotate=True))
    actual, expected = _joined(together(_divided, 2, {"rotated": case}), "rotated"), _run(_bank(case), _problem(case))
    assert torch.equal(actual["gate_up"], expected["gate_up"])
    for key, wanted in expected.items():
        assert (actual[key] - wanted).float().norm() <= 2**-8 * wanted.float().norm(), key


def _in_order(rank: int, overlap: bool) -> tuple[list[str], torch.Tensor]:
    torch.manual_seed(0)
    layer = MoE(HIDDEN, WIDTH, EXPERTS, TOP_K, shared_experts=1, recipe=Recipe.fp4())
    parallelize(layer, init_device_mesh("cpu", (2,), mesh_dim_names=("ep",)), overlap=overlap)
    events, arrive = [], exchange_module.Journey.arrive
    exchange_module.Journey.arrive = lambda journey: events.append("tokens arrive") or arrive(journey)
    layer.shared.register_forward_hook(lambda *_: events.append("shared experts"))
    y = layer(torch.randn(20, HIDDEN, generator=torch.Generator().manual_seed(rank)))
    return list(dict.fromkeys(events)), y.detach()


def test_shared_experts_are_computed_while_tokens_travel(together):
    beside, after = together(_in_order, 2, True), together(_in_order, 2, False)
    for rank in range(2):
        assert beside[rank][0] == ["shared experts", "tokens arrive"]
        assert after[rank][0] == ["tokens arrive", "shared experts"]
        assert torch.equal(beside[rank][1], after[rank][1])


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["bf16", "fp8", "fp4"])
def test_one_gpu_by_itself_exchanges_with_nobody_and_changes_no_bit(precision):
    """Through NCCL and the side stream of the shared experts, three times over the same memory."""
    torch.manual_seed(0)
    layer = MoE(256, 128, 8, 3, shared_experts=1, recipe=getattr(Recipe, precision)()).cuda()
    x, dy = (torch.randn(500, 256, device="cuda", dtype=torch.bfloat16) for _ in range(2))

    def run() -> list[torch.Tensor]:
        leaf = x.clone().requires_grad_()
        y = layer(leaf)
        y.backward(dy)
        gradients = [leaf.grad, *(parameter.grad for parameter in layer.parameters())]
        layer.zero_grad()
        return [y.detach(), *gradients]

    expected = run()
    dist.init_process_group("nccl", store=dist.HashStore(), rank=0, world_size=1)
    try:
        parallelize(layer, init_device_mesh("cuda", (1,), mesh_dim_names=("ep",)))
        for _ in range(3):
            for actual, wanted in zip(run(), expected, strict=True):
                assert torch.equal(actual, wanted)
    finally:
        dist.destroy_process_group()
