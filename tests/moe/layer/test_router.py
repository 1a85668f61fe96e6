import pytest
import torch

from pauca.errors import ConfigError
from pauca.moe.layer.router import Router, RouterConfig


def _router(seed: int = 0, hidden: int = 16, experts: int = 8, top_k: int = 2, **options) -> Router:
    torch.manual_seed(seed)
    return Router(hidden, experts, top_k, RouterConfig(**options))


def test_softmax_normalized_is_softmax_over_the_chosen_logits():
    # Mixtral's definition: softmax over the top-k logits alone.
    router, x = _router(), torch.randn(50, 16)
    routing = router(x)
    logits = x @ router.weight.t()
    best, ids = logits.topk(2, -1)
    assert torch.equal(routing.expert_ids.sort(-1).values, ids.sort(-1).values)
    expected = torch.zeros(50, 8).scatter(1, ids, best.softmax(-1))
    actual = torch.zeros(50, 8).scatter(1, routing.expert_ids, routing.probabilities)
    torch.testing.assert_close(actual, expected)


def test_sigmoid_weights_come_from_the_scores_and_the_choice_from_scores_and_bias():
    router, x = _router(scoring="sigmoid", scale=2.5), torch.randn(50, 16)
    router.bias[3] = 10.0
    routing = router(x)
    assert (routing.expert_ids == 3).any(-1).all()
    torch.testing.assert_close(routing.probabilities.sum(-1), torch.full((50,), 2.5))
    scores = (x @ router.weight.t()).sigmoid().gather(1, routing.expert_ids)
    torch.testing.assert_close(routing.probabilities, 2.5 * scores / scores.sum(-1, keepdim=True))


def test_without_normalizing_the_weights_are_the_scores():
    router, x = _router(normalize=False), torch.randn(50, 16)
    routing = router(x)
    scores = (x @ router.weight.t()).softmax(-1)
    torch.testing.assert_close(routing.probabilities, scores.gather(1, routing.expert_ids))


def test_the_router_computes_in_fp32_and_keeps_x_in_its_own_dtype():
    router, x = _router(), torch.randn(50, 16).bfloat16().requires_grad_()
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        routing = router(x)
    assert routing.probabilities.dtype == torch.float32
    assert [t.dtype for t in kept if t.shape == x.shape] == [torch.bfloat16]
    expected = (x.float() @ router.weight.t()).softmax(-1).gather(1, routing.expert_ids)
    torch.testing.assert_close(routing.probabilities, expected / expected.sum(-1, keepdim=True))


def test_gradients_are_those_of_the_plain_formula():
    router, x = _router(normalize=True), torch.randn(20, 16, requires_grad=True)
    routing = router(x)
    weights = torch.randn_like(routing.probabilities)
    (routing.probabilities * weights).sum().backward()
    gradients = x.grad.clone(), router.weight.grad.clone()
    x.grad = router.weight.grad = None
    plain = (x @ router.weight.t()).softmax(-1).gather(1, routing.expert_ids)
    (plain / plain.sum(-1, keepdim=True) * weights).sum().backward()
    torch.testing.assert_close(gradients, (x.grad, router.weight.grad))


def test_groups_limit_the_choice():
    router = _router(experts=16, top_k=3, scoring="sigmoid", groups=4, top_groups=2)
    ids = router(torch.randn(200, 16)).expert_ids
    groups = ids // 4
    assert max(len(set(row)) for row in groups.tolist()) == 2
    assert all(len(set(row)) == 3 for row in ids.tolist())


def test_the_best_two_of_a_group_decide_under_sigmoid_and_the_best_one_under_softmax():
    logits = torch.tensor([[3.0, -9.0, 2.0, 2.0]])  # group 0 has the best expert, group 1 the best pair
    for scoring, group in (("sigmoid", 1), ("softmax", 0)):
        router = _router(hidden=4, experts=4, top_k=1, scoring=scoring, groups=2, top_groups=1)
        router.weight.data = torch.diag(logits[0])
        assert int(router(torch.ones(1, 4)).expert_ids[0, 0]) // 2 == group


def test_auxiliary_loss_is_one_when_balanced_and_the_number_of_experts_when_collapsed():
    router = _router(hidden=8, top_k=1, normalize=False)
    router.weight.data = 50 * torch.eye(8)
    assert router(torch.eye(8)).auxiliary_loss.item() == pytest.approx(1.0, abs=1e-5)
    assert router(torch.eye(8)[:1].repeat(9, 1)).auxiliary_loss.item() == pytest.approx(8.0, abs=1e-5)


def test_auxiliary_loss_pushes_towards_balance():
    router, x = _router(), torch.randn(256, 16) + 1.0
    optimizer = torch.optim.SGD(router.parameters(), lr=0.5)
    first = router(x).auxiliary_loss.item()
    for _ in range(100):
        optimizer.zero_grad()
        router(x).auxiliary_loss.backward()
        optimizer.step()
    last = router(x).auxiliary_loss.item()
    assert last - 1 < 0.5 * (first - 1)


def test_the_bias_evens_out_the_load():
    router = _router(bias_rate=0.01, scoring="sigmoid")
    x = torch.randn(512, 16) + 0.5

    def imbalance() -> float:
        router(x)
        return float(router.load.max() / router.load.float().mean())

    first = imbalance()
    for _ in range(150):
        router(x)
        router.update_bias()
    assert int(router.load.sum()) == 0
    last = imbalance()
    assert last < 1.15 < 1.5 < first


def test_load_counts_training_copies_alone():
    router, x = _router(), torch.randn(50, 16)
    router.eval()(x)
    assert int(router.load.sum()) == 0
    router.train()(x)
    assert int(router.load.sum()) == 100


CASTS = {
    "bfloat16": lambda module: module.bfloat16(),
    "half": lambda module: module.half(),
    "to a dtype": lambda module: module.to(torch.bfloat16),
    "to device and dtype": lambda module: module.to("cpu", torch.float16),
    "double and back": lambda module: module.double().bfloat16(),
    "type": lambda module: module.type(torch.bfloat16),
    "apply": lambda module: module._apply(lambda tensor: tensor.bfloat16()),
    "within a model": lambda module: torch.nn.Sequential(module).bfloat16()[0],
}


@pytest.mark.parametrize("cast", CASTS.values(), ids=list(CASTS))
def test_the_bias_keeps_small_steps_and_the_load_its_count_through_every_cast(cast):
    router = _router(scoring="sigmoid", bias_rate=1e-3)
    router.bias.fill_(1.001)  # BF16 has nothing between 1 and 1.0078
    router.load.fill_(257)
    router = cast(router)
    assert router.load.dtype == torch.int64
    assert torch.equal(router.load, torch.full((8,), 257))
    router.load[0] = 0
    before = router.bias.clone()
    assert torch.equal(before, torch.full((8,), 1.001))
    router.update_bias()
    assert router.bias.dtype == torch.float32
    torch.testing.assert_close((router.bias - before).abs(), torch.full((8,), 1e-3), rtol=1e-3, atol=0)


@pytest.mark.parametrize("assign", [False, True])
def test_a_bias_that_was_stored_in_bf16_is_loaded_into_fp32(assign):
    router, stored = _router(), _router(seed=1).state_dict()
    stored = {name: tensor.bfloat16() for name, tensor in stored.items()}
    router.load_state_dict(stored, assign=assign)
    assert router.bias.dtype == torch.float32
    assert stored["bias"].dtype == torch.bfloat16


def test_a_bias_that_a_wrapper_has_cast_in_place_goes_on_in_fp32():
    # As FullyShardedDataParallel's and DistributedDataParallel's mixed precision do to buffers.
    router = _router(bias_rate=1e-3)
    router.bias.data = router.bias.data.bfloat16() + 1
    router.load[0] = 9
    router.update_bias()
    assert router.bias.dtype == torch.float32
    torch.testing.assert_close(router.bias, torch.tensor([0.999] + [1.001] * 7))


def test_a_router_made_under_another_default_dtype_has_an_fp32_bias():
    before = torch.get_default_dtype()
    try:
        torch.set_default_dtype(torch.bfloat16)
        assert _router().bias.dtype == torch.float32
    finally:
        torch.set_default_dtype(before)


def test_the_load_is_no_buffer_which_data_parallel_wrappers_would_overwrite():
    assert dict(_router().named_buffers()).keys() == {"bias"}
    assert _router().to("meta").load.device.type == "meta"


def test_nan_in_is_nan_out():
    router, x = _router(), torch.randn(3, 16)
    x[1, 4] = float("nan")
    probabilities = router(x).probabilities
    assert probabilities[1].isnan().all()
    assert not probabilities[[0, 2]].isnan().any()


def test_no_tokens_are_no_trouble():
    routing = _router()(torch.empty(0, 16))
    assert routing.expert_ids.shape == (0, 2)
    assert routing.auxiliary_loss.item() == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"groups": 3}, "divided"),
        ({"groups": 4, "top_groups": 5}, "top_groups"),
        ({"top_k": 9}, "top_k"),
        ({"groups": 4, "top_groups": 1, "top_k": 3}, "group"),
        ({"bias_rate": -1.0}, "bias_rate"),
        ({"z_weight": -1.0}, "z_weight"),
        ({"z_weight": float("nan")}, "z_weight"),
    ],
)
def test_contradictions_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        _router(**options)


@pytest.mark.parametrize("scoring", ["softmax", "sigmoid"])
def test_balance_of_sequences_is_the_mean_of_that_of_each(scoring):
    x = torch.randn(3, 10, 16)
    of_each = [_router(scoring=scoring)(sequence).auxiliary_loss for sequence in x]
    together = _router(scoring=scoring, balance="sequence")(x.flatten(0, 1), sequences=3).auxiliary_loss
    torch.testing.assert_close(together, torch.stack(of_each).mean())
    assert together != _router(scoring=scoring)(x.flatten(0, 1)).auxiliary_loss  # which lets sequences differ


def test_of_one_sequence_both_balances_are_the_same():
    x = torch.randn(10, 16)
    torch.testing.assert_close(_router(balance="sequence")(x).auxiliary_loss, _router()(x).auxiliary_loss)
    assert _router(balance="sequence")(torch.empty(0, 16)).auxiliary_loss.item() == 0


def test_padding_has_no_part_in_the_balance_of_sequences():
    router, x = _router(balance="sequence"), torch.randn(3, 10, 16)
    mask = torch.arange(10) < torch.tensor([10, 4, 0])[:, None]
    x = torch.where(mask[..., None], x, float("nan"))
    found = router(x.flatten(0, 1), mask.flatten(), 3).auxiliary_loss
    expected = torch.stack([router(x[0]).auxiliary_loss, router(x[1, :4]).auxiliary_loss]).mean()
    torch.testing.assert_close(found, expected)
    gradients = []
    for padding in (1.0, 100.0):
        x = torch.where(mask[..., None], x, padding)
        loss = router(x.flatten(0, 1), mask.flatten(), 3).auxiliary_loss
        gradients += torch.autograd.grad(loss, [router.weight])
    torch.testing.assert_close(*gradients)
    assert gradients[0].any()


def test_the_z_loss_is_the_mean_square_of_the_log_sum_exp():
    x, mask = torch.randn(10, 16), torch.arange(10) < 7
    plain, router = _router(), _router(z_weight=0.5)
    for given in (None, mask):
        kept = x if given is None else x[:7]
        expected = 0.5 * (kept @ router.weight.t()).logsumexp(-1).square().mean()
        routing = router(x, given)
        torch.testing.assert_close(routing.z_loss, expected)
        torch.testing.assert_close(routing.auxiliary_loss, plain(x, given).auxiliary_loss + expected)
    assert plain(x).z_loss is None


def test_the_z_loss_shrinks_large_logits():
    router, x = _router(z_weight=1.0), 5 * torch.randn(64, 16)
    optimizer = torch.optim.SGD(router.parameters(), lr=1e-3)
    first = router(x).z_loss.item()
    for _ in range(50):
        optimizer.zero_grad()
        router(x).auxiliary_loss.backward()
        optimizer.step()
    assert router(x).z_loss.item() < 0.5 * first
