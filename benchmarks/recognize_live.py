"""How soon a stream is named, how often wrongly, and whether stated probabilities and "unknown" are true.

    python benchmarks/recognize_live.py latency --json latency.json
    python benchmarks/recognize_live.py trust

Characters before a simulated camera that is shaken at 100 to 300 deg/s; three recordings of each to learn from.
`latency`: the first label of a stream for each `confidence`: seconds of events that it waited for, how often it is
wrong (95 % intervals over recordings), and how often patience ended first.
`trust`: recordings of a second, three or four pictures each, in tasks of other characters. Mean probability
beside accuracy, and the share of known recordings and of strangers that is called unknown where a tenth of the
known may be; leaving out whole recordings beside leaving out single pictures.
"""

import argparse
import json
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
from scipy import stats

from pauca import events, fewshot
from pauca.recognize import EventClassifier, LiveConfig, ShakeConfig, decide
from pauca.recognize.simulation import shake
from pauca.runs import Progress, describe_machine

CONFIDENCES = (0.5, 0.7, 0.9, 0.97)
PATIENCE_S = 0.4
LEARNED = 3  # recordings of each character
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


def trust(tasks: int, classes: int, each: int) -> list[dict]:
    rows: dict[str, list[tuple[float, ...]]] = {"recordings left out": [], "pictures left out": []}
    for task in range(tasks):
        made, labels = recordings(2 * classes, each, 1.0, seed=10 + task)
        classifier = EventClassifier(reject=0.1)
        pictures = [classifier.pictures(one) for one in made]
        known = (labels < classes) & (np.arange(len(made)) % each < LEARNED)
        asked = [pictures[i] for i in np.flatnonzero(~known)]
        truth = labels[~known]
        classifier.fit([made[i] for i in np.flatnonzero(known)], labels[known])
        rows["recordings left out"].append(_said(classifier, asked, truth, classes))
        shown = np.stack([p.pixels for i in np.flatnonzero(known) for p in pictures[i]])
        owners = np.concatenate([[labels[i]] * len(pictures[i]) for i in np.flatnonzero(known)])
        classifier.classifier_.fit(shown, owners)
        rows["pictures left out"].append(_said(classifier, asked, truth, classes))
    print("| calibrated by | accuracy % | stated - accuracy, points | known called unknown % | strangers so called % |")
    print("|---|---|---|---|---|")
    out = []
    for name, found in rows.items():
        columns = [fewshot.mean_interval(np.array(column)) for column in zip(*found, strict=True)]
        print(f"| {name} | " + " | ".join(map(str, columns)) + " |", flush=True)
        out.append({"row": name, "columns": [column._asdict() for column in columns]})
    return out


def _said(classifier: EventClassifier, asked: list, truth: np.ndarray, classes: int) -> tuple[float, ...]:
    answers = classifier.answer(asked)
    known = truth < classes
    right = classifier.classes_[answers.probabilities.argmax(1)] == truth
    unknown = answers.distances > classifier.classifier_.threshold_
    stated = answers.probabilities[known].max(1).mean()
    accuracy = right[known].mean()
    return float(accuracy), float(stated - accuracy), float(unknown[known].mean()), float(unknown[~known].mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["latency", "trust"])
    parser.add_argument("--classes", type=int, default=8)
    parser.add_argument(
        "--each", type=int, default=9, help="recordings of each character, with the three to learn from"
    )
    parser.add_argument("--tasks", type=int, default=6)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    print(f"{options.what}; {describe_machine()['processor']}\n")
    if options.what == "latency":
        rows = latency(options.classes, options.each)
    else:
        rows = trust(options.tasks, options.classes, options.each)
    if options.json:
        options.json.write_text(json.dumps({"machine": describe_machine(), "rows": rows}, indent=2))


if __name__ == "__main__":
    main()
