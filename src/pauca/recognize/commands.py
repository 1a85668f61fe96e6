"""The verbs of `pauca recognize`: parse, call the library, show."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import Positional, arg

from pauca import events, fewshot
from pauca.errors import InputError, PaucaError
from pauca.events.live import replay
from pauca.fewshot.commands import plan_training, spoken_warnings
from pauca.fewshot.data import open_training
from pauca.fewshot.reports import write_predictions
from pauca.recognize.estimator import EventClassifier
from pauca.recognize.evaluation import Outcome, compare_alignment, describe_outcome
from pauca.recognize.folders import LabeledFile, list_labeled, list_recordings
from pauca.recognize.live import LiveConfig, decide
from pauca.recognize.pictures import Picture
from pauca.recognize.plots import Shown, best_picture, gallery
from pauca.recognize.settings import PictureConfig
from pauca.recognize.simulation import ShakeConfig, as_pictures, at_most, cached_pictures
from pauca.runs import Progress, Report, Run, check_can_write, lock_folder, write_text
from pauca.runs.processes import joined
from pauca.typed import named_once

_log = logging.getLogger(__name__)

_GLYPH_SIDE = 48  # pixels; the sensor sees 34 of them across 62 degrees of their 90
_MODEL = "edges"
_GLYPHS, _DRAWINGS = 80, 20  # characters to train on, if nothing else is asked for, and images of each


@dataclass(frozen=True)
class EvalSettings:
    """What was tested on what: the config.yaml of an evaluation."""

    support: Path
    query: Path
    model: str
    pictures: PictureConfig
    camera: Path | None
    reading: events.ReadConfig = field(default_factory=events.ReadConfig)


def fit(
    examples: Positional[Annotated[Path | None, arg(metavar="EXAMPLES")]] = None,
    support: Path | None = None,
    out: Path = Path("things.safetensors"),
    model: str = _MODEL,
    pictures: PictureConfig = PictureConfig(),  # noqa: B008 - frozen
    camera: Path | None = None,
    reject: float | None = None,
    reading: events.ReadConfig = events.ReadConfig(),  # noqa: B008 - frozen
    device: str = "auto",
    force: bool = False,
    quiet: bool = False,
) -> None:
    """Learn things from a few recordings of each, once, and keep that in a file that predict and live take.

    Args:
        examples: folder with a folder of recordings for each thing.
        support: the examples, where they are not named by their place.
        out: file to write (.safetensors).
        model: edges, pixels or turned (pixels, as if examples had been turned on a table), which need no training, the
            file of a trained model, or any other backbone, such as efficientnet-lite0.
        pictures: how recordings become pictures.
        camera: calibration file of the camera that all recordings are from.
        reject: call recordings unknown that fit no thing, allowing so large a share of mistakes on known ones.
        reading: how files are read.
        device: auto, cpu or cuda.
        force: replace a file that is there already.
        quiet: print only errors.
    """
    if out.suffix != ".safetensors":  # by which predict and live know it from a folder
        raise InputError(f"{out}: what was learned is kept in a .safetensors file; choose such a name")
    check_can_write(out, force)
    classifier = _fitted(named_once(examples, support), model, pictures, camera, reject, reading, device, quiet)
    classifier.save(out, force)
    if not quiet:
        print(f"learned {len(classifier.classes_)} things: {out}")


def predict(
    query: Path,
    examples: Positional[Annotated[Path | None, arg(metavar="EXAMPLES")]] = None,
    support: Path | None = None,
    model: str = _MODEL,
    out: Path = Path("predictions.csv"),
    pictures: PictureConfig = PictureConfig(),  # noqa: B008 - frozen
    camera: Path | None = None,
    reject: float | None = None,
    reading: events.ReadConfig = events.ReadConfig(),  # noqa: B008 - frozen
    device: str = "auto",
    force: bool = False,
    quiet: bool = False,
) -> None:
    """Name what recordings show, from a few recordings of each thing; write a table and a page with pictures.

    Writes the table (file, label, probability of each label) to `out`, and beside it a page that shows each recording
    as the sensor saw it, aligned, and the answer. A recording that cannot be read, or holds too few events, is told and
    left out of both.

    Args:
        query: folder of recordings to name, or one recording.
        examples: folder with a folder of recordings for each thing, or the file that fit wrote, which has its own
            model, pictures and camera.
        support: the examples, where they are not named by their place.
        model: edges, pixels or turned (pixels, as if examples had been turned on a table), which need no training, the
            file of a trained model, or any other backbone, such as efficientnet-lite0.
        out: table to write (.csv).
        pictures: how recordings become pictures.
        camera: calibration file of the camera that all recordings are from.
        reject: call recordings unknown that fit no thing, allowing so large a share of mistakes on known ones; of a
            file, in place of its own.
        reading: how files are read.
        device: where to compute: auto (the GPU if there is one), cpu, cuda or cuda:N.
        force: replace results that are there already.
        quiet: print only errors.
    """
    support = named_once(examples, support)
    page = out.with_suffix(".html")
    for path in (out, page):
        check_can_write(path, force)
    asked = list_recordings(query)
    classifier = _fitted(support, model, pictures, camera, reject, reading, device, quiet)
    files, seen = _pictures(classifier, asked, reading, quiet)
    with spoken_warnings():
        answers = classifier.answer(seen)
    names = [file.name for file in files]
    write_predictions(out, list(classifier.classes_), names, answers.labels, answers.probabilities, force)
    report = Report("What recordings show", f"{len(files)} recordings of {query}, from {support}")
    report.figure(
        gallery(_shown(seen, answers)),
        "Recordings with label and probability: above as the sensor saw them, below aligned.",
    )
    report.save(page, force)
    if not quiet:
        print(f"named {len(files)} recordings: {out} and {page}")
    if len(files) < len(asked):
        raise PaucaError(
            f"{len(asked) - len(files)} of {len(asked)} recordings cannot be named; the others are in {out}"
        )


def evaluate(
    query: Path,
    examples: Positional[Annotated[Path | None, arg(metavar="EXAMPLES")]] = None,
    support: Path | None = None,
    model: str = _MODEL,
    out: Path | None = None,
    pictures: PictureConfig = PictureConfig(),  # noqa: B008 - frozen
    camera: Path | None = None,
    reading: events.ReadConfig = events.ReadConfig(),  # noqa: B008 - frozen
    device: str = "auto",
    force: bool = False,
    as_json: Annotated[bool, arg(name="json")] = False,
    quiet: bool = False,
) -> None:
    """Test on recordings whose labels are known: accuracy with 95 % intervals, and what alignment adds to it.

    The same recordings are named with and without alignment. Intervals are over recordings, and over things.

    Writes report.html and evaluation.json to the output folder.

    Args:
        query: folder with a folder of other recordings for each thing, to be named.
        examples: folder with a folder of recordings for each thing.
        support: the examples, where they are not named by their place.
        model: edges, pixels or turned (pixels, as if examples had been turned on a table), which need no training, the
            file of a trained model, or any other backbone, such as efficientnet-lite0.
        out: output folder; default: the query's name, in runs/recognize.
        pictures: how recordings become pictures.
        camera: calibration file of the camera that all recordings are from.
        reading: how files are read.
        device: where to compute: auto (the GPU if there is one), cpu, cuda or cuda:N.
        force: replace results that are there already.
        as_json: print JSON for programs.
        quiet: show no progress.
    """
    out = out or Path("runs/recognize") / f"eval-{query.name}"
    support = named_once(examples, support)
    learned, asked = list_labeled(support), list_labeled(query)
    settings = EvalSettings(support, query, model, pictures, camera, reading)
    with lock_folder(out):
        run = Run.create(out, settings, force)
        classifiers = {
            align: _classifier(model, pictures, camera, None, device, align=align) for align in (True, False)
        }
        with spoken_warnings():
            outcome = compare_alignment(
                classifiers,
                _read(learned, reading, "learn", quiet),
                [file.label for file in learned],
                _read(asked, reading, "recognize", quiet),
                [file.label for file in asked],
            )
        numbers = outcome.as_dict()
        run.log(**numbers)
        write_text(out / "evaluation.json", json.dumps(numbers, indent=2) + "\n", force=True)
        report = Report("Recognition from events", f"{model}: {query}, from {len(learned)} recordings of {support}")
        describe_outcome(report, outcome)
        report.save(out / "report.html")
    print(json.dumps(numbers, indent=2) if as_json else _summary(outcome, out))


def live(
    recording: Positional[Annotated[Path, arg(metavar="RECORDING")]],
    support: Path,
    model: str = _MODEL,
    pictures: PictureConfig = PictureConfig(),  # noqa: B008 - frozen
    deciding: LiveConfig = LiveConfig(),  # noqa: B008 - frozen
    camera: Path | None = None,
    speed: float = 1.0,
    reading: events.ReadConfig = events.ReadConfig(),  # noqa: B008 - frozen
    device: str = "auto",
    quiet: bool = False,
) -> None:
    """Play a recording as if it happened now, and name what it shows as soon as the evidence suffices.

    Prints a line of JSON for each label: when, which, how probable, after how long, and whether it is certain; where
    patience ends first, the best label is given as uncertain.

    Args:
        recording: the recording to play.
        support: folder with a folder of recordings for each thing.
        model: edges, pixels or turned (pixels, as if examples had been turned on a table), which need no training, the
            file of a trained model, or any other backbone, such as efficientnet-lite0.
        pictures: how recordings become pictures.
        deciding: when the evidence suffices.
        camera: calibration file of the camera that all recordings are from.
        speed: how many times as fast as it was the recording is played.
        reading: how files are read.
        device: where to compute: auto (the GPU if there is one), cpu, cuda or cuda:N.
        quiet: print only labels.
    """
    classifier = _fitted(support, model, pictures, camera, None, reading, device, quiet)
    played = events.read(recording, **vars(reading))
    decision, named = None, False
    for decision in decide(classifier, replay([played.events], speed=speed), deciding):
        if decision.label is None:
            if not quiet:
                print(f"{decision.t_us / 1e6:.3f} s: not yet ({decision.best} {decision.probability:.2f})")
            continue
        named = True
        print(json.dumps(_as_json(decision.__dict__)), flush=True)
    if decision is None:
        raise InputError(f"{recording}: {len(played.events)} events are too few to recognize anything")
    if not named:
        _log.warning(
            "%s: ended before the evidence sufficed or patience was over; most likely %s (%.2f)",
            recording, decision.best, decision.probability
        )  # fmt: skip


_SMALL = fewshot.ModelConfig("conv4-32", channels=1, latent=fewshot.LatentConfig(mode="none"))
_SHORT = fewshot.TrainConfig(
    steps=400,
    episodes_per_step=2,
    episode=fewshot.EpisodeConfig(way=10, shot=(1, 5), query=5),
    learning_rate=0.05,
    schedule="cosine",
    validate_every=100,
    validation_episodes=100,
)


def train(
    data: Positional[str] = "glyphs",
    out: Path | None = None,
    classes: int | None = None,
    per_class: int | None = None,
    shaking: ShakeConfig = ShakeConfig(),  # noqa: B008 - frozen
    pictures: PictureConfig = PictureConfig(),  # noqa: B008 - frozen
    model: fewshot.ModelConfig = _SMALL,
    training: fewshot.TrainConfig = _SHORT,
    force: bool = False,
    quiet: bool = False,
) -> None:
    """Meta-train a model on pictures from events of your images, seen by a simulated camera that is shaken.

    The pictures are kept in `out`/pictures, a data set that `pauca fewshot train` and `eval` take, and are not
    simulated again by a training there. The model is `out`/checkpoints/best.safetensors.

    Args:
        data: a prepared data set (`pauca fewshot data prepare`), a folder of class folders below train and val, or
            glyphs, characters drawn on the spot.
        out: output folder; default: the data's name, in runs/recognize.
        classes: train on no more classes than these; a quarter as many others validate. Default: 80 glyphs, and all
            classes of other data.
        per_class: simulate no more recordings of a class than these. Default: 20 of a glyph, and one of each image of
            other data.
        shaking: how the camera moves.
        pictures: how events become pictures.
        model: what to train; moe-vit is a transformer of FP4 experts, meant for a Hopper GPU.
        training: how to train.
        force: replace a model that is there already.
        quiet: print only errors.
    """
    out = out or Path("runs/recognize") / Path(data).stem
    if not force and Run(out).config_path.exists():
        raise InputError(f"{out}: holds a run already; choose another folder with --out, or replace it with --force")
    model = replace(model, image_size=shaking.side, channels=1)
    with spoken_warnings():
        sources = _sources(data, classes, per_class, quiet)
    learned, *validated = (as_pictures(images, shaking.side) for images in sources)
    kept = out / "pictures"
    planned = plan_training(str(kept), model, training, learned, validated[0] if validated else None)
    made: list[fewshot.ImageSet] = []
    for number, images in enumerate(sources):
        # Other motions before other images.
        shaken = replace(shaking, motion_seed=shaking.motion_seed + number)
        made.append(cached_pictures(kept / images.split, images, shaken, pictures, quiet))
    with joined(training.device):
        planned.run(made[0], made[1] if validated else None, out, force=force, quiet=quiet)


def _sources(data: str, classes: int | None, per_class: int | None, quiet: bool) -> list[fewshot.ImageSet]:
    """Training and validation images, large enough for the sensor."""
    if data == "glyphs":
        drawn = _GLYPHS if classes is None else classes
        sizes = {"train": drawn, "val": max(drawn // 4, 10)}
        each = _DRAWINGS if per_class is None else per_class
        return [fewshot.draw_glyphs(s, each, _GLYPH_SIDE, n) for s, n in sizes.items()]  # type: ignore[arg-type]
    learned, validated = open_training(data, _GLYPH_SIDE, 1, "crop", quiet)
    found = [at_most(replace(learned, split="train"), classes, per_class)]
    return found if validated is None else [*found, at_most(validated, classes and max(classes // 4, 10), per_class)]


COMMANDS = {"fit": fit, "predict": predict, "eval": evaluate, "live": live, "train": train}


def _classifier(
    model: str, pictures: PictureConfig, camera: Path | None, reject: float | None, device: str, **changes: Any
) -> EventClassifier:
    calibration = None if camera is None else events.Camera.from_file(camera)
    settings = vars(pictures) | changes
    return EventClassifier(model, **settings, camera=calibration, reject=reject, device=device)


def _fitted(
    support: Path,
    model: str,
    pictures: PictureConfig,
    camera: Path | None,
    reject: float | None,
    reading: events.ReadConfig,
    device: str,
    quiet: bool,
) -> EventClassifier:
    if support.is_file() and support.suffix == ".safetensors":
        with spoken_warnings():
            loaded = EventClassifier.load(support, device)
        for name, is_asked in (
            ("--model", model != _MODEL),
            ("--camera", camera is not None),
            ("options of pictures", pictures not in (PictureConfig(), loaded.picture_config)),
        ):
            if is_asked:
                raise InputError(f"{support}: was learned with its own; leave out {name}, or give the recordings again")
        return loaded if reject is None else loaded.set_params(reject=reject)
    examples = list_labeled(support)
    classifier = _classifier(model, pictures, camera, reject, device)
    with spoken_warnings():
        classifier.fit(_read(examples, reading, "learn", quiet), [file.label for file in examples])
    return classifier


def _read(
    files: Sequence[LabeledFile], reading: events.ReadConfig, title: str, quiet: bool
) -> Iterator[events.Recording]:
    """The recordings, one at a time: together they may not fit in memory."""
    with Progress(title, total=len(files), unit="recordings", quiet=quiet) as progress:
        for file in files:
            yield events.read(file.path, **vars(reading))
            progress.advance(note=file.name)


def _pictures(
    classifier: EventClassifier, asked: Sequence[LabeledFile], reading: events.ReadConfig, quiet: bool
) -> tuple[list[LabeledFile], list[Sequence[Picture]]]:
    """What there is to see in each recording; of several, one that cannot be used is told, and left out."""
    files: list[LabeledFile] = []
    seen: list[Sequence[Picture]] = []
    with Progress("recognize", total=len(asked), unit="recordings", quiet=quiet) as progress:
        for file in asked:
            try:
                seen.append(classifier.pictures(events.read(file.path, **vars(reading))))
            except InputError as error:
                if len(asked) == 1:
                    raise
                print(f"pauca: {' '.join(str(error).split())}", file=sys.stderr, flush=True)
            else:
                files.append(file)
            progress.advance(note=file.name)
    if not files:
        raise InputError(f"none of the {len(asked)} recordings can be named")
    return files, seen


def _shown(seen: Sequence[Sequence[Picture]], answers: fewshot.Answers) -> list[Shown]:
    return [
        Shown(best_picture(pictures), str(label), probability=float(row.max()))
        for pictures, label, row in zip(seen, answers.labels, answers.probabilities, strict=True)
    ]


def _summary(outcome: Outcome, out: Path) -> str:
    lines = [f"aligned {outcome.aligned}, as the sensor saw it {outcome.unaligned}: {outcome.verdict}"]
    return "\n".join([*lines, f"report: {out / 'report.html'}"])


def _as_json(values: dict[str, Any]) -> dict[str, Any]:
    plain = {name: value.item() if hasattr(value, "item") else value for name, value in values.items()}
    return {name: round(value, 4) if isinstance(value, float) else value for name, value in plain.items()}
