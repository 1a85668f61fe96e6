"""What whole blocks keep, attention and norms with them: counted by the benchmark, at a fraction of its sizes."""

import importlib.util
import sys
import warnings
from pathlib import Path
from types import ModuleType

import pytest
import torch

from pauca.moe import Recipe, convert

transformers = pytest.importorskip("transformers")

TOKENS = 96


def _benchmark() -> ModuleType:
    folder = Path(__file__).parents[3] / "benchmarks"
    sys.path.insert(0, str(folder))  # where it finds what benchmarks share
    spec = importlib.util.spec_from_file_location("moe_huggingface", folder / "moe_huggingface.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own, of what benchmarks compile
        spec.loader.exec_module(module)
    sys.path.remove(str(folder))
    return module


benchmark = _benchmark()


@pytest.mark.parametrize(
    ("name", "smaller", "least"),
    [("Qwen3-30B-A3B", 4, 2.0), ("DeepSeek-V3, dense", 8, 2.0), ("DeepSeek-V3", 8, 1.5)],
)  # docs/moe/huggingface.md says what is left of DeepSeek's
def test_a_block_keeps_half_of_what_it_keeps_with_experts_alone(name, smaller, least):
    torch.manual_seed(0)
    kept = benchmark.measure_whole(benchmark.build_model(name, smaller), TOKENS)
    assert list(kept.values()) == sorted(kept.values(), reverse=True)
    assert 0.4 * kept["+ norms, mxfp4"] < kept["of it attention"] < 0.8 * kept["+ norms, mxfp4"]
    assert kept["experts"] >= least * kept["+ norms, mxfp4"]


@pytest.mark.gpu
@pytest.mark.parametrize("norms", ["bf16", "mxfp4"])
def test_a_gpu_computes_what_a_cpu_does(norms):
    torch.manual_seed(0)
    model = transformers.Qwen2MoeForCausalLM(
        transformers.Qwen2MoeConfig(
            vocab_size=64, hidden_size=128, num_hidden_layers=1, num_attention_heads=4, num_key_value_heads=2,
            num_experts=1, num_experts_per_tok=1, moe_intermediate_size=64, shared_expert_intermediate_size=96,
        )
    ).bfloat16()  # fmt: skip
    convert(model, Recipe.fp4(), projections="fp4", feed_forwards="fp4", norms=norms)
    tokens = torch.arange(2 * 40).reshape(2, 40) * 31 % 61 + 3
    found = []
    for device in ("cpu", "cuda"):
        model.to(device).zero_grad()
        result = model(tokens.to(device), labels=tokens.to(device))
        result.loss.backward()
        gradients = {name: weight.grad.float().cpu() for name, weight in model.named_parameters() if weight.grad.any()}
        found.append((result.logits.detach().float().cpu(), gradients))
    (logits, expected), (ours, gradients) = found
    assert (logits - ours).norm() < 0.02 * logits.norm()
    for name, gradient in expected.items():  # one rounding the other way tips codes of four bits over
        assert (gradient - gradients[name]).norm() < 0.2 * gradient.norm(), name
