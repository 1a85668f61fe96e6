"""How long does a classifier take to fit, to answer, to save, and as an ONNX graph?

    python benchmarks/fewshot_classifier_speed.py

Five classes with five examples each, on one thread of the processor: milliseconds for `fit` without the network (head,
temperature, threshold), for the network and for the head an image, in batches of 16; the size and times of the file;
and milliseconds an image of the exported graph in onnxruntime. Medians of the repeats.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import torch

from pauca.fewshot import FewShotClassifier, LatentConfig, MCRNet, ModelConfig, open_backbone
from pauca.fewshot.answers.learned import Learned
from pauca.runs import describe_machine


def median_ms(work: Callable[[], object], repeats: int) -> float:
    """The median time of some work, after one that is not counted."""
    work()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return 1000 * float(np.median(times))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    plain = LatentConfig(mode="none")
    models = {
        "conv4, 32 px": MCRNet(ModelConfig(backbone="conv4", latent=plain)).eval(),
        "resnet12-plain, 32 px": MCRNet(ModelConfig(backbone="resnet12-plain", latent=plain)).eval(),
        "efficientnet-lite0, 224 px": open_backbone("efficientnet-lite0"),
    }
    print(describe_machine())
    print("| network | fit | network an image | head an image | save | load | MB | ONNX graph an image |")
    print("|---" * 8 + "|")
    generator = np.random.default_rng(0)
    for name, model in models.items():
        side = model.config.image_size
        examples = generator.integers(0, 256, (25, side, side, 3), np.uint8)
        batch = examples[:16]
        classifier = FewShotClassifier(model, reject=0.1, device="cpu").fit(examples, np.arange(5).repeat(5))
        repeats = options.repeats
        fit = median_ms(lambda c=classifier: Learned(c.model_, c._examples), repeats)
        features = classifier.features_[:16]
        network = median_ms(lambda c=classifier, b=batch: c._embed(b), repeats) / 16
        head = median_ms(lambda c=classifier, f=features: (c._probabilities(f), c._distances(f)), repeats) / 16
        with tempfile.TemporaryDirectory() as folder:
            file, graph = Path(folder) / "c.safetensors", Path(folder) / "c.onnx"
            save = median_ms(lambda c=classifier, f=file: c.save(f), repeats)
            load = median_ms(lambda f=file: FewShotClassifier.load(f, "cpu"), repeats)
            size = file.stat().st_size / 1e6
            classifier.export(graph)
            threads = onnxruntime.SessionOptions()
            threads.intra_op_num_threads = 1
            session = onnxruntime.InferenceSession(graph, threads, providers=["CPUExecutionProvider"])
            given = {"images": np.ascontiguousarray(batch.transpose(0, 3, 1, 2))}
            onnx = median_ms(lambda s=session, g=given: s.run(None, g), repeats) / 16
        row = f"{fit:.1f} | {network:.1f} | {head:.2f} | {save:.0f} | {load:.0f} | {size:.1f} | {onnx:.1f}"
        print(f"| {name} | {row} |", flush=True)


if __name__ == "__main__":
    main()
