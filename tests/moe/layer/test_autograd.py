"""The bank of experts against a plain loop over experts in float64, under every recipe."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import product

import pytest
import torch

from pauca.errors import InputError
from pauca.moe.layer.autograd import _check_arguments, _experts_forward, apply_experts
from pauca.moe.layer.call import ExpertCall
from pauca.moe.layer.kept import kept_bytes, kept_shapes
from pauca.moe.layer.permutation import sort_by_expert
from pauca.moe.layer.recipe import Recipe
from pauca.moe.layer.weights import prepare_weights
from pauca.moe.ops import products

TOKENS, TOP_K, EXPERTS, HIDDEN, WIDTH = 96, 3, 6, 128, 64
RECIPES = {
    "bf16": Recipe.bf16(),
    "fp8": Recipe.fp8(),
    "fp8, z in fp8": Recipe.fp8(kept_z="fp8"),
    "fp4": Recipe.fp4(),
    "fp4, z in fp8": Recipe.fp4(kept_z="fp8"),
    "fp4, z in bf16, FC2 input kept": Recipe.fp4(kept_z="bf16", keep_fc2_input=True),
}
# Relative error in the norm that rounding explains on Gaussian data. One rounding of an operand costs, root mean
# square, 0.17 % in BF16, 2.6 % in E4M3 and 11 % in MXFP4 (19 dB); an output passes one to three quantized operands that
# are not rounded away, a gradient up to five. A wrong index, a missing factor or a wrong scale costs 30 % and more.
BOUNDS = {"bf16": 0.01, "fp8": 0.1, "fp4": 0.28}
GRADIENTS = ("x", "gate_up", "down", "probabilities")


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(params=RECIPES.values(), ids=RECIPES.keys())
def recipe(request: pytest.FixtureRequest) -> Recipe:
    return request.param


def _problem(device: str, seed: int = 0) -> dict[str, torch.Tensor]:
    """A routing that leaves expert 4 without tokens and gives expert 0 one of every token's copies."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    others = torch.tensor([1, 2, 3, 5])[normal(TOKENS, 4).argsort(1)[:, : TOP_K - 1]]
    ids = torch.cat([torch.zeros(TOKENS, 1, dtype=torch.int64), others], 1)
    tensors = {
        "x": normal(TOKENS, HIDDEN).bfloat16(),
        "gate_up": (normal(EXPERTS, 2 * WIDTH, HIDDEN) * HIDDEN**-0.5).bfloat16(),
        "down": (normal(EXPERTS, HIDDEN, WIDTH) * WIDTH**-0.5).bfloat16(),
        "expert_ids": ids,
        "probabilities": normal(TOKENS, TOP_K).softmax(1),
        "dy": normal(TOKENS, HIDDEN).bfloat16(),
    }
    return {name: tensor.to(device) for name, tensor in tensors.items()}


def _run(
    problem: dict[str, torch.Tensor],
    recipe: Recipe,
    recompute: str = "none",
    prepared: Sequence[torch.Tensor] = (),
) -> dict[str, torch.Tensor]:
    """Output and gradients of the bank."""
    leaves = {name: problem[name].detach().requires_grad_() for name in GRADIENTS}
    y = apply_experts(
        leaves["x"], leaves["gate_up"], leaves["down"], problem["expert_ids"], leaves["probabilities"],
        recipe.to_json(), recompute, prepared,
    )  # fmt: skip
    y.backward(problem["dy"])
    return {"y": y.detach()} | {name: leaf.grad for name, leaf in leaves.items()}


def _loop_over_experts(problem: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    leaves = {name: problem[name].double().cpu().requires_grad_() for name in GRADIENTS}
    ids = problem["expert_ids"].cpu()
    y = torch.zeros_like(leaves["x"])
    for expert in range(EXPERTS):
        token, choice = torch.nonzero(ids == expert, as_tuple=True)
        gate, up = (leaves["x"][token] @ leaves["gate_up"][expert].t()).chunk(2, 1)
        out = (torch.nn.functional.silu(gate) * up) @ leaves["down"][expert].t()
        y = y.index_add(0, token, out * leaves["probabilities"][token, choice, None])
    y.backward(problem["dy"].double().cpu())
    return {"y": y.detach()} | {name: leaf.grad for name, leaf in leaves.items()}


def _relative_error(actual: torch.Tensor, exact: torch.Tensor) -> float:
    return float((actual.double().cpu() - exact).norm() / exact.norm())


@pytest.mark.parametrize("recompute", ["none", "activation", "experts"])
def test_output_and_gradients_are_those_of_a_float64_loop_within_the_rounding(recipe, recompute, device):
    problem = _problem(device)
    exact = _loop_over_experts(problem)
    for name, actual in _run(problem, recipe, recompute).items():
        assert _relative_error(actual, exact[name]) < BOUNDS[recipe.precision], name


def test_gradients_are_not_biased_by_quantizing(recipe, device):
    # The part of each gradient along the exact one. Rounding to nearest shrinks MXFP4 values by 1 % on average; the
    # router's gradient holds x and z twice each (gate and up), and so loses 4 %.
    problem = _problem(device)
    exact = _loop_over_experts(problem)
    for name, actual in _run(problem, recipe).items():
        slope = float((actual.double().cpu() * exact[name]).sum() / exact[name].square().sum())
        assert slope == pytest.approx(1, abs=0.08), name


def test_two_runs_give_the_same_bits(recipe, device):
    problem = _problem(device)
    first, second = _run(problem, recipe), _run(problem, recipe)
    for name in first:
        assert torch.equal(first[name], second[name]), name


@pytest.mark.parametrize("recipe", [Recipe.bf16(), Recipe.fp8()], ids=["bf16", "fp8"])
def test_recomputing_changes_no_bit_where_z_is_kept_in_bf16(recipe, device):
    problem = _problem(device)
    first = _run(problem, recipe)
    for recompute in ("activation", "experts"):
        second = _run(problem, recipe, recompute)
        for name in first:
            assert torch.equal(first[name], second[name]), (name, recompute)


def test_an_expert_without_tokens_gets_a_gradient_of_zeros(recipe, device):
    results = _run(_problem(device), recipe)
    assert not results["gate_up"][4].any()
    assert not results["down"][4].any()


def test_nothing_reads_memory_that_nothing_wrote(recipe, device):
    # Freed blocks full of NaN are what the next allocations get; the CPU products write NaN beyond the last group.
    problem = _problem(device)
    expected = _run(problem, recipe)
    poison = [torch.full((size,), float("nan"), device=device) for size in (2**k for k in range(6, 18)) for _ in "1234"]
    del poison
    actual = _run(problem, recipe)
    for name in expected:
        assert torch.equal(actual[name], expected[name]), name


def test_nan_in_a_token_is_nan_in_its_output_and_in_no_other(recipe, device):
    problem = _problem(device)
    problem["x"][7, 3] = float("nan")
    y = _run(problem, recipe)["y"]
    assert y[7].isnan().all()
    assert not y[torch.arange(TOKENS, device=device) != 7].isnan().any()


def test_nan_in_a_weight_is_nan_in_the_outputs_of_its_expert(recipe, device):
    problem = _problem(device)
    problem["gate_up"][2, 5, 9] = float("nan")
    y = _run(problem, recipe)["y"]
    visited = (problem["expert_ids"] == 2).any(1)
    assert y[visited].isnan().all()
    assert not y[~visited].isnan().any()


def test_nan_in_the_gradient_reaches_every_gradient(recipe, device):
    problem = _problem(device)
    problem["dy"][7, 3] = float("nan")
    results = _run(problem, recipe)
    assert results["x"][7].isnan().any()
    assert results["probabilities"][7].isnan().all()
    visited = problem["expert_ids"][7]
    assert results["gate_up"][visited].isnan().any((1, 2)).all()
    assert results["down"][visited].isnan().any((1, 2)).all()


@pytest.mark.parametrize("recompute", ["none", "activation", "experts"])
def test_backward_is_given_exactly_the_bytes_that_the_formula_says(recipe, recompute):
    problem, kept = _problem("cpu"), []
    leaf = problem["x"].requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        apply_experts(
            leaf, problem["gate_up"], problem["down"], problem["expert_ids"], problem["probabilities"],
            recipe.to_json(), recompute,
        )  # fmt: skip
    sizes = {"tokens": TOKENS, "top_k": TOP_K, "experts": EXPERTS, "hidden": HIDDEN, "width": WIDTH}
    assert sum(t.nbytes for t in kept if t.dtype == torch.uint8) == kept_bytes(recipe, recompute, **sizes)
    own_input = any(t.data_ptr() == leaf.data_ptr() for t in kept)
    assert own_input == (recipe.precision == "bf16" and recompute != "none")
    others = [t for t in kept if t.dtype != torch.uint8]
    routing = sum(t.nbytes for t in others if t.dtype == torch.int32)
    assert routing < 16 * (TOKENS * TOP_K + 15 * EXPERTS + EXPERTS)


def test_inference_keeps_nothing_and_gives_the_same_output(recipe):
    problem = _problem("cpu")
    expected = _run(problem, recipe)["y"]
    arguments = [problem[n] for n in ("x", "gate_up", "down", "expert_ids", "probabilities")]
    with torch.no_grad():
        assert torch.equal(apply_experts(*arguments, recipe.to_json()), expected)


def test_prepared_weights_change_no_bit(recipe):
    problem = _problem("cpu")
    prepared = [] if recipe.precision == "bf16" else prepare_weights(problem["gate_up"], problem["down"])
    expected, actual = _run(problem, recipe), _run(problem, recipe, prepared=prepared)
    for name in expected:
        assert torch.equal(actual[name], expected[name]), name


def test_fp32_master_weights_get_fp32_gradients(recipe):
    problem = _problem("cpu")
    expected = _run(problem, recipe)
    problem |= {name: problem[name].float() for name in ("gate_up", "down")}
    actual = _run(problem, recipe)
    for name in ("gate_up", "down"):
        assert actual[name].dtype == torch.float32
        torch.testing.assert_close(actual[name], expected[name].float(), rtol=0, atol=0)


def test_no_tokens_give_gradients_of_zeros(recipe):
    problem = _problem("cpu")
    for name in ("x", "expert_ids", "probabilities", "dy"):
        problem[name] = problem[name][:0]
    results = _run(problem, recipe)
    assert results["y"].shape == (0, HIDDEN)
    assert not results["gate_up"].any()
    assert not results["down"].any()


def test_stochastic_rounding_differs_from_run_to_run_and_is_right_on_average():
    problem, recipe = _problem("cpu"), replace(Recipe.fp4(), stochastic_rounding=True)
    exact = _loop_over_experts(problem)["y"]
    torch.manual_seed(0)
    runs = torch.stack([_run(problem, recipe)["y"].double() for _ in range(30)])
    assert not torch.equal(runs[0], runs[1])
    nearest = _relative_error(_run(problem, Recipe.fp4())["y"], exact)
    assert _relative_error(runs.mean(0), exact) < 0.7 * nearest


@pytest.mark.parametrize("frozen", [("gate_up",), ("down",), ("gate_up", "down"), ("x",), ("x", "gate_up", "down")])
@pytest.mark.parametrize("recompute", ["none", "experts"])
def test_gradients_that_nobody_wants_are_not_computed_and_the_others_are_the_same(
    recipe, recompute, frozen, monkeypatch
):
    problem, leaves = _problem("cpu"), {}
    expected = _run(problem, recipe, recompute)
    calls = []
    for name in ("rows_by_weights", "columns_by_columns", "fp8_rows_by_weights", "fp8_columns_by_columns"):
        original = getattr(products, name)
        monkeypatch.setattr(products, name, lambda *a, f=original, n=name: calls.append(n) or f(*a))
    leaves = {name: problem[name].detach().requires_grad_(name not in frozen) for name in GRADIENTS}
    y = apply_experts(
        leaves["x"], leaves["gate_up"], leaves["down"], problem["expert_ids"], leaves["probabilities"],
        recipe.to_json(), recompute,
    )  # fmt: skip
    calls.clear()
    y.backward(problem["dy"])
    for name, leaf in leaves.items():
        assert leaf.grad is None if name in frozen else torch.equal(leaf.grad, expected[name]), name
    weight_products = sum(name.endswith("columns_by_columns") for name in calls)
    assert weight_products == 2 - len({"gate_up", "down"} & set(frozen))
    assert len(calls) - weight_products == 2 - ("x" in frozen) + (recompute == "experts")


@pytest.mark.parametrize(("precision", "recompute"), list(product(["bf16", "fp8", "fp4"], ["none", "experts"])))
def test_the_operations_describe_themselves_truly_to_torch(precision, recompute):
    # Shapes and dtypes of the fake implementations, no aliasing, no mutation.
    problem, recipe = _problem("cpu"), getattr(Recipe, precision)()
    permutation = sort_by_expert(problem["expert_ids"], EXPERTS)
    weights = problem["gate_up"], problem["down"], problem["probabilities"]
    call = ExpertCall(*weights, permutation, [], recipe.to_json(), recompute)
    arguments = problem["x"], call.tensors(), recipe.to_json(), recompute, True, ""
    torch.library.opcheck(_experts_forward, arguments, test_utils=("test_schema", "test_faketensor"))
    _, kept = _experts_forward(*arguments)
    shapes = kept_shapes(recipe, recompute, TOKENS, len(permutation.row_to_copy), EXPERTS, HIDDEN, WIDTH)
    assert [tuple(t.shape) for t in kept] == shapes


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("gate_up", lambda t: t[:, :, :-32], "do not fit together"),
        ("down", lambda t: t[0], "matrices per expert"),
        ("down", lambda t: t.double(), "weights must be bfloat16 or float32, got torch.bfloat16 and torch.float64"),
        ("expert_ids", lambda t: t[1:], f"for {TOKENS} tokens, got .{TOKENS - 1}, {TOP_K}. and .{TOKENS}, {TOP_K}."),
        ("probabilities", lambda t: t[:, 1:], "must both be"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(name, change, message):
    problem = _problem("cpu")
    problem[name] = change(problem[name])
    arguments = [problem[n] for n in ("x", "gate_up", "down", "expert_ids", "probabilities")]
    # Below the type checks of the test suite, as a user meets it.
    with pytest.raises(InputError, match=message):
        _check_arguments(*arguments)


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["bf16", "fp8", "fp4"])
def test_a_cuda_graph_replays_forward_and_backward(precision):
    problem, recipe = _problem("cuda"), getattr(Recipe, precision)()
    static = {name: tensor.clone() for name, tensor in problem.items()}
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        _run(static, recipe)  # compiles kernels, which a capture must not
    stream.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = _run(static, recipe)
    other = _problem("cuda", seed=1)
    for name, tensor in other.items():
        static[name].copy_(tensor)
    graph.replay()
    torch.cuda.synchronize()
    expected = _run(other, recipe)
    for name in expected:
        assert torch.equal(captured[name], expected[name]), name
