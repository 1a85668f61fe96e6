"""The examples in docstrings run."""

import contextlib
import doctest
import importlib
import importlib.util
import io
import pkgutil
from dataclasses import replace

import pytest

import pauca
from pauca import events

# Examples that need what no test has: weights from the internet, files of the reader's own, several processes.
NEEDS = {
    "pauca.events.io.reader.read": "a recording of the reader's",
    "pauca.fewshot.estimator.FewShotClassifier": "photographs and a trained model of the reader's",
    "pauca.moe.models.huggingface.convert": "weights from the internet",
    "pauca.moe.parallel.optimizer_state.optimizer_state": "a checkpoint of several processes",
    "pauca.recognize.estimator.EventClassifier": "recordings of the reader's",
}


# Modules for a package that is not installed with pauca's.
ELSEWHERE = {"pauca.moe.models.titan": "torchtitan"}


def _examples() -> dict[str, doctest.DocTest]:
    finder, found = doctest.DocTestFinder(exclude_empty=True), {}
    for module in pkgutil.walk_packages(pauca.__path__, "pauca."):
        if ".kernels" in module.name or module.name.endswith("__main__"):
            continue
        if module.name in ELSEWHERE and importlib.util.find_spec(ELSEWHERE[module.name]) is None:
            continue
        loaded = importlib.import_module(module.name)
        for test in finder.find(loaded, module.name, module=loaded):
            if test.examples:
                found[test.name] = test
    return found


EXAMPLES = _examples()


def test_what_cannot_run_here_is_still_there():
    assert NEEDS.keys() <= EXAMPLES.keys()


@pytest.mark.parametrize("name", sorted(EXAMPLES.keys() - NEEDS.keys()))
def test_an_example_runs(name, tmp_path, monkeypatch):
    """With what a reader of the page has at hand: a recording, its camera, a model and its optimizer."""
    torch = pytest.importorskip("torch")
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    test = EXAMPLES[name]
    face = importlib.import_module(".".join(name.split(".")[:2]))
    names = vars(face) | test.globs | {"torch": torch, "replace": replace} | _at_hand(name)
    for example in test.examples:
        shown = io.StringIO()
        with contextlib.redirect_stdout(shown):
            exec(compile(example.source, name, "single"), names)
        if example.want:
            assert shown.getvalue() == example.want


def _at_hand(name: str) -> dict[str, object]:
    if name.startswith("pauca.events"):
        recording = events.simulate(events.SimulateConfig(duration_s=0.06, seed=3))
        events.write("recording.npz", recording)
        window = recording.events[:5000]
        assert recording.camera is not None
        aligner = events.Aligner(recording.camera)
        at_hand = {"camera": recording.camera, "recording": recording, "window": window, "aligner": aligner}
        return at_hand | {"live": [window], "read": events.read, "count": 0}
    if name.endswith(("frozen_weights", "quantize_once", "sum_gradients_in_fp32")):
        import torch

        from pauca.moe import MoE, Recipe

        model = MoE(hidden=32, width=32, experts=2, top_k=1, recipe=Recipe.bf16())
        if name.endswith("sum_gradients_in_fp32"):
            model.bfloat16()
        x = torch.randn(4, 32)
        batches = [x, x]
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        return {"model": model, "optimizer": optimizer, "micro_batches": batches}
    return {}
