"""How soon a stream is named, how often wrongly, and whether stated probabilities and "unknown" are true.

    python benchmarks/recognize_live.py latency --json latency.json
    python benchmarks/recognize_live.py trust

Characters before a simulated camera that is shaken at 100 to 300 deg/s; three recordings of each to learn from.
`latency`: the first label of a stream for each `confidence`: seconds of events that it waited for, how often it is
wrong (95 % intervals over recordings), and how often patience ended first.
`trust`: recordings of a second, three or four pictures each, in tasks of other characters; one to six recordings of
each to learn from, four to name, and as many characters that were not learned. Mean probability beside accuracy,
cross-entropy, and the share of known recordings and of strangers that is called unknown where a tenth of the known may
be (95 % intervals over tasks). Calibrated by the votes of recordings that are left out, by their pictures one by one,
or by single pictures that are left out; "unscaled" believes the base learner as it is, as long as little is known.
"""

import argparse
import json
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from scipy import stats

from pauca import events, fewshot
from pauca.recognize import EventClassifier, LiveConfig, ShakeConfig, decide, open_model
from pauca.recognize.simulation import shake
from pauca.runs import Progress, describe_machine

CONFIDENCES = (0.5, 0.7, 0.9, 0.97)
PATIENCE_S = 0.4
LEARNED = 3  # recordings of each character
TRUSTED = (1, 2, 3, 6)  # recordings of each character, in trust
# What answers when it is left out: votes or not.
CALIBRATED = {"votes": True, "their pictures": False, "their pictures, unscaled": False, "single pictures": False}
NOTHING = {"nothing": True, "nothing, unscaled": True}  # can be left out
CHUNK_US = 2_000


def recordings(classes: int, each: int, seconds: float, seed: int) -> tuple[list[events.Recording], np.ndarray]:
    """Recordings of characters, `each` of one after the other, and their labels."""
    images = fewshot.draw_glyphs("test", per_class=each, size=48, classes=classes, seed=seed)
    config = ShakeConfig(slowest_deg_s=100.0, fastest_deg_s=300.0, seconds=seconds, motion_seed=seed)
    made = []
    with Progress("simulate", total=len(images), unit="recordings") as progress:
        for place in range(len(images)):
            made.append(shake(images.images[place, 0].numpy(), config, place))
            progress.advance()
    return made, images.labels.numpy()


def chunks(stream: events.Events) -> Iterator[events.Events]:
    """As they come from a camera, two milliseconds at a time."""
    edges = np.arange(int(stream.t_us[0]), int(stream.t_us[-1]) + CHUNK_US + 1, CHUNK_US)
    for begin, end in pairwise(np.searchsorted(stream.t_us, edges)):
        yield stream[begin:end]


def latency(classes: int, each: int) -> list[dict]:
    made, labels = recordings(classes, each, 0.5, seed=3)
    known = np.arange(len(made)) % each < LEARNED
    classifier = EventClassifier().fit([made[i] for i in np.flatnonzero(known)], labels[known])
    print("| confidence | certain | wrong % of these | median wait, ms | 90th percentile | wrong % at patience's end |")
    print("|---|---|---|---|---|---|")
    rows = []
    for confidence in CONFIDENCES:
        config = LiveConfig(confidence=confidence, patience_s=PATIENCE_S)
        firsts = []
        for i in np.flatnonzero(~known):
            for decision in decide(classifier, chunks(made[i].events), config):
                if decision.label is not None:
                    firsts.append((decision.certain, decision.label == labels[i], decision.waited_s))
                    break
        rows.append(_latency_row(confidence, firsts, int((~known).sum())))
    return rows


def _latency_row(confidence: float, firsts: list[tuple[bool, bool, float]], asked: int) -> dict:
    certain = np.array([one[0] for one in firsts])
    wrong = np.array([not one[1] for one in firsts])
    waited_ms = 1000 * np.array([one[2] for one in firsts])
    row = {"confidence": confidence, "asked": asked, "silent": asked - len(firsts)}
    row |= {"certain": int(certain.sum()), "wrong": int(wrong[certain].sum()), "late_wrong": int(wrong[~certain].sum())}
    row |= dict(zip(("median_ms", "p90_ms"), np.percentile(waited_ms[certain], (50, 90)).tolist(), strict=True))
    late = asked - row["silent"] - row["certain"]
    cells = [str(confidence), f"{row['certain']} of {asked}", _share(row["wrong"], row["certain"])]
    cells += [f"{row['median_ms']:.0f}", f"{row['p90_ms']:.0f}", _share(row["late_wrong"], late)]
    print(f"| {' | '.join(cells)} |", flush=True)
    return row


def _share(found: int, of: int) -> str:
    """Percent with its exact 95 % interval (Clopper and Pearson 1934): it is right also for none or all."""
    low = stats.beta.ppf(0.025, found, of - found + 1) if found else 0.0
    high = stats.beta.ppf(0.975, found + 1, of - found) if found < of else 1.0
    return f"{100 * found / max(of, 1):.0f} ({100 * low:.0f} to {100 * high:.0f})"


def trust(tasks: int, classes: int) -> list[dict]:
    """Of one, two, three and six recordings of each character; the four after them are asked about."""
    rows: dict[tuple[int, str], list[tuple[float, ...]]] = {}
    for task in range(tasks):
        made, labels = recordings(2 * classes, TRUSTED[-1] + 4, 1.0, seed=10 + task)
        classifier = EventClassifier(reject=0.1)
        pictures = [classifier.pictures(one) for one in made]
        number = np.arange(len(made)) % (TRUSTED[-1] + 4)
        places = np.flatnonzero((number >= TRUSTED[-1]) | (labels >= classes))
        asked = [pictures[i] for i in places]
        for learned in TRUSTED:
            known = np.flatnonzero((labels < classes) & (number < learned))
            shown = np.stack([p.pixels for i in known for p in pictures[i]])
            owners = np.repeat(known, [len(pictures[i]) for i in known])
            for name, votes in (CALIBRATED if learned > 1 else NOTHING).items():
                model = open_model("edges")
                if name.endswith("unscaled"):
                    torch.nn.init.constant_(model.base_learner.scale, 1.0)
                inner = fewshot.FewShotClassifier(model, 0.1 if learned > 1 else None, votes=votes)
                groups = None if name == "single pictures" else owners
                inner.fit(shown, labels[owners], groups)
                rows.setdefault((learned, name), []).append(_said(inner, asked, labels[places], classes))
    print("| learned | calibrated by | accuracy % | stated - accuracy | nats | known lost % | strangers found % |")
    print("|---|---|---|---|---|---|---|")
    out = []
    for (learned, name), found in rows.items():
        columns = [fewshot.mean_interval(np.array(column)) for column in zip(*found, strict=True)]
        cells = [f"{c.mean:.2f} ± {c.half_width:.2f}" if i == 2 else str(c) for i, c in enumerate(columns)]
        print(f"| {learned} | {name} | " + " | ".join(cells) + " |", flush=True)
        out.append({"learned": learned, "row": name, "columns": [column._asdict() for column in columns]})
    return out


def _said(inner: fewshot.FewShotClassifier, asked: list, truth: np.ndarray, classes: int) -> tuple[float, ...]:
    flat = [picture for few in asked for picture in few]
    owners = np.repeat(np.arange(len(asked)), [len(few) for few in asked])
    answers = inner.answer(np.stack([p.pixels for p in flat]), owners, [p.weight for p in flat])
    known = truth < classes
    right = inner.classes_[answers.probabilities.argmax(1)] == truth
    unknown = answers.distances > (np.inf if inner.reject is None else inner.threshold_)
    given = answers.probabilities[known]
    stated, accuracy = given.max(1).mean(), right[known].mean()
    nats = -np.log(np.maximum(given[np.arange(len(given)), truth[known]], 1e-12)).mean()
    shares = unknown[known].mean(), unknown[~known].mean()
    return float(accuracy), float(stated - accuracy), float(nats), *map(float, shares)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["latency", "trust"])
    parser.add_argument("--classes", type=int, default=8)
    parser.add_argument(
        "--each", type=int, default=9, help="recordings of each in latency, with the three to learn from"
    )
    parser.add_argument("--tasks", type=int, default=12, help="of trust")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    print(f"{options.what}; {describe_machine()['processor']}\n")
    if options.what == "latency":
        rows = latency(options.classes, options.each)
    else:
        rows = trust(options.tasks, options.classes)
    if options.json:
        options.json.write_text(json.dumps({"machine": describe_machine(), "rows": rows}, indent=2))


if __name__ == "__main__":
    main()
