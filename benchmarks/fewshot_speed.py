"""Rate of a training step: images a second, and the share of the GPU's measured bfloat16 matrix rate that they make.

    python benchmarks/fewshot_speed.py [--sizes 32,84] [--models plain,mcrnet] [--modes default,default+graph]
        [--out FILE.json]

A step is everything that training does: drawing episodes, gathering and augmenting images, network, base learner
(ridge), backward, SGD; 8 episodes of 5-way, 5 shots and 6 queries (15 shots at 84 pixels), that is 440 (840) images,
of random pixels, on which the time does not depend. Operations: 2 a multiply-add, three times the forward. The roof is
a bfloat16 product of 8192 x 8192 matrices, timed in the same run; on a CPU the steps are timed alone, in float32.
"""

import argparse
import json
import statistics
import time
from pathlib import Path

import torch

from pauca.fewshot.backbones import multiply_adds
from pauca.fewshot.latent import LATENT_CHANNELS, LatentConfig
from pauca.fewshot.model import MCRNet, ModelConfig
from pauca.fewshot.training.augment import AugmentConfig
from pauca.fewshot.training.config import TrainConfig
from pauca.fewshot.training.trainer import Trainer
from pauca.fewshot.types import EpisodeConfig, ImageSet
from pauca.runs import processor_name

PROTOCOL_STEPS = 60_000
TRAIN_SHOT = {32: 5, 84: 15}  # CIFAR-FS and miniImageNet


def random_images(size: int) -> ImageSet:
    images = torch.randint(0, 256, (64 * 40, 3, size, size), dtype=torch.uint8)
    return ImageSet(images, torch.arange(64).repeat_interleave(40), tuple(map(str, range(64))), name="random")


def make_model(name: str, size: int, backbone: str) -> MCRNet:
    if name == "plain":
        plain = f"{backbone}-plain" if backbone == "resnet12" else backbone
        return MCRNet(ModelConfig(plain, image_size=size, latent=LatentConfig(mode="none")))
    return MCRNet(ModelConfig(backbone, image_size=size, latent=LatentConfig(mode="variational")))


def operations_per_image(model: MCRNet) -> int:
    """Of forward and backward."""
    size, channels = model.config.image_size, model.config.channels
    if model.stem is None:
        return 6 * multiply_adds(model.backbone, (channels, size, size))
    heads = 9 * size**2 * (channels * 32 + 2 * 32 * LATENT_CHANNELS)
    return 6 * (heads + multiply_adds(model.backbone, (LATENT_CHANNELS, size, size)))


def matrix_rate(device: torch.device) -> float:
    """Operations a second of a large bfloat16 product."""
    a, b = (torch.randn(8192, 8192, device=device, dtype=torch.bfloat16) for _ in "ab")
    for _ in range(5):
        a @ b
    seconds = []
    for _ in range(20):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        a @ b
        end.record()
        torch.cuda.synchronize()
        seconds.append(start.elapsed_time(end) / 1000)
    return 2 * 8192**3 / statistics.median(seconds)


def seconds_per_step(trainer: Trainer, steps: int, repeats: int = 5) -> tuple[float, float]:
    """Median over repeats, after warming up, and the seconds of the first steps, which compile."""
    started = time.perf_counter()
    for _ in range(3):
        trainer.step().total.item()
    warm_up = time.perf_counter() - started
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        for _ in range(steps):
            losses = trainer.step()
        losses.total.item()
        times.append((time.perf_counter() - started) / steps)
    return statistics.median(times), warm_up


def profile(trainer: Trainer, path: Path) -> None:
    """The kernels of ten steps by time, as a table in a file."""
    activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as profiler:
        for _ in range(10):
            trainer.step()
        torch.cuda.synchronize()
    path.write_text(profiler.key_averages().table(sort_by="self_cuda_time_total", row_limit=60))


def measure(name: str, size: int, mode: str, options: argparse.Namespace, roof: float | None) -> dict:
    torch.compiler.reset()
    model = make_model(name, size, options.backbone)
    episode = EpisodeConfig(way=5, shot=TRAIN_SHOT.get(size, 5), query=6)
    config = TrainConfig(
        episodes_per_step=options.episodes_per_step,
        episode=episode,
        augmentation=AugmentConfig(crop_padding=8 if size == 84 else 4),
        compile=mode.removesuffix("+graph"),  # type: ignore[arg-type]
        cuda_graph=mode.endswith("+graph"),
    )
    operations = operations_per_image(model)
    trainer = Trainer(model, random_images(size), config)
    seconds, warm_up = seconds_per_step(trainer, options.steps)
    if options.profile and roof:
        options.profile.mkdir(parents=True, exist_ok=True)
        profile(trainer, options.profile / f"{name}-{size}-{mode}.txt")
    images_per_s = options.episodes_per_step * 5 * (episode.shot_range[1] + episode.query) / seconds
    return {
        "model": name,
        "px": size,
        "compile": mode,
        "images_per_s": images_per_s,
        "ms_per_step": 1000 * seconds,
        "tflops": operations * images_per_s / 1e12,
        "share_of_roof": operations * images_per_s / roof if roof else float("nan"),
        "minutes_of_protocol": PROTOCOL_STEPS * seconds / 60,
        "warm_up_s": warm_up,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--sizes", default="32,84")
    parser.add_argument("--models", default="plain,mcrnet")
    parser.add_argument("--backbone", default="resnet12")
    parser.add_argument("--modes", default="auto+graph", help="modes of torch.compile, or off; +graph captures a pass")
    parser.add_argument("--steps", type=int, default=50, help="steps in one timing, of which five are made")
    parser.add_argument("--episodes-per-step", type=int, default=8)
    parser.add_argument("--profile", type=Path, help="folder for a table of kernels of each case")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()

    on_gpu = torch.cuda.is_available()
    roof = matrix_rate(torch.device("cuda")) if on_gpu else None
    processor = torch.cuda.get_device_name() if on_gpu else processor_name()
    print(f"{processor}, torch {torch.__version__}, bfloat16 matrix rate {(roof or float('nan')) / 1e12:.0f} TFLOP/s\n")
    print("| model | px | compile | images/s | ms/step | TFLOP/s | % of roof | protocol, min | warm-up, s |")
    print("|---|---|---|---|---|---|---|---|---|")
    rows = []
    for size in map(int, options.sizes.split(",")):
        for name in options.models.split(","):
            for mode in options.modes.split(","):
                row = measure(name, size, mode, options, roof)
                rows.append(row)
                print(
                    f"| {name} | {size} | {mode} | {row['images_per_s']:,.0f} | {row['ms_per_step']:.2f} | "
                    f"{row['tflops']:.1f} | {100 * row['share_of_roof']:.1f} | {row['minutes_of_protocol']:.1f} | "
                    f"{row['warm_up_s']:.0f} |",
                    flush=True,
                )
                if options.out:
                    machine = {"processor": processor, "torch": torch.__version__, "matrix_rate": roof}
                    options.out.write_text(json.dumps({"machine": machine, "rows": rows}, indent=1))


if __name__ == "__main__":
    main()
