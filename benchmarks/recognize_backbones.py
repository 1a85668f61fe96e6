"""Networks to meta-train on pictures from events: accuracy, and the bytes that a training step keeps of each picture.

    pauca recognize train glyphs --out runs/glyphs        # simulates the pictures that this is run on
    python benchmarks/recognize_backbones.py runs/glyphs/pictures --steps 100

Each network is trained with the same steps and episodes on the train classes, and tested on episodes of the val
classes, 5-way, from one and five examples (95 % intervals over episodes; over classes behind them). Kept are the
tensors that the backward pass will read, without weights. The experts of `moe-vit` keep MXFP4, those of `moe-vit-bf16`,
the same network, BF16. On a CPU the low-precision kernels are emulated: bytes and accuracy hold, times do not. With
`--steps 0` only bytes are counted.
"""

import argparse
import json
import time
from pathlib import Path

import torch

from pauca import fewshot, moe
from pauca.fewshot.data import load_image_set
from pauca.recognize import MoEFeatures
from pauca.runs import describe_machine

NETWORKS = ("conv4-32", "resnet12", "moe-vit", "moe-vit-bf16")
fewshot.BACKBONES["moe-vit-bf16"] = lambda channels, size: MoEFeatures(channels, size, moe.Recipe.bf16())
PICTURES = 32  # in the pass whose kept bytes are counted


def made(name: str, size: int) -> fewshot.MCRNet:
    torch.manual_seed(0)
    plain = fewshot.LatentConfig(mode="none")
    return fewshot.MCRNet(fewshot.ModelConfig(name, image_size=size, channels=1, latent=plain))


def kept_bytes(model: fewshot.MCRNet, size: int) -> float:
    """Of each picture, between the forward and the backward pass."""
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept: dict[int, int] = {}
    alive = []  # so that no storage is counted for another that was freed

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
            alive.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        features = model.train().backbone(torch.rand(PICTURES, 1, size, size))
    features.square().mean().backward()
    return sum(kept.values()) / PICTURES


def trained(model: fewshot.MCRNet, train: fewshot.ImageSet, steps: int, rate: float) -> tuple[fewshot.MCRNet, float]:
    config = fewshot.TrainConfig(
        steps=steps,
        episodes_per_step=2,
        episode=fewshot.EpisodeConfig(way=10, shot=(1, 5), query=5),
        learning_rate=rate,
        schedule="cosine",
        validate_every=steps,
    )
    begin = time.perf_counter()
    fewshot.train(model, config, train)
    return model.eval(), (time.perf_counter() - begin) / steps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pictures", type=Path, help="folder with train and val, as pauca recognize train leaves it")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--episodes", type=int, default=300)
    parser.add_argument("--learning-rate", type=float, default=0.05)
    parser.add_argument("--networks", nargs="+", default=NETWORKS)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    train, test = (load_image_set(options.pictures / split) for split in ("train", "val"))
    size = int(train.images.shape[-1])
    print(f"{train}, {options.steps} steps; {describe_machine()['processor']}\n")
    print("| network | parameters | KiB kept a picture | 1 example, % | 5 examples, % | s a step |")
    print("|---|---|---|---|---|---|")
    rows = []
    for name in options.networks:
        model = made(name, size)
        row = {"network": name, "parameters": fewshot.parameter_count(model.backbone), "kept": kept_bytes(model, size)}
        print(f"| {name} | {row['parameters']:,} | {row['kept'] / 1024:,.0f}", end="", flush=True)
        if options.steps:
            model, row["s"] = trained(made(name, size), train, options.steps, options.learning_rate)
            for shot in (1, 5):
                episodes = fewshot.sample_episodes(test, fewshot.EpisodeConfig(5, shot, 10), options.episodes, seed=0)
                found = fewshot.evaluate(model, test, episodes)
                row[f"shot{shot}"] = found.accuracy._asdict()
                print(f" | {found.accuracy}, ± {100 * found.accuracy_over_classes.half_width:.1f}", end="", flush=True)
            print(f" | {row['s']:.2f}", end="")
        print(" |", flush=True)
        rows.append(row)
    if options.json:
        options.json.write_text(json.dumps({"machine": describe_machine(), "rows": rows}, indent=2))


if __name__ == "__main__":
    main()
