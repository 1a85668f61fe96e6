"""Does alignment help to recognize things from events? Pictures of counts, time surfaces and aligned views, paired.

    python benchmarks/recognize.py nmnist --model runs/recognize/glyphs/checkpoints/best.safetensors
    python benchmarks/recognize.py simulated --model efficientnet-lite0
    python benchmarks/recognize.py objects --json objects.json

`nmnist`: N-MNIST, 30 training recordings a class to draw examples from, 100 test recordings. `simulated`: 20
characters before a camera of 34 x 34 pixels that is shaken at 30 to 1,000 deg/s, ten recordings of each to draw
examples from, seven to name, examples and questions alike. `objects`: DVS128, things on a turning table, five views of
each in session a to learn from, session b to name: drawn from all views, or spread over the recording. Accuracy in
percent, over draws of the examples (the same for every kind of picture); what alignment adds to counts has two 95 %
intervals, over draws and over classes, and is bold where zero lies outside both. Before that, `objects` says what the
models have on views of session a that they did not learn from: settings are chosen by that, and not by session b.
"""

import argparse
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pauca import events, fewshot
from pauca.fewshot.data import load_images
from pauca.recognize import PictureConfig, ShakeConfig, open_model
from pauca.recognize.pictures import square
from pauca.recognize.simulation import shake
from pauca.runs import Progress, describe_machine

DATA = Path(os.environ.get("PAUCA_DATA", "../shared/data")) / "events" / "recognition"
KINDS = ("counts", "time surface", "aligned")
SIDE = 32
NEAREST_MEAN = "nearest mean"
TAU_US = 30_000  # decay of the time surface
SPEEDS = (30, 100, 300, 1000)  # deg/s
Pictures = dict[Any, Any]  # (kind, side): a picture; weight: events; travel: pixels


def draw(recording: events.Recording, sides: list[int], framing: str = "fit") -> list[Pictures]:
    """Every view of a recording, in every kind and size."""
    config = PictureConfig(framing=framing)  # type: ignore[arg-type]
    stream = events.remove_hot_pixels(recording).events
    aligner = config.aligner(stream.size, None)
    border = aligner.config.border
    out = []
    for view in events.views(aligner, stream, config.view_config()):
        surface = np.pad(time_surface(stream.between(view.start_us, view.end_us + 1)), border)
        kinds = {"counts": view.unaligned.sum(0), "time surface": surface, "aligned": view.images.sum(0)}
        shown: Pictures = {
            (kind, side): square(kinds[kind], side, border, config.framing) for kind in KINDS for side in sides
        }
        out.append(shown | {"weight": view.n_events, "travel": travel(view, aligner.camera.fx)})
    return out


def travel(view: events.View, focal: float) -> float:
    """How far the image moves within a view, in pixels of the sensor: as wide is its blur without alignment."""
    steps = [a.velocity[:2] * focal * (a.end_us - a.start_us) * 1e-6 for a in view.alignments]
    places = np.cumsum([np.zeros(2), *steps], 0)
    return float(np.hypot(*np.ptp(places, 0)))


def say_travel(title: str, found: list[Pictures]) -> None:
    """The median, and what lies between a tenth and nine tenths."""
    low, middle, high = np.percentile([shown["travel"] for shown in found], (10, 50, 90))
    print(f"| {title}pixels that things move by in a view | | | {middle:.1f} ({low:.1f} to {high:.1f}) | |", flush=True)


def time_surface(stream: events.Events) -> np.ndarray:
    """How recently each pixel has fired: exp(-age / 30 ms), whatever the polarity."""
    width, height = stream.size
    last = np.full((height, width), -np.inf)
    last[stream.y, stream.x] = stream.t_us  # the latest is written last
    return np.exp((last - stream.t_us[-1]) / TAU_US).astype(np.float32)


def best(recording: events.Recording, sides: list[int]) -> Pictures:
    """The view with most events."""
    return max(draw(recording, sides), key=lambda shown: shown["weight"])


def nmnist(per_class: int, sides: list[int]) -> tuple[list[Pictures], np.ndarray, np.ndarray]:
    """Pictures, labels, and which are of the test set."""
    with np.load(DATA / "nmnist_small.npz") as archive:
        data = {name: archive[name] for name in archive.files}
    rng = np.random.default_rng(0)
    train = [rng.permutation(np.flatnonzero((data["label"] == c) & (data["test"] == 0)))[:per_class] for c in range(10)]
    chosen = np.concatenate([*train, np.flatnonzero(data["test"] == 1)])
    found = [best(_cut(data, int(i)), sides) for i in _shown(chosen, "n-mnist")]
    return found, data["label"][chosen].astype(int), data["test"][chosen] == 1


def _cut(data: dict[str, np.ndarray], i: int) -> events.Recording:
    part = slice(data["offset"][i], data["offset"][i + 1])
    t_us = data["t_us"][part].astype(np.int64)
    order = np.argsort(t_us, kind="stable")
    columns = (data[name][part][order] for name in "xyp")
    return events.Recording(events.Events.from_arrays(t_us[order], *columns, (34, 34)))


def simulated(
    speed: int, sides: list[int], classes: int = 20, each: int = 17
) -> tuple[list[Pictures], np.ndarray, np.ndarray]:
    """Characters that no model was trained on, shaken at one speed; the last seven of each are asked about."""
    images = fewshot.draw_glyphs("test", per_class=each, size=48, classes=classes, seed=5)
    config = ShakeConfig(slowest_deg_s=float(speed), fastest_deg_s=float(speed), motion_seed=speed)
    places = _shown(np.arange(len(images)), f"{speed} deg/s")
    found = [best(shake(images.images[i, 0].numpy(), config, int(i)), sides) for i in places]
    return found, images.labels.numpy(), np.arange(len(images)) % each >= 10


def _shown(places: np.ndarray, title: str) -> Iterator[int]:
    with Progress(title, total=len(places), unit="recordings") as progress:
        for place in places:
            yield int(place)
            progress.advance()


def features(model: fewshot.FewShotModel, pictures: np.ndarray) -> torch.Tensor:
    """Of gray pictures [n, side, side]."""
    config = model.config
    images = load_images(pictures, config.image_size, config.channels, config.fitting)
    with torch.no_grad():
        return torch.cat([model.embed(part) for part in images.split(64)]).double()


def logits(
    model: fewshot.FewShotModel, support: torch.Tensor, labels: np.ndarray, asked: torch.Tensor, way: int
) -> np.ndarray:
    """What the model's base learner says, [n, way]."""
    with torch.no_grad():
        return model.fitted(support[None], torch.from_numpy(labels)[None], way)(asked[None])[0].numpy()


def compare(
    found: list[Pictures], labels: np.ndarray, test: np.ndarray, model: fewshot.FewShotModel, shot: int, draws: int
) -> dict[str, np.ndarray]:
    """Which test pictures are named rightly, [draws, n], for each kind."""
    side, way = model.config.image_size, len(np.unique(labels))
    made = {kind: features(model, np.stack([shown[kind, side] for shown in found])) for kind in KINDS}
    right = {kind: [] for kind in KINDS}
    for seed in range(draws):
        rng = np.random.default_rng(seed)
        chosen = [rng.choice(np.flatnonzero((labels == c) & ~test), shot, replace=False) for c in range(way)]
        support = np.concatenate(chosen)
        for kind, rows in made.items():
            said = logits(model, rows[support], labels[support], rows[test], way)
            right[kind].append(said.argmax(1) == labels[test])
    return {kind: np.array(rows) for kind, rows in right.items()}


def table(title: str, right: dict[str, np.ndarray], truth: np.ndarray) -> dict:
    """One line of the table, printed and for JSON."""
    accuracy = {kind: fewshot.mean_interval(rows.mean(1)) for kind, rows in right.items()}
    difference = right["aligned"].astype(float) - right["counts"]
    over_draws = fewshot.mean_interval(difference.mean(1))
    over_classes = fewshot.mean_interval(np.array([difference[:, truth == c].mean() for c in np.unique(truth)]))
    cells = " | ".join(str(accuracy[kind]) for kind in KINDS)
    gain = f"{over_draws}, over classes ± {100 * over_classes.half_width:.2f}"
    sure = abs(over_draws.mean) > max(over_draws.half_width, over_classes.half_width)
    print(f"| {title} | {cells} | {f'**{gain}**' if sure else gain} |", flush=True)
    numbers = {kind: interval._asdict() for kind, interval in accuracy.items()}
    return {"row": title, **numbers, "gain": over_draws._asdict(), "gain_over_classes": over_classes._asdict()}


def objects(models: dict[str, fewshot.FewShotModel], draws: int, sides: list[int]) -> list[dict]:
    """Five views of each object of session a; views of session b alone, and five that vote."""
    seen: dict[str, dict[str, list[Pictures]]] = {"a": {}, "b": {}}
    for path in _shown_paths(sorted((DATA / "dvs128_objects").glob("[ab]_*.npz"))):
        seen[path.stem[0]][path.stem[2:]] = draw(events.read(path), sides, "fixed")
    say_travel("", [one for session in seen.values() for some in session.values() for one in some])
    things = sorted(seen["a"])
    common = [thing for thing in things if thing in seen["b"]]
    shown = {"a": [(things.index(t), one) for t in things for one in seen["a"][t]]}
    shown["b"] = [(things.index(t), one) for t in common for one in seen["b"][t]]
    labels = {session: np.array([label for label, _ in some]) for session, some in shown.items()}
    rows = []
    for name, model in models.items():
        made = {}
        for kind in KINDS:
            a, b = ([one[kind, model.config.image_size] for _, one in shown[session]] for session in "ab")
            made[kind] = features(model, np.stack(a)), features(model, np.stack(b))
        for spread in (False, True):
            title = f"{name}, {'spread' if spread else 'any'} five"
            rows += _object_rows(title, model, made, labels, draws, spread)
    print(f"{len(common)} objects of {len(things)} learned: {', '.join(common)}")
    return rows


def _object_rows(
    title: str, model: fewshot.FewShotModel, made: dict, labels: dict[str, np.ndarray], draws: int, spread: bool
) -> list[dict]:
    """What session a says of itself, and rows for votes of session b."""
    way, truth = int(labels["a"].max()) + 1, np.unique(labels["b"])
    right: dict[str, dict[str, list]] = {how: {kind: [] for kind in KINDS} for how in VOTES}
    within = []
    for seed in range(draws):
        rng = np.random.default_rng(seed)
        chosen = np.concatenate([_five(np.flatnonzero(labels["a"] == c), rng, spread) for c in range(way)])
        for kind, (a, b) in made.items():
            support = a[chosen], labels["a"][chosen]
            if kind == "aligned":
                others = np.setdiff1d(np.arange(len(a)), chosen)
                within.append(np.mean(logits(model, *support, a[others], way).argmax(1) == labels["a"][others]))
            said = logits(model, *support, b, way)
            for how, vote in VOTES.items():
                right[how][kind].append([np.mean(vote(said[labels["b"] == c]).argmax(1) == c) for c in truth])
    print(f"| {title}, other views of session a | | | {100 * np.mean(within):.1f} | |")
    return [table(f"{title}, {how}", {k: np.array(v) for k, v in by.items()}, truth) for how, by in right.items()]


def _five(places: np.ndarray, rng: np.random.Generator, spread: bool) -> np.ndarray:
    """Five places: any, or evenly spread from any start."""
    if not spread:
        return rng.choice(places, 5, replace=False)
    return np.roll(places, -int(rng.integers(len(places))))[np.arange(5) * len(places) // 5]


def _in_a_row(said: np.ndarray) -> np.ndarray:
    return np.stack([said[i : i + 5].mean(0) for i in range(0, len(said) - 4, 5)])


def _over_the_recording(said: np.ndarray) -> np.ndarray:
    step = len(said) // 5
    return np.stack([said[i : i + 5 * step : step].mean(0) for i in range(step)])


VOTES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "one view": lambda said: said,
    "five in a row": _in_a_row,
    "five spread": _over_the_recording,
}


def _shown_paths(paths: list[Path]) -> Iterator[Path]:
    with Progress("objects", total=len(paths), unit="recordings") as progress:
        for path in paths:
            yield path
            progress.advance()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", choices=["nmnist", "simulated", "objects"])
    parser.add_argument("--model", action="append", default=[], help="a trained model, beside edges and pixels")
    usual = [NEAREST_MEAN, "pixels", "edges"]
    parser.add_argument("--untrained", nargs="*", default=usual, help="turned is for objects")
    parser.add_argument("--draws", type=int, default=20)
    parser.add_argument("--per-class", type=int, default=30, help="recordings of N-MNIST to draw examples from")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    models = {name: opened(name) for name in (*options.untrained, *options.model)}
    models = {_title(name): model for name, model in models.items()}
    sides = sorted({model.config.image_size for model in models.values()})
    print(f"{options.data}, {options.draws} draws; {describe_machine()['processor']}\n")
    print("| pictures by | " + " | ".join(KINDS) + " | aligned - counts, points |\n|---|---|---|---|---|")
    if options.data == "objects":
        rows = objects(models, options.draws, sides)
    else:
        sources: dict[str, Callable] = {"": lambda: nmnist(options.per_class, sides)}
        if options.data == "simulated":
            sources = {f"{speed} deg/s, ": (lambda speed=speed: simulated(speed, sides)) for speed in SPEEDS}
        rows = []
        for title, load in sources.items():
            found, labels, test = load()
            say_travel(title, found)
            for name, model in models.items():
                for shot in (1, 5):
                    right = compare(found, labels, test, model, shot, options.draws)
                    rows.append(table(f"{title}{name}, {shot} a class", right, labels[test]))
    if options.json:
        options.json.write_text(json.dumps({"machine": describe_machine(), "rows": rows}, indent=2))


def opened(name: str) -> fewshot.FewShotModel:
    """A model by its name; the nearest mean, of pixels, is one that no user would take."""
    if name != NEAREST_MEAN:
        return open_model(name)
    plain = fewshot.LatentConfig(mode="none")
    return fewshot.MCRNet(fewshot.ModelConfig("pixels", "prototypes", SIDE, channels=1, latent=plain)).eval()


def _title(name: str) -> str:
    """A training's folder says more than best.safetensors."""
    path = Path(name)
    return path.parent.parent.name if path.parent.name == "checkpoints" else path.stem if path.suffix else name


if __name__ == "__main__":
    main()
