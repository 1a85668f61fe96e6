"""The converters for torchtitan on its own MoE layer and configs; skipped where it is not installed, as in CI.

`pip install --no-deps torchtitan==0.3.0 spmd_types==0.2.3 einops torchdata` is enough for it. Its attention has no
backward on a CPU, so that layers stand for models.
"""

import copy
import warnings

import pytest
import torch
from torch import Tensor, nn

from pauca.errors import ConfigError

# Of torchtitan: deprecated parts of torch on import, and its router's autocast on a CPU.
pytestmark = pytest.mark.filterwarnings("ignore:In CPU autocast:UserWarning")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    pytest.importorskip("spmd_types")
    pytest.importorskip("torchtitan")
    from torchtitan.models.common.linear import Linear  # pyright: ignore[reportMissingImports]
    from torchtitan.models.common.moe import GroupedExperts  # pyright: ignore[reportMissingImports]
    from torchtitan.models.qwen3 import (  # pyright: ignore[reportMissingImports]
        CosSinRoPE,
        _build_qwen3_moe_layers,
    )

    from pauca.moe.models.titan import (
        PaucaGroupedExperts,
        PaucaGroupedExpertsConverter,
        PaucaLinear,
        PaucaLinearConverter,
    )


def config(width: int = 64):
    """One layer of a Qwen3-MoE, of torchtitan's own making."""
    rope = CosSinRoPE.Config(dim=16, max_seq_len=64, theta=10000.0)
    (layer,) = _build_qwen3_moe_layers(
        fuse_qkv=True, n_layers=1, dim=64, n_heads=4, n_kv_heads=2, head_dim=16, moe_hidden_dim=width, num_experts=8,
        top_k=2, attn_backend="flex", rope=rope, moe_comm_backend="standard",
    )  # fmt: skip
    return layer


def experts_converted(precision: str):
    settings = PaucaGroupedExpertsConverter.Config(precision=precision)
    return PaucaGroupedExpertsConverter(settings).convert(config())


def built(layer) -> nn.Module:
    torch.manual_seed(0)
    module = layer.moe.build()
    module.init_states(buffer_device=torch.device("cpu"))
    with torch.no_grad():
        for weight in module.parameters():
            weight.normal_(std=weight.shape[-1] ** -0.5)
    return module


def step(module: nn.Module) -> tuple[Tensor, dict[str, Tensor]]:
    module.zero_grad()
    x = torch.randn(2, 24, 64, generator=torch.Generator().manual_seed(1))
    y = module(x)
    y.backward(torch.randn(y.shape, generator=torch.Generator().manual_seed(2)))
    return y.detach(), {n: w.grad.clone() for n, w in module.named_parameters() if w.grad is not None}


@pytest.mark.parametrize(
    ("precision", "output", "gradient"), [("bf16", 0.01, 0.01), ("fp8", 0.1, 0.13), ("fp4", 0.25, 0.4)]
)
def test_a_moe_layer_computes_the_same_to_the_recipes_rounding(precision, output, gradient):
    original, converted = built(config()), built(experts_converted(precision))
    assert any(isinstance(module, PaucaGroupedExperts) for module in converted.modules())
    assert original.state_dict().keys() == converted.state_dict().keys()
    converted.load_state_dict(copy.deepcopy(original.state_dict()))
    (y, expected), (found, gradients) = step(original), step(converted)
    assert (y - found).norm() < output * y.norm()
    for name, value in expected.items():
        if "experts" in name:
            assert (value - gradients[name]).norm() < gradient * value.norm(), name


def test_rows_past_the_last_expert_add_nothing():
    """As expert parallelism pads what arrives."""
    settings = PaucaGroupedExperts.Config(dim=64, hidden_dim=32, num_experts=4, precision="bf16")
    experts = settings.build()
    with torch.no_grad():
        for weight in experts.parameters():
            weight.normal_(std=0.1)
    rows, counts = torch.randn(40, 64), torch.tensor([3, 0, 20, 7])
    y = experts(rows, counts)
    assert torch.equal(y[:30], experts(rows[:30], counts))
    assert not y[30:].any()


@pytest.mark.parametrize("precision", ["bf16", "fp8", "fp4"])
def test_no_copy_of_weights_is_kept(precision):
    """Gate and up, joined in FP32, were kept from forward to backward: 0.9 GiB a layer of eight of DeepSeek-V3's."""
    experts = PaucaGroupedExperts.Config(dim=64, hidden_dim=32, num_experts=4, precision=precision).build()
    own = {weight.data_ptr() for weight in experts.parameters()}
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor):
        y = experts(torch.randn(8, 64, requires_grad=True), torch.tensor([3, 0, 5, 0]))
    assert len({tensor.data_ptr() for tensor in kept} & own) == 3
    largest = min(weight.nbytes for weight in experts.parameters())
    assert all(tensor.nbytes < largest for tensor in kept if tensor.data_ptr() not in own)
    y.sum().backward()
    assert all(weight.grad is not None for weight in experts.parameters())


def test_linear_layers_of_attention_are_converted_by_name():
    layer = PaucaLinearConverter(PaucaLinearConverter.Config(precision="fp4")).convert(config())
    names = {name: type(found) for name, found, *_ in layer.traverse(Linear.Config)}
    assert {kind for name, kind in names.items() if "attention" in name} == {PaucaLinear.Config}
    assert {kind for name, kind in names.items() if "attention" not in name} == {Linear.Config}
    settings = PaucaLinear.Config(in_features=64, out_features=32, bias=True, precision="fp8")
    torch.manual_seed(0)
    linear = settings.build()
    x = torch.randn(2, 5, 64)
    expected = torch.nn.functional.linear(x, linear.weight, linear.bias)
    assert (linear(x) - expected).norm() < 0.05 * expected.norm()


def test_what_cannot_be_converted_is_refused():
    with pytest.raises(ConfigError, match="width must be a multiple of 32 under the fp4 recipe, got 40"):
        PaucaGroupedExpertsConverter(PaucaGroupedExpertsConverter.Config()).convert(config(width=40))
    with pytest.raises(ConfigError, match=r"sizes must be multiples of 32, got .* leave it out of fqns"):
        PaucaLinearConverter(PaucaLinearConverter.Config(fqns=["gate"])).convert(config())

    class Other(GroupedExperts.Config):
        pass

    layer = config()
    experts = layer.moe.routed_experts
    old = experts.inner_experts
    experts.inner_experts = Other(dim=old.dim, hidden_dim=old.hidden_dim, num_experts=old.num_experts)
    with pytest.raises(ConfigError, match="pauca knows GroupedExperts alone"):
        PaucaGroupedExpertsConverter(PaucaGroupedExpertsConverter.Config()).convert(layer)


def test_a_config_that_cannot_be_converted_whole_is_not_converted_in_part():
    """Layers before the one that was refused stayed converted."""
    layer = config()  # the router's gate gives 8 logits
    settings = PaucaLinearConverter.Config(fqns=["attention", "gate"])
    with pytest.raises(ConfigError, match=r"leave it out of fqns"):
        PaucaLinearConverter(settings).convert(layer)
    assert {type(found) for _, found, *_ in layer.traverse(Linear.Config)} == {Linear.Config}
