"""Does alignment help to recognize things from events? Pictures of counts, time surfaces and aligned views, paired.

    python benchmarks/recognize.py nmnist --model runs/recognize/glyphs/checkpoints/best.safetensors
    python benchmarks/recognize.py simulated
    python benchmarks/recognize.py objects --json objects.json

`nmnist`: N-MNIST, 30 training recordings a class to draw examples from, 100 test recordings. `simulated`: 10 characters
before a camera of 34 x 34 pixels that is shaken at 30 to 1,000 deg/s, examples and questions alike. `objects`: DVS128,
views of session a to learn from, of session b to name. Accuracy in percent, over draws of the examples (the same for
every kind of picture); what alignment adds to counts has two 95 % intervals, over draws and over classes.
"""

import argparse
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from pauca import events, fewshot
from pauca.recognize import PictureConfig, ShakeConfig, open_model
from pauca.recognize.pictures import square
from pauca.recognize.simulation import shake
from pauca.runs import Progress, describe_machine

DATA = Path(os.environ.get("PAUCA_DATA", "../shared/data")) / "events" / "recognition"
KINDS = ("counts", "time surface", "aligned")
SIDE = 32
TAU_US = 30_000  # decay of the time surface
SPEEDS = (30, 100, 300, 1000)  # deg/s
Pictures = dict[str, np.ndarray]  # kind: [n, side, side]


def draw(recording: events.Recording, framing: str = "fit") -> list[Pictures]:
    """Every view of a recording, in every kind."""
    config = PictureConfig(framing=framing)  # type: ignore[arg-type]
    stream = events.remove_hot_pixels(recording).events
    aligner = config.aligner(stream.size, None)
    border = aligner.config.border
    out = []
    for view in events.views(aligner, stream, config.view_config()):
        surface = np.pad(time_surface(stream.between(view.start_us, view.end_us + 1)), border)
        kinds = {"counts": view.unaligned.sum(0), "time surface": surface, "aligned": view.images.sum(0)}
        shown = {kind: square(image, SIDE, border, config.framing) for kind, image in kinds.items()}
        out.append(shown | {"weight": view.n_events})
    return out


def time_surface(stream: events.Events) -> np.ndarray:
    """How recently each pixel has fired: exp(-age / 30 ms), whatever the polarity."""
    width, height = stream.size
    last = np.full((height, width), -np.inf)
    last[stream.y, stream.x] = stream.t_us  # the latest is written last
    return np.exp((last - stream.t_us[-1]) / TAU_US).astype(np.float32)


def best(recording: events.Recording) -> Pictures:
    """The view with most events."""
    return max(draw(recording), key=lambda shown: shown["weight"])


def nmnist(per_class: int) -> tuple[list[Pictures], np.ndarray, np.ndarray]:
    """Pictures, labels, and which are of the test set."""
    with np.load(DATA / "nmnist_small.npz") as archive:
        data = {name: archive[name] for name in archive.files}
    rng = np.random.default_rng(0)
    train = [rng.permutation(np.flatnonzero((data["label"] == c) & (data["test"] == 0)))[:per_class] for c in range(10)]
    chosen = np.concatenate([*train, np.flatnonzero(data["test"] == 1)])
    found = [best(_cut(data, int(i))) for i in _shown(chosen, "n-mnist")]
    return found, data["label"][chosen].astype(int), data["test"][chosen] == 1


def _cut(data: dict[str, np.ndarray], i: int) -> events.Recording:
    part = slice(data["offset"][i], data["offset"][i + 1])
    t_us = data["t_us"][part].astype(np.int64)
    order = np.argsort(t_us, kind="stable")
    columns = (data[name][part][order] for name in "xyp")
    return events.Recording(events.Events.from_arrays(t_us[order], *columns, (34, 34)))


def simulated(speed: int, classes: int = 10, each: int = 12) -> tuple[list[Pictures], np.ndarray, np.ndarray]:
    """Characters that no model was trained on, shaken at one speed; the last seven of each are asked about."""
    images = fewshot.draw_glyphs("test", per_class=each, size=48, classes=classes, seed=5)
    config = ShakeConfig(slowest_deg_s=float(speed), fastest_deg_s=float(speed), motion_seed=speed)
    places = _shown(np.arange(len(images)), f"{speed} deg/s")
    found = [best(shake(images.images[i, 0].numpy(), config, int(i))) for i in places]
    return found, images.labels.numpy(), np.arange(len(images)) % each >= 5


def _shown(places: np.ndarray, title: str) -> Iterator[int]:
    with Progress(title, total=len(places), unit="recordings") as progress:
        for place in places:
            yield int(place)
            progress.advance()


def compare(
    found: list[Pictures], labels: np.ndarray, test: np.ndarray, model: fewshot.FewShotModel, shot: int, draws: int
) -> dict[str, np.ndarray]:
    """Which test pictures are named rightly, [draws, n], for each kind."""
    pictures = {kind: np.stack([shown[kind] for shown in found]) for kind in KINDS}
    right = {kind: [] for kind in KINDS}
    for seed in range(draws):
        rng = np.random.default_rng(seed)
        chosen = [rng.choice(np.flatnonzero((labels == c) & ~test), shot, replace=False) for c in np.unique(labels)]
        support = np.concatenate(chosen)
        for kind, shown in pictures.items():
            classifier = fewshot.FewShotClassifier(model, temperature=1.0).fit(shown[support], labels[support])
            right[kind].append(classifier.predict(shown[test]) == labels[test])
    return {kind: np.array(rows) for kind, rows in right.items()}


def table(title: str, right: dict[str, np.ndarray], truth: np.ndarray) -> dict:
    """One line of the table, printed and for JSON."""
    accuracy = {kind: fewshot.mean_interval(rows.mean(1)) for kind, rows in right.items()}
    difference = right["aligned"].astype(float) - right["counts"]
    over_draws = fewshot.mean_interval(difference.mean(1))
    over_classes = fewshot.mean_interval(np.array([difference[:, truth == c].mean() for c in np.unique(truth)]))
    cells = " | ".join(str(accuracy[kind]) for kind in KINDS)
    print(f"| {title} | {cells} | {over_draws}, over classes ± {100 * over_classes.half_width:.2f} |", flush=True)
    numbers = {kind: interval._asdict() for kind, interval in accuracy.items()}
    return {"row": title, **numbers, "gain": over_draws._asdict(), "gain_over_classes": over_classes._asdict()}


def objects(models: dict[str, fewshot.FewShotModel], draws: int) -> list[dict]:
    """Five views of each object of session a; views of session b alone, and five in a row that vote."""
    sessions: dict[str, dict[str, list[Pictures]]] = {"a": {}, "b": {}}
    for path in sorted((DATA / "dvs128_objects").glob("[ab]_*.npz")):
        session, name = path.stem[0], path.stem[2:]
        sessions[session][name] = draw(events.read(path), "fixed")
    common = sorted(sessions["a"].keys() & sessions["b"].keys())
    rows = []
    for name, model in models.items():
        single, voted = ({kind: [] for kind in KINDS} for _ in range(2))
        for seed in range(draws):
            rng = np.random.default_rng(seed)
            chosen = {thing: rng.choice(len(seen), 5, replace=False) for thing, seen in sessions["a"].items()}
            for kind in KINDS:
                shown = [sessions["a"][thing][i][kind] for thing, places in chosen.items() for i in places]
                classifier = fewshot.FewShotClassifier(model, temperature=1.0)
                classifier.fit(np.stack(shown), np.repeat(list(chosen), 5))
                one, five = zip(*(_named(classifier, sessions["b"][t], kind, t) for t in common), strict=True)
                single[kind].append(one)
                voted[kind].append(five)
        truth = np.arange(len(common))
        rows.append(table(f"{name}, one view", {k: np.array(v) for k, v in single.items()}, truth))
        rows.append(table(f"{name}, five views", {k: np.array(v) for k, v in voted.items()}, truth))
    print(f"{len(common)} objects of {len(sessions['a'])} learned: {', '.join(common)}")
    return rows


def _named(classifier: fewshot.FewShotClassifier, seen: list[Pictures], kind: str, thing: str) -> tuple[float, float]:
    """Share of single views, and of five in a row, that are named rightly."""
    logs = np.log(classifier.predict_proba(np.stack([shown[kind] for shown in seen])) + 1e-12)
    fives = np.stack([logs[i : i + 5].sum(0) for i in range(0, len(logs) - 4, 5)])
    return tuple(float((classifier.classes_[rows.argmax(1)] == thing).mean()) for rows in (logs, fives))  # type: ignore[return-value]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", choices=["nmnist", "simulated", "objects"])
    parser.add_argument("--model", action="append", default=[], help="a trained model, beside edges and pixels")
    parser.add_argument("--draws", type=int, default=20)
    parser.add_argument("--per-class", type=int, default=30, help="recordings of N-MNIST to draw examples from")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    models = {name: open_model(name) for name in ("pixels", "edges", *options.model)}
    models = {Path(name).stem if "/" in name else name: model for name, model in models.items()}
    print(f"{options.data}, {options.draws} draws; {describe_machine()['processor']}\n")
    print("| pictures by | " + " | ".join(KINDS) + " | aligned - counts, points |\n|---|---|---|---|---|")
    if options.data == "objects":
        rows = objects(models, options.draws)
    else:
        sources: dict[str, Callable] = {"": lambda: nmnist(options.per_class)}
        if options.data == "simulated":
            sources = {f"{speed} deg/s, ": (lambda speed=speed: simulated(speed)) for speed in SPEEDS}
        rows = []
        for title, load in sources.items():
            found, labels, test = load()
            for name, model in models.items():
                for shot in (1, 5):
                    right = compare(found, labels, test, model, shot, options.draws)
                    rows.append(table(f"{title}{name}, {shot} a class", right, labels[test]))
    if options.json:
        options.json.write_text(json.dumps({"machine": describe_machine(), "rows": rows}, indent=2))


if __name__ == "__main__":
    main()
