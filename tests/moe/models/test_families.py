"""`convert` on the mixture-of-experts families of the installed transformers, tiny, built from their config classes."""

import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

from pauca.moe import Recipe, convert

pytest.importorskip("transformers")


def _benchmark() -> ModuleType:
    path = Path(__file__).parents[3] / "benchmarks" / "moe_families.py"
    spec = importlib.util.spec_from_file_location("moe_families", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["moe_families"] = module
    spec.loader.exec_module(module)
    return module


benchmark = _benchmark()

# What stands between the products and how weights are stored, as each family's source has it.
FORMS = {
    "aria": ("silu", "transposed"),
    "beam": ("silu", "common"),
    "dbrx": ("silu", "own module"),
    "deepseek_v4": ("silu, limit 10", "common"),
    "gemma4": ("gelu_tanh", "common"),
    "gpt_oss": ("silu, limit 7, alpha 1.702, up + 1", "transposed, interleaved, biases"),
    "jetmoe": ("silu", "own module"),
    "llama4": ("silu", "transposed, own module"),
    "longcat_flash": ("silu", "own module"),
    "minimax_m3_vl": ("silu, limit 7, alpha 1.702, up + 1", "common"),
    "nemotron_h": ("relu_squared, no gate", "common"),
    "openai_privacy_filter": ("silu, limit 7, alpha 1.702, up + 1", "transposed, biases"),
    "step3p7": ("silu, limit 7 after", "common"),
}
REFUSED = {
    "doge": "its experts are single rows of an embedding",
    "inkling2": "its activation .* is none that pauca computes",
    "muse_spark": "each expert ends in a norm of its own",
    "nllb_moe": "each expert is a module of its own",
    "switch_transformers": "each expert is a module of its own",
}


@pytest.mark.parametrize("family", FORMS)
def test_each_form_of_experts_computes_what_the_original_does(family):
    """Of each layer, on what the model gives it; gradients of all of the module's weights."""
    _require_within_rounding(benchmark.measure(family))


def _require_within_rounding(row) -> None:
    assert not row.refused, row
    assert 0 < row.bf16 < 0.008, row
    assert row.fp8 < 0.09, row
    assert row.fp4 < 0.22, row
    assert row.gradient < 0.011, row
    if row.family in FORMS:
        assert (row.gate, row.layout) == FORMS[row.family]


@pytest.mark.parametrize("family", ["doge", "inkling2", "switch_transformers"])
def test_others_are_refused_with_the_reason(family):
    row = benchmark.measure(family)
    assert re.search(REFUSED[family], row.refused), row


def test_dbrx_keeps_no_joined_copy_of_its_weights():
    """Gate and up of all experts, which lie apart: for backward they are joined anew."""
    experts = convert(benchmark.build("dbrx"), Recipe.fp4()).blocks[0].ffn.experts
    x, ids = torch.randn(1, 16, 64, requires_grad=True), torch.arange(32).reshape(16, 2) % 8
    weights = {weight.untyped_storage().data_ptr() for weight in experts.parameters()}
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor):
        experts(x, ids, torch.full((16, 2), 0.5))
    others = [tensor for tensor in kept if tensor.untyped_storage().data_ptr() not in weights]
    assert max(tensor.untyped_storage().nbytes() for tensor in others) < 8 * 2 * 64 * 64


@pytest.mark.slow
def test_at_least_64_of_72_families_convert():
    """In transformers 5.23; the table is in docs/moe/families.md."""
    rows = [benchmark.measure(family) for family in benchmark.families()]
    refused = {row.family for row in rows if row.refused}
    assert refused == REFUSED.keys()
    assert len(rows) - len(refused) >= 64
    for row in rows:
        if not row.refused:
            _require_within_rounding(row)


@pytest.mark.parametrize(("name", "hint"), [("gpt-oss", r" \(did you mean gpt_oss\?\)"), ("llama", ".*known are")])
def test_a_family_that_there_is_not_is_said_in_one_line(monkeypatch, name, hint):
    monkeypatch.setattr(sys, "argv", ["moe_families.py", name])
    with pytest.raises(
        SystemExit, match=f"^{name}: transformers .* has no family of experts of this name{hint}"
    ) as end:
        benchmark.main()
    assert "\n" not in str(end.value)
