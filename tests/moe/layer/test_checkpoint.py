"""`torch.utils.checkpoint` around the layer: the gradients are the same, and every token is counted once."""

import subprocess
import sys

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from pauca.errors import PaucaError
from pauca.moe.layer.moe import MoE, auxiliary_loss
from pauca.moe.layer.recipe import Recipe

WEIGHT = 0.3
KINDS = {"none": None, "reentrant": True, "not reentrant": False}


class _Model(nn.Module):
    """Two layers, each in a checkpoint of its own, or both in one, or each in one in another."""

    def __init__(self, kind: bool | None, how: str = "each") -> None:
        super().__init__()
        torch.manual_seed(0)
        options = {"shared_experts": 1, "recipe": Recipe.fp4()}
        self.layers = nn.ModuleList(nn.Sequential(nn.Linear(64, 64), MoE(64, 32, 8, 2, **options)) for _ in range(2))
        self.kind, self.how = kind, how

    def forward(self, x: Tensor) -> Tensor:
        if self.how == "each":
            for layer in self.layers:
                x = x + self._checkpoint(layer, x)
            return x
        return self._checkpoint(self._both if self.how == "both" else self._nested, x)

    def _both(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = x + layer(x)
        return x

    def _nested(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = x + self._checkpoint(layer, x)
        return x

    def _checkpoint(self, function, x: Tensor) -> Tensor:
        return function(x) if self.kind is None else checkpoint(function, x, use_reentrant=self.kind)


def _loss(model: nn.Module, x: Tensor) -> Tensor:
    return model(x).square().mean() + WEIGHT * auxiliary_loss(model)


def _x(seed: int) -> Tensor:
    # Tokens that prefer some experts, so that the balancing loss has something to say.
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(4, 12, 64, generator=generator) + 0.5).requires_grad_()


def _step(model: nn.Module, together: bool, passes: int = 2) -> list[Tensor]:
    """Gradients, of several passes each with its backward or of all in one, and the loads."""
    inputs = [_x(seed) for seed in range(passes)]
    losses = []
    for number, x in enumerate(inputs):
        loss = (number + 1) * _loss(model, x)
        losses.append(loss)
        if not together:
            loss.backward()
    if together:
        torch.stack(losses).sum().backward()
    gradients = [parameter.grad for parameter in model.parameters()] + [x.grad for x in inputs]
    return [*gradients, *(module.router.load for module in model.modules() if isinstance(module, MoE))]


# Of the inner ones in a reentrant checkpoint, which run without gradients at first; torch says so itself.
@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")
@pytest.mark.parametrize("how", ["each", "both", "nested"])
@pytest.mark.parametrize("together", [False, True], ids=["a backward each", "one backward"])
@pytest.mark.parametrize("kind", [True, False], ids=["reentrant", "not reentrant"])
def test_gradients_and_loads_are_those_without_a_checkpoint(kind, together, how):
    expected = _step(_Model(None), together)
    for actual, wanted in zip(_step(_Model(kind, how), together), expected, strict=True):
        torch.testing.assert_close(actual, wanted, rtol=1e-4, atol=1e-6)


def test_the_balancing_loss_has_a_say_in_these_gradients():
    router = _step(_Model(None), False)[2]
    global WEIGHT
    before, WEIGHT = WEIGHT, 0.0
    try:
        without = _step(_Model(None), False)[2]
    finally:
        WEIGHT = before
    assert (router - without).norm() > 0.05 * router.norm()


def test_a_balancing_loss_that_the_checkpointed_function_returns_goes_its_usual_way():
    def block(layer: MoE, x: Tensor) -> tuple[Tensor, Tensor]:
        y = layer(x)
        assert layer.auxiliary_loss is not None
        return y, layer.auxiliary_loss

    gradients = []
    for kind in (None, True, False):
        torch.manual_seed(0)
        layer, x = MoE(64, 32, 8, 2), _x(0)
        y, balance = block(layer, x) if kind is None else checkpoint(block, layer, x, use_reentrant=kind)
        (y.square().mean() + WEIGHT * balance).backward()
        gradients.append(layer.router.weight.grad)
    torch.testing.assert_close(gradients[1], gradients[0])
    torch.testing.assert_close(gradients[2], gradients[0])


def test_a_balancing_loss_whose_gradient_comes_too_late_is_an_error():
    model = _Model(True)
    y = model(_x(0))
    balance = auxiliary_loss(model)
    y.sum().backward()
    with pytest.raises(PaucaError, match="use_reentrant=False"):
        balance.backward()
    # And what came too late is not added to a later step.
    model.zero_grad()
    expected = _step(_Model(None), False, passes=1)[2]
    torch.testing.assert_close(_step(model, False, passes=1)[2], expected)


def test_without_gradients_the_balancing_loss_is_a_number():
    model = _Model(None).eval()
    with torch.no_grad():
        model(_x(0))
    assert not auxiliary_loss(model).requires_grad
    with torch.inference_mode():
        model.train()(_x(0))
        assert auxiliary_loss(model) > 0


@pytest.mark.slow
def test_a_compiled_layer_in_a_checkpoint_counts_once_and_loses_no_gradient_in_silence():
    subprocess.run([sys.executable, __file__], check=True, timeout=300)


def _compiled(kind: bool) -> tuple[MoE, Tensor]:
    torch.manual_seed(0)
    layer, x = MoE(64, 32, 8, 2), torch.randn(10, 64, requires_grad=True)
    y = checkpoint(torch.compile(layer), x, use_reentrant=kind)
    return layer, y.square().mean() + WEIGHT * auxiliary_loss(layer)


def main() -> None:
    torch.manual_seed(0)
    layer, x = MoE(64, 32, 8, 2), torch.randn(10, 64, requires_grad=True)
    (layer(x).square().mean() + WEIGHT * auxiliary_loss(layer)).backward()
    compiled, loss = _compiled(False)
    loss.backward()
    torch.testing.assert_close(compiled.router.weight.grad, layer.router.weight.grad, rtol=0.02, atol=1e-4)
    assert int(compiled.router.load.sum()) == 20, compiled.router.load
    compiled, loss = _compiled(True)
    with pytest.raises(PaucaError, match="use_reentrant=False"):
        loss.backward()
    assert int(compiled.router.load.sum()) == 20, compiled.router.load


if __name__ == "__main__":
    main()
