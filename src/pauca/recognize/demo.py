"""The part of `pauca demo` that shows `pauca.recognize`: characters before a shaken camera."""

from pathlib import Path

from pauca import events, fewshot
from pauca.recognize.estimator import EventClassifier
from pauca.recognize.evaluation import compare_alignment, describe_outcome
from pauca.recognize.simulation import ShakeConfig, shake
from pauca.runs import Progress, Report

_CHARACTERS = 10
_EXAMPLES, _ASKED = 2, 5  # recordings of each
_SLOW_DEG_S, _FAST_DEG_S = 60.0, 300.0  # peak speed of the camera in the examples, and in what is asked


def add_to_report(report: Report, folder: Path, seed: int, quiet: bool) -> None:
    """Simulate recordings of characters, name them with and without alignment, and describe that in `report`."""
    with Progress("recognize", total=_CHARACTERS * (_EXAMPLES + _ASKED), unit="recordings", quiet=quiet) as progress:
        examples, example_labels = _recordings(range(_EXAMPLES), _SLOW_DEG_S, seed, progress)
        asked, labels = _recordings(range(_EXAMPLES, _EXAMPLES + _ASKED), _FAST_DEG_S, seed, progress)
        classifiers = {align: EventClassifier(align=align) for align in (True, False)}
        outcome = compare_alignment(classifiers, examples, example_labels, asked, labels)
    report.heading("Where they meet: recognition from events")
    report.text(
        f"A sensor of {ShakeConfig().sensor} pixels a side is shaken before characters on a wall. pauca.recognize has "
        f"seen {_EXAMPLES} recordings of each of {_CHARACTERS}, at up to {_SLOW_DEG_S:.0f} degrees a second, and is "
        f"asked about others, at up to {_FAST_DEG_S:.0f}. Nothing was trained: pictures are compared by the directions "
        "of their edges."
    )
    describe_outcome(report, outcome)


def _recordings(
    numbers: range, peak_deg_s: float, seed: int, progress: Progress
) -> tuple[list[events.Recording], list[str]]:
    images = fewshot.draw_glyphs("test", per_class=_EXAMPLES + _ASKED, size=48, classes=_CHARACTERS, seed=seed)
    config = ShakeConfig(slowest_deg_s=peak_deg_s, fastest_deg_s=peak_deg_s, motion_seed=seed)
    made, labels = [], []
    for label, name in enumerate(images.class_names):
        for number in numbers:
            place = label * (_EXAMPLES + _ASKED) + number
            made.append(shake(images.images[place, 0].numpy(), config, place))
            labels.append(chr(int(name.removeprefix("U+"), 16)))
            progress.advance()
    return made, labels
