"""The verbs of `pauca fewshot`: parse, call the library, show."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import Positional, arg

from pauca import fewshot
from pauca.errors import InputError
from pauca.fewshot.data.arrays import Fitting
from pauca.fewshot.data.folder import Unreadable
from pauca.fewshot.data.sources import open_test
from pauca.fewshot.named import BaseLearnerName, MapMethod, named_parts, open_tested, rows_for, short_name
from pauca.fewshot.own_images import fit, predict, spoken_warnings
from pauca.fewshot.reports import (
    comparison_numbers,
    comparison_sentence,
    describe_evaluation,
    evaluation_numbers,
)
from pauca.fewshot.tasks import EvalSettings, Tasks, episode_file
from pauca.fewshot.train_verb import plan_training, train
from pauca.fewshot.views_at_test import AS_IT_IS, ViewsAtTest
from pauca.runs import Report, Run, atomic_write, lock_folder, resolve_device


def evaluate(
    model: Positional[Annotated[str, arg(metavar="MODEL")]],
    data: Positional[Annotated[str | None, arg(metavar="DATA")]] = None,
    backbone: str | None = None,
    base_learner: BaseLearnerName | None = None,
    out: Path | None = None,
    tasks: Tasks = Tasks(),  # noqa: B008 - frozen
    split: str = "test",
    episodes_from: Path | None = None,
    test_code: str | None = None,
    views: ViewsAtTest = AS_IT_IS,
    device: str = "auto",
    map_by: MapMethod = "tsne",
    force: bool = False,
    as_json: Annotated[bool, arg(name="json")] = False,
) -> None:
    """Test a model on new classes: accuracy with 95 % intervals, by class, calibration, confusions.

    One interval is over episodes: how well the accuracy on these classes is known, as papers state it. The other is
    over classes: how well that on other classes of the same kind is known.

    Writes report.html, evaluation.json and the episodes (episodes-Nshot.npz) to the output folder.

    Args:
        model: a model's file, or any backbone: timm:NAME, hf:NAME_OR_FOLDER, onnx:FILE, efficientnet-lite0, or a .npy
            file with the features of the data's images, in their order.
        data: what to test on: a prepared data set (`pauca fewshot data prepare`), a folder or zip archive with a folder
            for each class, or `glyphs`, characters drawn on the spot. A split named train in there must share no image
            with the tested one.
        out: folder to write the results to; if not given, a folder of runs/fewshot named after the data and the model's
            run.
        backbone: the network to test, in place of the model; the data are then named alone.
        base_learner: classifier to fit to each episode, in place of the model's own.
        tasks: the episodes to test on.
        split: which split to test on.
        episodes_from: folder of an earlier eval, to test on the episodes that it saved instead of drawing new ones.
        test_code: how to read the latent space instead of what the model says: mean, sample or mc:N.
        views: in which views the images are seen.
        device: where to compute: auto (the GPU if there is one), cpu, cuda or cuda:N.
        map_by: how the report lays features out in two dimensions; umap needs the package umap-learn.
        force: replace results that are there already.
        as_json: print JSON for programs.
    """
    if map_by == "umap":
        from pauca.fewshot import plots

        plots.import_umap()  # is missed now, not after the work
    model, data = named_parts("eval", backbone, model, data)
    network, features = open_tested(model, base_learner, test_code)
    config = network.config
    with spoken_warnings():
        images = open_test(data, config.image_size, config.channels, config.fitting, split, quiet=as_json)
    episodes = tasks.episodes_of(images, episodes_from)
    place = resolve_device(device)
    out = out or Path("runs/fewshot") / f"eval-{Path(data).stem}-{short_name(model)}"
    if not force and Run(out).config_path.exists():
        raise InputError(
            f"{out}: holds results already; choose another folder with --out, or replace them with --force"
        )
    if features is None:
        features = fewshot.embed_images(network, images, place, quiet=as_json, views=views)
    else:
        features = rows_for(features, images, model, views).to(place)
    settings = EvalSettings(model, data, split, test_code, views, episodes_from, tasks)
    with lock_folder(out):
        run = Run.create(out, settings, force)
        results = {}
        for shot, drawn in episodes.items():
            fewshot.save_episodes(episode_file(out, shot), drawn, images, force)
            results[shot] = fewshot.evaluate(network, images, drawn, place, features, temperature=True)
            run.log(shot=shot, **evaluation_numbers(results[shot]))
        with atomic_write(out / "evaluation.json", force=True) as path:
            path.write_text(
                json.dumps({f"{shot}-shot": evaluation_numbers(r) for shot, r in results.items()}, indent=2)
            )
        report = Report("Few-shot evaluation", f"{model} on {data}, {split}")
        describe_evaluation(report, network.cpu(), images, features.cpu(), results, map_by)
        report.save(out / "report.html")
    _warn(*results.values())
    if as_json:
        print((out / "evaluation.json").read_text())
        return
    for shot, result in results.items():
        print(f"{tasks.way}-way {shot}-shot: {result.summary()}; {result.calibration_summary()}")
    print(f"report: {out / 'report.html'}")


def compare(
    first: Positional[Annotated[str, arg(metavar="FIRST")]],
    second: Positional[Annotated[str, arg(metavar="SECOND")]],
    data: Positional[Annotated[str | None, arg(metavar="DATA")]] = None,
    backbone: str | None = None,
    tasks: Tasks = Tasks(),  # noqa: B008 - frozen
    split: str = "test",
    episodes_from: Path | None = None,
    views: ViewsAtTest = AS_IT_IS,
    device: str = "auto",
    as_json: Annotated[bool, arg(name="json")] = False,
) -> None:
    """Compare two models episode by episode: the difference with its 95 % intervals and p-values.

    It is called significant if zero lies outside both intervals: over episodes of these classes, and over classes.

    Args:
        first: a model's file, or any backbone: timm:NAME, hf:NAME_OR_FOLDER, onnx:FILE, efficientnet-lite0, or a .npy
            file with the features of the data's images, in their order.
        second: another one; its accuracy is subtracted from that of the first.
        data: what to test on: a prepared data set (`pauca fewshot data prepare`), a folder or zip archive with a folder
            for each class, or `glyphs`, characters drawn on the spot.
        backbone: the backbone in place of the second model; then FIRST and DATA are named before it.
        tasks: the episodes, the same ones for both.
        split: which split to test on.
        episodes_from: folder of an earlier eval, to test on the episodes that it saved instead of drawing new ones.
        views: in which views both see the images.
        device: where to compute: auto (the GPU if there is one), cpu, cuda or cuda:N.
        as_json: print JSON for programs.
    """
    second, data = named_parts("compare", backbone, second, data)
    names = first, second
    opened = [open_tested(name, None, None) for name in names]
    # Each sees the images as it was made for them: of its own size, and whatever the other one's.
    configs = [network.config for network, _ in opened]
    shapes: list[tuple[int, int, Fitting]] = [(c.image_size, c.channels, c.fitting) for c in configs]
    with spoken_warnings():
        seen = {shape: open_test(data, *shape, split, quiet=as_json) for shape in shapes}
    sets = [seen[shape] for shape in shapes]
    place = resolve_device(device)
    episodes = tasks.episodes_of_any(sets, episodes_from)
    features = [
        fewshot.embed_images(network, images, place, quiet=as_json, views=views)
        if table is None
        else rows_for(table, images, name, views).to(place)
        for (network, table), images, name in zip(opened, sets, names, strict=True)
    ]
    rows: dict[str, Any] = {}
    for shot, drawn in episodes.items():
        one, other = (
            fewshot.evaluate(network, images, drawn, place, embedded)
            for (network, _), images, embedded in zip(opened, sets, features, strict=True)
        )
        other = replace(other, data_fingerprint=one.data_fingerprint)  # the same images, though of another size
        found = fewshot.compare(one, other)
        if shot == min(episodes):
            _warn(one, other)
        rows[f"{shot}-shot"] = comparison_numbers(one, other, found)
        if not as_json:
            print(f"{shot}-shot: {comparison_sentence(one, other, found)}")
    if as_json:
        print(json.dumps(rows, indent=2))


def scan(
    path: Positional[Annotated[Path, arg(metavar="FOLDER")]],
    min_images: int = 20,
    crops: bool = True,
    as_json: Annotated[bool, arg(name="json")] = False,
) -> None:
    """Say what is wrong with a folder of images: unreadable, duplicate, a crop of another one, gray, too few.

    Ends with 1 if something would make training fail or mislead it: damaged images, classes too small, images that are
    in two classes or splits.

    Args:
        path: folder or zip archive with a folder for each class.
        min_images: classes with fewer images are reported.
        crops: look for images that are parts of others, too; with --no-crops the scan is about 8 ms an image shorter.
        as_json: print JSON for programs.
    """
    report = fewshot.scan_images(path, min_images, quiet=False, crops=crops)
    print(json.dumps(report.to_dict(), indent=2) if as_json else "\n".join(report.lines()))
    if report.harmful:
        raise SystemExit(1)


def prepare(
    name: Positional[Annotated[str, arg(metavar="BENCHMARK")]],
    source: Annotated[Path, arg(name="from")],
    out: Path | None = None,
    size: int | None = None,
    splits: Path | None = None,
    allow_incomplete: bool = False,
    unreadable: Unreadable = "refuse",
    fitting: Fitting = "crop",
    force: bool = False,
) -> None:
    """Make a standard benchmark's train, val and test sets from the original files.

    Args:
        name: the benchmark: cifar-fs, fc100, miniimagenet, tieredimagenet, cub, omniglot or tiny-imagenet; or the word
            folder, for images of your own.
        source: folder or archive with the originals.
        out: folder to write the sets to; if not given, data/ and the benchmark's name.
        size: side of the images in pixels; if not given, the benchmark's own.
        splits: folder of the lists that say which class is in which split; if not given, they are looked for in the
            folder that the environment variable PAUCA_DATA names.
        allow_incomplete: accept originals that lack some of the classes or images.
        unreadable: stop at damaged images and name them, or leave them out.
        fitting: how images that are not square become so: crop scales the shorter side and cuts the longer one, squash
            scales both.
        force: replace what is there already.
    """
    out = out or Path("data") / name
    told = size, splits, allow_incomplete, unreadable, force, fitting
    with spoken_warnings():
        report = fewshot.prepare_benchmark(name, source, out, *told, quiet=False)
    print("\n".join(report.lines()))


__all__ = ["COMMANDS", "plan_training", "spoken_warnings"]

COMMANDS = {
    "train": train,
    "eval": evaluate,
    "compare": compare,
    "fit": fit,
    "predict": predict,
    "data": {"scan": scan, "prepare": prepare},
}


def _warn(*results: fewshot.Evaluation) -> None:
    """Say, once each, that a model was tested on classes that it was trained on."""
    for warning in dict.fromkeys(filter(None, (result.seen_warning() for result in results))):
        print(f"warning: {warning}", file=sys.stderr)
