"""Why a step of training at 84 pixels reaches the share of the matrix rate that it does: bytes and operations.

    python benchmarks/fewshot_roofline.py [--models mcrnet,plain] [--size 84] [--plans 10] [--out FILE.json]

For each model, in one run: the rate of a large bfloat16 product, that of a copy (bytes read and written), the step as
fewshot_speed.py times it, the kernels of this step by kind, and every convolution of the network alone, forward and
backward. Then the least time that each part can take:

- a convolution its operations at the matrix rate, or its bytes (both inputs read once, the output written once) at the
  rate of the copy, whichever is longer;
- batch norm in training, with what is fused to it, its passes over memory: the statistics of a layer need its whole
  output, and cannot be known before the convolution has ended. Forward that is a reading for the statistics, a reading
  and a writing for the result; backward a reading of output and gradient for their sums, another one of both, and a
  writing. Those that end a block are written pooled, a quarter.

`--plans` is how many of cuDNN's plans are timed for each convolution before one is chosen; 0 tries all. `--reads` are
settings of the compiler to compare (`fewshot/training/compiled.py` says what they do); kernels are those of the last.
"""

import argparse
import json
import statistics
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from fewshot_speed import TRAIN_SHOT, make_model, matrix_rate, operations_per_image, random_images, seconds_per_step
from pauca.fewshot.model import MCRNet
from pauca.fewshot.training.augment import AugmentConfig
from pauca.fewshot.training.compiled import OPTIONS
from pauca.fewshot.training.config import TrainConfig
from pauca.fewshot.training.trainer import Trainer
from pauca.fewshot.types import EpisodeConfig
from pauca.runs import processor_name

BYTES = 2  # of a bfloat16 number
ON_GPU = torch.cuda.is_available()
DEVICE = torch.device("cuda" if ON_GPU else "cpu")
KINDS = (  # the first that a kernel's name holds decides
    ("norm, activation, pooling, regularizer", ("triton", "max_pool", "batch_norm")),
    ("change of layout", ("nchwtonhwc", "nhwctonchw", "transpose")),
    ("convolution, weights' gradient", ("wgrad", "weight_grad")),
    ("convolution, input's gradient", ("dgrad", "data_grad")),
    ("convolution, forward", ("fprop", "conv", "implicit", "cudnn")),
    ("optimizer", ("multi_tensor", "fused_sgd")),
    ("matrix product", ("gemm", "nvjet", "cutlass", "trsm", "syrk", "potrf", "cholesky")),
    ("copy, fill", ("memcpy", "memset", "copy", "fill")),
)


@dataclass(frozen=True)
class Layer:
    """A convolution, bias and groups left out."""

    inputs: tuple[int, ...]  # batch, channels, height, width
    weights: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]

    @property
    def outputs(self) -> tuple[int, ...]:
        sides = (
            (side + 2 * pad - kernel) // step + 1
            for side, pad, kernel, step in zip(
                self.inputs[2:], self.padding, self.weights[2:], self.stride, strict=True
            )
        )
        return self.inputs[0], self.weights[0], *sides

    @property
    def operations(self) -> int:
        """Of one pass: forward, the input's gradient and the weights' take as many each."""
        return 2 * torch.Size(self.outputs).numel() * torch.Size(self.weights[1:]).numel()

    @property
    def bytes(self) -> int:
        """Of one pass at least; in all three, two of the three tensors are read and the other one is written."""
        return BYTES * sum(torch.Size(shape).numel() for shape in (self.inputs, self.weights, self.outputs))


class _Shapes(TorchDispatchMode):
    """Notes the shapes of convolutions, and of what batch norm sees."""

    def __init__(self) -> None:
        super().__init__()
        self.layers: list[Layer] = []
        self.norms: list[tuple[int, ...]] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = str(func)
        if name.startswith("aten.convolution.") or name.startswith("aten.conv2d"):
            image, weights, _, stride, padding = args[:5]
            self.layers.append(Layer(tuple(image.shape), tuple(weights.shape), tuple(stride), tuple(padding)))
        elif "batch_norm" in name and "backward" not in name:
            self.norms.append(tuple(args[0].shape))
        return func(*args, **(kwargs or {}))


def shapes(model: MCRNet, images: int) -> _Shapes:
    """Those of a forward pass in training, found without computing anything."""
    size, channels = model.config.image_size, model.config.channels
    twin = MCRNet(model.config).to("meta").train()
    with _Shapes() as seen, torch.no_grad():
        twin.encode(torch.empty(images, channels, size, size, device="meta"))
    return seen


def milliseconds(run: Callable[[], object], repeats: int = 9) -> float:
    """Median, after three runs in which cuDNN looks for its plan."""
    for _ in range(3):
        run()
    times = []
    for _ in range(repeats):
        if ON_GPU:
            start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            start.record()
            run()
            end.record()
            torch.cuda.synchronize()
            times.append(start.elapsed_time(end))
        else:
            started = perf_counter()
            run()
            times.append(1000 * (perf_counter() - started))
    return statistics.median(times)


def copy_rate() -> float:
    """Bytes a second, read and written."""
    source = torch.zeros(2**30 if ON_GPU else 2**24, dtype=torch.uint8, device=DEVICE)
    target = torch.empty_like(source)
    return 2000 * source.nbytes / milliseconds(lambda: target.copy_(source))


def passes_of(layer: Layer) -> dict[str, float]:
    """Milliseconds of a convolution alone, channels last, in bfloat16."""

    def random(shape: tuple[int, ...]) -> Tensor:
        tensor = torch.randn(shape, dtype=torch.bfloat16, device=DEVICE)
        return tensor.to(memory_format=torch.channels_last)

    image, weights, gradient = random(layer.inputs), random(layer.weights), random(layer.outputs)

    def backward(of_image: bool) -> Callable[[], object]:
        wanted = [of_image, not of_image, False]
        return lambda: torch.ops.aten.convolution_backward(
            gradient, image, weights, None, layer.stride, layer.padding, (1, 1), False, (0, 0), 1, wanted
        )

    found = {
        "forward": milliseconds(lambda: torch.nn.functional.conv2d(image, weights, None, layer.stride, layer.padding)),
        "weights": milliseconds(backward(of_image=False)),
    }
    if layer.inputs[1] > 3:  # nobody asks for the gradient of the images
        found["input"] = milliseconds(backward(of_image=True))
    return found


def norm_passes(norms: list[tuple[int, ...]]) -> float:
    """Bytes that batch norm moves at least, in training: four norms a block, of which two are added and pooled."""
    inner, ending = 8, 5.75  # times the tensor
    total = 0.0
    for place, shape in enumerate(norms):
        # In the order of a block: shortcut, first, second, third; shortcut and third are added, pooled, written once.
        times = inner if place % 4 in (1, 2) else (ending if place % 4 == 3 else 5)
        total += times * BYTES * torch.Size(shape).numel()
    return total


def kernels(trainer: Trainer, steps: int = 5) -> list[dict]:
    """Name, calls and milliseconds a step of all kernels of some steps, the longest first."""
    activities = [torch.profiler.ProfilerActivity.CUDA] if ON_GPU else [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities) as profiler:
        for _ in range(steps):
            trainer.step()
        if ON_GPU:
            torch.cuda.synchronize()
    rows = []
    for event in profiler.key_averages():
        us = event.self_device_time_total if ON_GPU else event.self_cpu_time_total
        if us > 0:
            rows.append({"name": event.key, "calls": event.count / steps, "ms": us / steps / 1000})
    return sorted(rows, key=lambda row: -row["ms"])


def kind_of(name: str) -> str:
    lower = name.lower()
    return next((kind for kind, words in KINDS if any(word in lower for word in words)), "other")


def measure(name: str, options: argparse.Namespace, matrix: float, copy: float) -> dict:
    """Everything of one model; rates are operations and bytes a second."""
    size = options.size
    model = make_model(name, size, "resnet12")
    episode = EpisodeConfig(way=5, shot=TRAIN_SHOT.get(size, 5), query=6)
    images = options.episodes_per_step * 5 * (episode.shot_range[1] + episode.query)
    seen, operations = shapes(model, images), operations_per_image(model) * images
    config = TrainConfig(
        episodes_per_step=options.episodes_per_step,
        episode=episode,
        augmentation=AugmentConfig(crop_padding=8 if size == 84 else 4),
        compile="default" if ON_GPU else "off",
        cuda_graph=ON_GPU,
    )
    by_reads, found = {}, []
    for reads in map(int, options.reads.split(",")):
        torch.compiler.reset()
        OPTIONS["realize_reads_threshold"] = reads
        trainer = Trainer(model, random_images(size), config)
        torch.backends.cudnn.benchmark_limit = options.plans
        seconds, _ = seconds_per_step(trainer, options.steps, repeats=3)
        by_reads[reads] = 1000 * seconds
        found = kernels(trainer)
        del trainer
        if ON_GPU:
            torch.cuda.empty_cache()
    layers = []
    for layer, count in Counter(seen.layers).items():
        for kind, ms in passes_of(layer).items():
            row = {"layer": asdict(layer), "count": count, "pass": kind, "ms": ms}
            row["least_ms"] = 1000 * max(layer.operations / matrix, layer.bytes / copy)
            layers.append({**row, "tflops": layer.operations / ms / 1e9, "tb_s": layer.bytes / ms / 1e9})
    moved = norm_passes(seen.norms)
    return {
        "model": name,
        "px": size,
        "images": images,
        "ms_per_step": 1000 * seconds,
        "ms_per_step_by_reads": by_reads,
        "share_of_matrix_rate": operations / seconds / matrix,
        "operations": operations,
        "ms_at_the_matrix_rate": 1000 * operations / matrix,
        "convolution_bytes": sum(row["count"] * row["tb_s"] * row["ms"] * 1e9 for row in layers),
        "convolutions_alone_ms": sum(row["count"] * row["ms"] for row in layers),
        "convolutions_least_ms": sum(row["count"] * row["least_ms"] for row in layers),
        "norm_bytes": moved,
        "norm_least_ms": 1000 * moved / copy,
        "kernels": found,
        "layers": layers,
    }


def show(row: dict) -> None:
    """The tables of one model."""
    print(f"\n{row['model']}, {row['px']} px, {row['images']} images: {row['ms_per_step']:.1f} ms a step, ", end="")
    print(f"{100 * row['share_of_matrix_rate']:.1f} % of the matrix rate")
    print("with reads of " + ", ".join(f"{k}: {ms:.1f} ms" for k, ms in row["ms_per_step_by_reads"].items()) + "\n")
    print("| kernels | ms a step | % |\n|---|---|---|")
    by_kind: Counter[str] = Counter()
    for kernel in row["kernels"]:
        by_kind[kind_of(kernel["name"])] += kernel["ms"]
    total = sum(by_kind.values())
    for kind, ms in by_kind.most_common():
        print(f"| {kind} | {ms:.2f} | {100 * ms / total:.1f} |")
    print("\n| convolution alone | pass | times | ms | TFLOP/s | TB/s | least ms |\n|---|---|---|---|---|---|---|")
    for part in row["layers"]:
        into, out = part["layer"]["inputs"], part["layer"]["weights"]
        what = f"{into[1]} to {out[0]}, {out[2]}x{out[3]}, {into[2]} px"
        rates = f"{part['tflops']:.0f} | {part['tb_s']:.2f} | {part['least_ms']:.2f}"
        print(f"| {what} | {part['pass']} | {part['count']} | {part['ms']:.2f} | {rates} |")
    least = row["convolutions_least_ms"] + row["norm_least_ms"]
    ideal = row["ms_at_the_matrix_rate"]
    print(
        f"\n{row['operations'] / 1e12:.1f} TFLOP, {ideal:.1f} ms at the matrix rate; convolutions "
        f"{row['convolution_bytes'] / 1e9:.0f} GB, alone {row['convolutions_alone_ms']:.1f} ms, least "
        f"{row['convolutions_least_ms']:.1f}; norms {row['norm_bytes'] / 1e9:.0f} GB, least {row['norm_least_ms']:.1f} "
        f"ms; the least of both is {100 * ideal / least:.0f} % of the matrix rate, and with convolutions as they "
        f"are alone {100 * ideal / (row['convolutions_alone_ms'] + row['norm_least_ms']):.0f} %",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default="mcrnet,plain")
    parser.add_argument("--size", type=int, default=84)
    parser.add_argument("--plans", type=int, default=10, help="of cuDNN, timed for each convolution; 0: all")
    parser.add_argument("--reads", default="4,16", help="realize_reads_threshold: the compiler's own, and what we set")
    parser.add_argument("--steps", type=int, default=20, help="steps in one timing, of which three are made")
    parser.add_argument("--episodes-per-step", type=int, default=8)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.backends.cudnn.benchmark = True
    torch.backends.cudnn.benchmark_limit = options.plans

    matrix = matrix_rate(torch.device("cuda")) if ON_GPU else 1e11
    copy = copy_rate()
    processor = torch.cuda.get_device_name() if ON_GPU else processor_name()
    print(f"{processor}, torch {torch.__version__}: {matrix / 1e12:.0f} TFLOP/s, copy {copy / 1e12:.2f} TB/s", end="")
    print(f"; {options.plans or 'all'} plans of cuDNN {torch.backends.cudnn.version()}", flush=True)
    machine = {"processor": processor, "torch": torch.__version__, "matrix_rate": matrix, "copy_rate": copy}
    rows = []
    for name in options.models.split(","):
        rows.append(measure(name, options, matrix, copy))
        show(rows[-1])
        if options.out:
            options.out.write_text(json.dumps({"machine": machine, "plans": options.plans, "rows": rows}, indent=1))


if __name__ == "__main__":
    main()
