"""What whole blocks keep, attention and norms with them: counted by the benchmark, at a fraction of its sizes."""

import importlib.util
import sys
import warnings
from pathlib import Path
from types import ModuleType

import pytest
import torch

pytest.importorskip("transformers")

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
    assert kept["experts"] >= least * kept["+ norms, mxfp4"]
