"""Does a model trained with few bits learn as well? Validation loss of BF16, FP8 and FP4, side by side.

    python benchmarks/moe_convergence.py --prepare                     # on a CPU: tokenize, write the pack
    python benchmarks/moe_convergence.py [--recipes bf16,fp8,fp4] [--seeds 0,1,2] [--minutes 9] [--out FILE.json]
    python benchmarks/moe_convergence.py --show [--out FILE.json] [--figure FILE.png]

A recipe is `bf16`, `fp8`, `fp4`, `paper` (as the paper's authors' code has it), or `fp4` with one thing changed:

    fp4-floor, fp4-best     another rule for the scales of MXFP4 blocks (default: even)
    fp4-z-bf16, fp4-z-fp8   FC1's output kept in BF16 or FP8 (default: MXFP4)
    fp4-from-fp8            the experts' input goes to MXFP4 from FP8 (default: from BF16)
    fp4-dispatch-fp8        FC1 reads its input in FP8, as if dispatched so; kept in MXFP4 all the same
    fp4-stochastic          MXFP4 rounded at random, right on average (default: to the nearest)
    fp4-exact-sums          FP8 products add up in FP32 (default: in the tensor core's accumulator)

With one seed, all recipes start from the same weights and see the same text in the same order; another seed has others.
Differences are therefore taken seed by seed, and their standard error says how far the seeds agree. The model validates
as it trains, under its recipe, and at the end also under BF16: that tells what the weights have learned from what the
formats cost in the forward pass. The text is `text/books.*.txt.xz` in PAUCA_DATA: validation books are none of those
trained on. No window of text is seen twice before all were seen once; the number of epochs is printed.

Finished runs are kept in --out after each one, and skipped when the benchmark is called again: it can be cut and
continued. What an unfinished run has validated so far is kept beside them, and its last validation shown. A step is one
CUDA graph and never waits for the host.

To see everything run on a CPU within a minute: --size toy --context 64 --batch 4 --steps 20 --validation-windows 8
"""

import argparse
import gc
import json
import lzma
import math
import os
import platform
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from moe_shapes import show
from pauca.moe import LM_SIZES, Experts, MoE, MoELM, Recipe, ops
from pauca.moe.layer import passes
from pauca.moe.models import blocks, cross_entropy
from pauca.moe.ops import reference
from pauca.runs import save_figure

HERE = Path(__file__).parent
PACK = Path(os.environ.get("PAUCA_PACK", HERE / ".pack" / "moe"))
TOKENS_OF_A_PART = 1 << 22
PACKED = [{"id": lzma.FILTER_LZMA2, "preset": 1, "lp": 1, "pb": 1, "dict_size": 1 << 24}]  # numbers of two bytes
VOCABULARY = 8192
MAIN = ("bf16", "fp8", "fp4")
VALIDATIONS = 10  # in one run
STEPS_BEFORE_CAPTURE = 3  # kernels compile, and the optimizer makes its state; they are steps of training, too
SECONDS_BEFORE_FIRST_GUESS = 150.0


# Recipes


RECIPES = {
    "bf16": Recipe.bf16(),
    "fp8": Recipe.fp8(),
    "fp4": Recipe.fp4(),
    "paper": Recipe.paper(),
    "fp4-floor": replace(Recipe.fp4(), scale_rule="floor"),
    "fp4-best": replace(Recipe.fp4(), scale_rule="best"),
    "fp4-z-bf16": Recipe.fp4(kept_z="bf16"),
    "fp4-z-fp8": Recipe.fp4(kept_z="fp8"),
    "fp4-from-fp8": Recipe.fp4(),
    "fp4-dispatch-fp8": Recipe.fp4(),
    "fp4-stochastic": replace(Recipe.fp4(), stochastic_rounding=True),
    "fp4-exact-sums": replace(Recipe.fp4(), fast_accumulate=False),
}


@contextmanager
def changed_passes(name: str) -> Iterator[None]:
    """The two variants that are no options of a recipe: what the layer's passes do is replaced meanwhile."""
    quantize, gather = passes.quantize, passes._gather_rows
    in_fp8 = []

    def quantize_from_fp8(x, format_, recipe):
        if format_ != "mxfp4":
            return quantize(x, format_, recipe)
        in_fp8[:] = [ops.quantize_fp8_rowwise(x)]
        return quantize(in_fp8[0] if name == "fp4-from-fp8" else x, format_, recipe)

    def gather_fp8(tokens, permutation):
        return ops.gather_fp8_rows(in_fp8.pop(), permutation.row_to_token)

    if name in ("fp4-from-fp8", "fp4-dispatch-fp8"):
        passes.quantize = quantize_from_fp8
    if name == "fp4-dispatch-fp8":
        passes._gather_rows = gather_fp8
    try:
        yield
    finally:
        passes.quantize, passes._gather_rows = quantize, gather


# Data


def prepare() -> None:
    """Learn a vocabulary from the training books, tokenize both files, and pack them."""
    from pauca.moe.data.prepare import DataConfig, prepare_tokens

    folder = Path(os.environ.get("PAUCA_DATA", HERE.parents[1] / "shared" / "data")) / "text"
    sources = {part: (str(folder / f"books.{part}.txt.xz"),) for part in ("train", "valid")}
    data = prepare_tokens(DataConfig(sources["train"], sources["valid"], vocabulary=VOCABULARY), HERE / ".cache")
    PACK.mkdir(parents=True, exist_ok=True)
    pack("validation", data.validation.tokens)
    pack("train", data.train.tokens)
    print(f"validation text: {data.bytes_per_token:.2f} bytes a token")


def pack(name: str, tokens: np.ndarray) -> None:
    """In parts, of which as many may be carried to another machine as there is room for."""
    for part, start in enumerate(range(0, len(tokens), TOKENS_OF_A_PART)):
        piece = tokens[start : start + TOKENS_OF_A_PART].astype("<u2")
        packed = lzma.compress(piece.tobytes(), filters=PACKED)
        (PACK / f"{name}.{part}.u2.xz").write_bytes(packed)
        print(f"{name}.{part}: {len(piece):,} tokens, {len(packed) / 2**20:.1f} MiB packed, in {PACK}", flush=True)


def unpack(name: str) -> np.ndarray:
    """All parts that are there, from the first on."""
    parts = []
    while (file := PACK / f"{name}.{len(parts)}.u2.xz").exists():
        parts.append(np.frombuffer(lzma.decompress(file.read_bytes()), "<u2"))
    if not parts:
        raise SystemExit(f"{PACK} holds no tokens; make them with --prepare on a machine that has the text")
    return np.concatenate(parts).astype(np.int32)


def load(device: torch.device) -> dict[str, Tensor]:
    """Training and validation tokens, on the device."""
    return {name: torch.tensor(unpack(name)).to(device) for name in ("train", "validation")}


def window_starts(tokens: int, steps: int, batch: int, context: int, seed: int) -> np.ndarray:
    """Where each step's windows start: [steps, batch]; epoch by epoch, each in an order of its own."""
    windows = (tokens - 1) // context
    generator, epochs = np.random.default_rng(seed), math.ceil(steps * batch / windows)
    order = np.concatenate([generator.permutation(windows) for _ in range(epochs)])[: steps * batch]
    return order.reshape(steps, batch) * context


# Training


class Training:
    """A model in training whose every step is the same work for the device: data, learning rate and log lie there."""

    def __init__(self, recipe: Recipe, seed: int, tokens: dict[str, Tensor], options: argparse.Namespace) -> None:
        self.options, self.tokens = options, tokens
        self.device = device = tokens["train"].device
        torch.manual_seed(seed)
        config = replace(LM_SIZES[options.size], vocabulary=VOCABULARY, context=options.context, recipe=recipe)
        with device:  # 218 million random numbers take seconds on a CPU
            self.model = MoELM(config)
        self.layers = [module for module in self.model.modules() if isinstance(module, MoE)]
        if options.compile:
            compile_small_operations(self.model)
        starts = window_starts(len(tokens["train"]), options.steps, options.batch, options.context, seed)
        self.starts = torch.tensor(starts, device=device)
        self.rates = torch.tensor([learning_rate(s, options) for s in range(options.steps)], device=device)
        self.place = torch.zeros(1, dtype=torch.int64, device=device)  # the step
        self.losses = torch.zeros(options.steps, device=device)
        self.optimizer = adamw(self.model)
        self.steps_done = 0
        self.graph: torch.cuda.CUDAGraph | None = None
        # All steps run on one stream beside the default one: a graph must be captured where it was warmed up.
        self.stream = torch.cuda.Stream() if device.type == "cuda" else None

    def run_until(self, step: int) -> None:
        """Train; returns when all is done on the device."""
        synchronize(self.device)
        with torch.cuda.stream(self.stream):  # no effect without one
            while self.steps_done < step:
                if self.options.graph and self.steps_done == STEPS_BEFORE_CAPTURE:
                    self._capture()
                if self.graph is not None:
                    self.graph.replay()
                else:
                    self.optimizer.zero_grad(set_to_none=True)
                    self._step()
                self.steps_done += 1
        synchronize(self.device)

    def _capture(self) -> None:
        self.optimizer.zero_grad(set_to_none=True)  # so that gradients are made anew within the graph
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=self.stream):
            self._step()
        self.graph = graph

    def _step(self) -> None:
        for group in self.optimizer.param_groups:
            group["lr"].copy_(self.rates.index_select(0, self.place)[0])
        windows = self._windows(self.tokens["train"], self.starts.index_select(0, self.place)[0])
        losses = self.model.loss(windows[:, :-1], windows[:, 1:])
        losses.total.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0, foreach=True)
        self.optimizer.step()
        self.losses.index_copy_(0, self.place, losses.cross_entropy.detach()[None])
        self.place += 1
        for layer in self.layers:  # the graph of this loss would outlive the step, and its stream
            layer.auxiliary_loss = None

    def _windows(self, tokens: Tensor, starts: Tensor) -> Tensor:
        reach = torch.arange(self.options.context + 1, device=self.device)
        return tokens[starts[:, None] + reach].long()

    def validation_batches(self, windows: int) -> Iterator[Tensor]:
        """The first windows of the validation books, one batch at least; all batches are full: no rest is compiled."""
        available = (len(self.tokens["validation"]) - 1) // self.options.context
        count = min(max(windows, self.options.batch), available)
        starts = torch.arange(count, device=self.device) * self.options.context
        for batch in starts.split(self.options.batch):
            if len(batch) == self.options.batch:
                yield self._windows(self.tokens["validation"], batch)

    @torch.no_grad()
    def validate(self, windows: int) -> float:
        """Mean cross entropy, nats per token."""
        self.model.eval()
        losses = [self.model.loss(batch[:, :-1], batch[:, 1:]) for batch in self.validation_batches(windows)]
        self.model.train()
        return torch.stack([loss.cross_entropy for loss in losses]).mean().item()

    @torch.no_grad()
    def inexact_shares(self) -> dict[str, list[float]]:
        """Of each layer, on one batch of validation text: the share of elements that a shared FP8 scale changes."""
        found: dict[str, list[float]] = {}

        def look(layer: MoE, inputs: tuple[Tensor, ...]) -> None:
            for name, share in layer.inexact_shares(inputs[0]).items():
                found.setdefault(name, []).append(share.item())

        hooks = [layer.register_forward_pre_hook(look) for layer in self.layers]
        self.validate(self.options.batch)
        for hook in hooks:
            hook.remove()
        return found

    def set_recipe(self, recipe: Recipe) -> None:
        for module in self.model.modules():
            if isinstance(module, Experts):
                module.recipe = recipe


def compile_small_operations(model: MoELM) -> None:
    """Fuse the small operations: norms, rotation, attention, loss, and the rounding at random, which has no kernel.

    All runs share what is compiled. Experts are left alone: their recipe is a constant to the compiler, which would
    compile once for each.
    """
    torch._dynamo.config.recompile_limit = 64
    for module in model.modules():
        if isinstance(module, blocks.RMSNorm | blocks.Attention):
            module.forward = torch.compile(module.forward)
    for module, name in ((cross_entropy, "_loss_and_error"), (reference, "quantize_mxfp4_stochastic")):
        function = getattr(module, name)
        if not hasattr(function, "_torchdynamo_orig_callable"):
            setattr(module, name, torch.compile(function))


def adamw(model: MoELM) -> torch.optim.AdamW:
    parameters = list(model.parameters())
    device = parameters[0].device
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": 0.1},
        {"params": [p for p in parameters if p.ndim == 1], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.95), fused=True, capturable=device.type == "cuda")
    for group in optimizer.param_groups:
        group["lr"] = torch.zeros((), device=device)  # a graph reads it anew each time
    return optimizer


def learning_rate(step: int, options: argparse.Namespace) -> float:
    """A straight rise over 5 % of the steps, then half a cosine down to a tenth."""
    rise = max(1, options.steps // 20)
    if step < rise:
        return options.learning_rate * (step + 1) / rise
    done = (step - rise) / max(1, options.steps - rise)
    return options.learning_rate * (0.55 + 0.45 * math.cos(math.pi * done))


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def train(
    name: str, seed: int, tokens: dict[str, Tensor], options: argparse.Namespace, report: Callable[[dict], None]
) -> dict:
    """One run: its curves, final losses, speed; `report` is given the curves so far, ten times."""
    recipe = RECIPES[name]
    training = Training(recipe, seed, tokens, options)
    validation, inexact = [], []
    with changed_passes(name):
        training.run_until(min(STEPS_BEFORE_CAPTURE + 1, options.steps))  # compiles, and captures the graph
        seconds, untimed = 0.0, training.steps_done
        for mark in (options.steps * n // VALIDATIONS for n in range(1, VALIDATIONS + 1)):
            started = time.monotonic()
            training.run_until(mark)
            seconds += time.monotonic() - started
            validation.append((mark, training.validate(options.validation_windows // 4)))
            if recipe.precision == "fp4":
                inexact.append((mark, training.inexact_shares()))
            so_far = (training.steps_done - untimed) * options.batch * options.context / seconds
            report({"validation": validation, "tokens_per_s": round(so_far)})
        final = training.validate(options.validation_windows)
    training.set_recipe(Recipe.bf16())
    rate = (options.steps - untimed) * options.batch * options.context / seconds
    result = {
        "final": final,
        "final_in_bf16": training.validate(options.validation_windows),
        "validation": validation,
        "inexact": inexact,
        "losses": [round(loss, 4) for loss in training.losses.tolist()],
        "tokens_per_s": round(rate),
        "model_tflop_per_s": round(rate * training.model.config.flops_per_token / 1e12, 1),
    }
    if not math.isfinite(final):
        print(f"{name} seed {seed}: the loss is not finite", flush=True)
    return result


# Results


def runs_of(results: dict, name: str, what: Callable[[dict], float]) -> dict[int, float]:
    """A number of each of a recipe's runs, by seed."""
    named = ((*key.rsplit("@", 1), result) for key, result in results.items())
    return {int(seed): what(result) for recipe, seed, result in named if recipe == name}


def gap(runs: dict[int, float], baseline: dict[int, float]) -> tuple[float, float, int] | None:
    """Mean of the relative differences, seed by seed, in percent; its standard error (NaN of one seed); seeds."""
    shared = sorted(runs.keys() & baseline.keys())
    if not shared:
        return None
    differences = np.array([100 * (runs[seed] / baseline[seed] - 1) for seed in shared])
    error = differences.std(ddof=1) / math.sqrt(len(shared)) if len(shared) > 1 else float("nan")
    return differences.mean(), error, len(shared)


def gap_cell(runs: dict[int, float], baseline: dict[int, float]) -> str:
    found = gap(runs, baseline)
    if found is None or runs is baseline:
        return ""
    mean, error, seeds = found
    return f"{mean:+.3f} % (1 seed)" if seeds == 1 else f"{mean:+.3f} ± {error:.3f} %"


def last_tenth(result: dict) -> float:
    """Mean training loss: of text that all recipes see in the same order, so that it tells them apart sooner."""
    losses = result["losses"]
    return float(np.mean(losses[-max(1, len(losses) // 10) :]))


def show_unfinished(unfinished: dict) -> None:
    """The last validation of runs that did not come to their end."""
    for key, run in unfinished.items():
        step, loss = run["validation"][-1]
        print(f"unfinished: {key} validated {loss:.4f} at step {step}, {run['tokens_per_s']:,} tokens/s")


def show_results(stored: dict) -> None:
    results = stored["results"]
    show_unfinished(stored.get("unfinished", {}))
    if not results:
        return
    names = [name for name in RECIPES if runs_of(results, name, lambda r: r["final"])]
    finals = {name: runs_of(results, name, lambda r: r["final"]) for name in names}
    trained = {name: runs_of(results, name, last_tenth) for name in names}
    in_bf16 = {name: runs_of(results, name, lambda r: r["final_in_bf16"]) for name in names}
    rows = []
    for name in names:
        values = np.array(list(finals[name].values()))
        spread = f"{values.std(ddof=1):.4f}" if len(values) > 1 else ""
        rates = runs_of(results, name, lambda r: r["tokens_per_s"]).values()
        rows.append(
            [
                name,
                len(values),
                f"{values.mean():.4f}",
                spread,
                gap_cell(finals[name], finals.get("bf16", {})) if name != "bf16" else "",
                gap_cell(in_bf16[name], in_bf16.get("bf16", {})) if name != "bf16" else "",
                f"{np.mean(list(trained[name].values())):.4f}",
                gap_cell(trained[name], trained.get("bf16", {})) if name != "bf16" else "",
                f"{np.mean(list(rates)) / 1e3:.0f}k",
                worst_inexact([result for key, result in results.items() if key.rsplit("@", 1)[0] == name]),
            ]
        )
    header = (
        "recipe",
        "seeds",
        "validation loss",
        "deviation",
        "over bf16",
        "weights alone",
        "training",
        "over bf16",
        "tokens/s",
        "inexact",
    )
    print(f"\n{stored['machine']}\n{stored['settings']}")
    show("Validation loss, nats per token; differences seed by seed, ± standard error", header, rows)
    print("training: loss over the last tenth of the steps")
    print("weights alone: validated in BF16, whatever they were trained in")
    print(
        "inexact: elements that the FP8 scale of a row / an expert's channel changed; of all layers, the largest share"
    )


def worst_inexact(results: list[dict]) -> str:
    looks = [shares for result in results for _, shares in result["inexact"]]
    if not looks:
        return ""
    return " / ".join(f"{max(max(look[name]) for look in looks):.1e}" for name in ("fc1_rows", "fc1_columns"))


def draw(stored: dict, path: Path) -> None:
    """Validation loss of the main recipes, and how far it lies over BF16's; bands are the seeds' range."""
    from matplotlib import pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")
    per_step = stored["settings"]["batch"] * stored["settings"]["context"] / 1e6
    curves = {}
    for name in MAIN:
        runs = runs_of(stored["results"], name, lambda r: [loss for _, loss in r["validation"]])
        if runs:
            curves[name] = runs
    places = next(iter(stored["results"].values()))["validation"]
    tokens = [step * per_step for step, _ in places]
    for number, (name, runs) in enumerate(curves.items()):
        values, color = np.array(list(runs.values())), f"C{number}"
        left.plot(tokens, values.mean(0), color=color, label=f"{name}, {len(values)} seed{'s' * (len(values) > 1)}")
        left.fill_between(tokens, values.min(0), values.max(0), color=color, alpha=0.25, linewidth=0)
        shared = sorted(runs.keys() & curves.get("bf16", {}).keys())
        if name != "bf16" and shared:
            over = np.array([100 * (np.array(runs[s]) / np.array(curves["bf16"][s]) - 1) for s in shared])
            right.plot(tokens, over.mean(0), color=color, label=name)
            right.fill_between(tokens, over.min(0), over.max(0), color=color, alpha=0.25, linewidth=0)
    right.axhline(0, color="C0", linewidth=1)
    right.axhline(0.25, color="gray", linewidth=1, linestyle="--", label="0.25 %, the customary bar")
    left.set(xlabel="million tokens", ylabel="validation loss, nats per token")
    right.set(xlabel="million tokens", ylabel="% over BF16, seed by seed")
    for axes in (left, right):
        axes.legend()
        axes.grid(alpha=0.3)
    save_figure(figure, path, force=True)
    print(f"figure: {path}")


# Command line


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--prepare", action="store_true", help="make the pack of tokens, and do nothing else")
    parser.add_argument("--show", action="store_true", help="show what --out holds, and do nothing else")
    parser.add_argument("--recipes", default=",".join(MAIN))
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--minutes", type=float, default=9.0, help="begin no run that would not end in this time")
    parser.add_argument("--size", default="base", choices=list(LM_SIZES))
    parser.add_argument("--steps", type=int, default=800)
    parser.add_argument("--batch", type=int, default=32, help="windows a step")
    parser.add_argument("--context", type=int, default=1024)
    parser.add_argument("--learning-rate", type=float, default=1.5e-3)
    parser.add_argument("--validation-windows", type=int, default=512, help="at the end; a quarter of them before")
    parser.add_argument("--no-compile", dest="compile", action="store_false")
    parser.add_argument("--no-graph", dest="graph", action="store_false")
    parser.add_argument("--out", type=Path, default=Path("moe_convergence.json"))
    parser.add_argument("--figure", type=Path)
    options = parser.parse_args()
    unknown = set(options.recipes.split(",")) - RECIPES.keys()
    if unknown:
        parser.error(f"no recipe is called {', '.join(sorted(unknown))}; there are {', '.join(RECIPES)}")
    return options


def open_results(options: argparse.Namespace, tokens: int) -> dict:
    """What --out holds; the machine, settings and text of this call must be those of the earlier ones."""
    names = ("size", "steps", "batch", "context", "learning_rate", "validation_windows")
    settings = {name: getattr(options, name) for name in names} | {"text": tokens}
    on_gpu = torch.cuda.is_available()
    name = torch.cuda.get_device_name() if on_gpu else platform.processor() or platform.machine()
    machine = {"device": name, "torch": torch.__version__, "python": platform.python_version()}
    fresh = {"machine": machine, "settings": settings, "results": {}}
    stored = json.loads(options.out.read_text()) if options.out.exists() else fresh
    if (stored["settings"], stored["machine"]) != (settings, machine):
        raise SystemExit(f"{options.out} holds results of {stored['settings']} on {stored['machine']}; give another")
    return stored


def write(stored: dict, path: Path) -> None:
    """In one move, so that a run that is cut meanwhile leaves what was there."""
    fresh = path.with_suffix(".new")
    fresh.write_text(json.dumps(stored))
    fresh.replace(path)


def run_all(options: argparse.Namespace, stored: dict, tokens: dict[str, Tensor], began: float) -> None:
    device = tokens["train"].device
    if device.type == "cpu":
        options.graph = options.compile = False
    seen = options.steps * options.batch * options.context
    print(
        f"{len(tokens['train']):,} tokens ready after {time.monotonic() - began:.0f} s; a run sees {seen:,}: "
        f"{seen / len(tokens['train']):.2f} epochs",
        flush=True,
    )
    expected = SECONDS_BEFORE_FIRST_GUESS
    for seed in map(int, options.seeds.split(",")):
        for name in options.recipes.split(","):
            key = f"{name}@{seed}"
            if key in stored["results"]:
                continue
            if time.monotonic() - began + expected > 60 * options.minutes:
                print(f"no time for {key}", flush=True)
                continue
            started = time.monotonic()

            def report(so_far: dict, key: str = key) -> None:
                stored.setdefault("unfinished", {})[key] = so_far
                write(stored, options.out)
                show_unfinished({key: so_far})

            stored["results"][key] = result = train(name, seed, tokens, options, report)
            del stored["unfinished"][key]
            gc.collect()  # the graph and its memory
            if device.type == "cuda":
                torch.cuda.empty_cache()
            write(stored, options.out)
            expected = time.monotonic() - started
            told = {name: result[name] for name in ("final", "final_in_bf16", "tokens_per_s", "model_tflop_per_s")}
            print(f"{key}: {told}, {expected:.0f} s", flush=True)


def main() -> None:
    options = arguments()
    if options.prepare:
        prepare()
        return
    if options.show:
        stored = json.loads(options.out.read_text())
    else:
        began = time.monotonic()
        tokens = load(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
        stored = open_results(options, len(tokens["train"]))
        run_all(options, stored, tokens, began)
    show_results(stored)
    if options.figure:
        draw(stored, options.figure)


if __name__ == "__main__":
    main()
