"""`pauca events benchmark`: the public sequences of turning cameras, by the published protocols, in one command."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Sequence as Many
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from tyro.conf import Positional, arg

from pauca import events
from pauca.errors import InputError, PaucaError
from pauca.events import sequences
from pauca.events.evaluation import orientation_error_deg
from pauca.events.sequences import Sequence
from pauca.events.verbs.align import align
from pauca.events.verbs.aligning import JOURNAL
from pauca.events.verbs.files import facts, output_folder
from pauca.events.verbs.gyro import read_gyro
from pauca.runs import describe_machine, json_text, write_text

Setting = Literal["paper", "packets", "trajectory"]

_SETTINGS: dict[str, dict[str, Any]] = {
    "paper": {"preset": "paper", "remove_hot_pixels": False, "remove_noise": False},
    "packets": {"estimator": "packets"},
    "trajectory": {"estimator": "trajectory"},
}
_PROTOCOLS = {
    "packet-middle": "packet middle, gyroscope 2.4 ms earlier, RMS over packets and axes, % of its range, to 60 s",
    "packet-end": "packet end less 2.4 ms, gyroscope by a spline, mean of the axes' RMS, % of its peak, to 59.75 s",
    "gyroscope": "times as stated, trusted packets, gyroscope with offset, mounting and bias fitted, % of its range",
    "poses": "times as stated, trusted packets, velocity of the true poses, % of its range",
}
_FIELDS = (
    *("sequence", "protocol", "method", "packets", "rms_deg_s", "percent", "x_deg_s", "y_deg_s", "z_deg_s"),
    *("median_deg_s", "within_95", "orientation_rms_deg"),
)

Row = dict[str, Any]


def benchmark(
    dataset: Positional[Annotated[Literal["davis240c", "ecrot"], arg(metavar="{davis240c,ecrot}")]],
    folder: Positional[Annotated[Path, arg(metavar="FOLDER")]],
    names: tuple[str, ...] = (),
    settings: tuple[Setting, ...] = ("paper", "packets", "trajectory"),
    published: Path | None = None,
    out: Path | None = None,
    resume: bool = False,
    force: bool = False,
    as_json: Annotated[bool, arg(name="json")] = False,
    quiet: bool = False,
) -> None:
    """Align the public sequences of turning cameras, and print the tables of the papers.

    davis240c are the four rotation sequences of the UZH Event-Camera Dataset: FOLDER/NAME/events.txt with imu.txt and
    calib.txt, or FOLDER/NAME.bag. ecrot are the bags of the Event Camera Rotation Dataset with their YAML calibrations.
    Each sequence's trajectory, results.csv and results.json go to the output folder.

    Args:
        dataset: davis240c or ecrot.
        folder: where the sequences are.
        names: which sequences, such as --names shapes_rotation; default: all that are there.
        settings: how to estimate: paper (its protocol), packets (a velocity for each), trajectory (the defaults: a
            velocity between knots).
        published: figures to print beside: a CSV with columns sequence, protocol, method, rms_deg_s, perhaps percent.
        out: output folder; default: runs/events/benchmark-DATASET.
        resume: go on with a benchmark that was interrupted; what is done is kept.
        force: begin anew, and replace results that are there already.
        as_json: print JSON for programs.
        quiet: print only the tables.
    """
    if resume and force:
        raise InputError("--resume goes on with a benchmark and --force begins it anew: choose one")
    out = output_folder(out, Path(f"runs/events/benchmark-{dataset}"))
    if not (resume or force) and out.is_dir() and any(out.iterdir()):
        raise InputError(f"{out}: holds a benchmark already; go on with it (--resume), or begin anew (--force)")
    known = _published(published) if published else []
    found = sequences.davis240c(folder) if dataset == "davis240c" else sequences.ecrot(folder)
    chosen = _chosen(found, names, folder)
    rows: list[Row] = []
    failed = 0
    for sequence in chosen:
        for setting in settings:
            try:
                trajectory = _aligned(sequence, setting, out / sequence.name / setting, resume, force, quiet or as_json)
                judge = _against_gyro if dataset == "davis240c" else _against_best
                rows += [{"sequence": sequence.name, "method": setting} | row for row in judge(sequence, trajectory)]
            except PaucaError as error:
                failed += 1
                print(f"pauca: {sequence.name}, {setting}: {' '.join(str(error).split())}", file=sys.stderr, flush=True)
    rows += [row for row in known if any(row["protocol"] == each["protocol"] for each in rows)]
    _write(rows, out, dataset)
    if rows or as_json:
        print(json_text(rows, indent=2) if as_json else _table(rows, known))
    if failed:
        raise PaucaError(f"{failed} of {len(chosen) * len(settings)} alignments failed; --resume tries them again")


def _chosen(found: list[Sequence], names: tuple[str, ...], folder: Path) -> list[Sequence]:
    there = [sequence.name for sequence in found]
    if lacking := [name for name in names if name not in there]:
        raise InputError(f"{folder}: no sequence {', '.join(lacking)}; there are: {', '.join(there)}")
    return [sequence for sequence in found if not names or sequence.name in names]


def _aligned(
    sequence: Sequence, setting: str, folder: Path, resume: bool, force: bool, quiet: bool
) -> events.Trajectory:
    """The trajectory of a sequence, from an earlier call where it is complete."""
    if sequence.lacks:
        raise InputError(sequence.lacks)
    about, path = folder / "done.json", folder / "trajectory.npz"
    made_from = [facts(sequence.events), facts(sequence.camera)]
    if resume and about.is_file() and path.is_file():
        if about.read_text(encoding="utf-8", errors="replace") != json.dumps(made_from):
            raise InputError(
                f"{folder}: was made from another recording or calibration, or one has changed since; "
                "begin anew (--force)"
            )
        return events.Trajectory.from_file(path)
    about.unlink(missing_ok=True)
    if not quiet:
        print(f"{sequence.name}, {setting}: {sequence.events}", flush=True)
    size = (240, 180) if sequence.events.name.startswith("events.txt") else None
    align(
        (sequence.events,),
        camera=sequence.camera,
        out=folder,
        images=0,
        reading=events.ReadConfig(size=size),
        resume=resume and (folder / JOURNAL).is_file(),
        force=force,
        quiet=True,
        **_SETTINGS[setting],
    )
    write_text(about, json.dumps(made_from), force=True)
    return events.Trajectory.from_file(path)


def _against_gyro(sequence: Sequence, trajectory: events.Trajectory) -> list[Row]:
    """Both published protocols of the UZH sequences; the clock of a text begins with the recording."""
    gyro = read_gyro(sequence.gyro or sequence.events)
    begin_s = 0.0 if sequence.gyro is not None else float(trajectory.start_us[0] * 1e-6)
    rows = []
    for name, protocol in (("packet-middle", events.PACKET_MIDDLE), ("packet-end", events.PACKET_END)):
        rules = replace(protocol, until_s=protocol.until_s + begin_s)
        rows.append(_row(name, events.evaluate(trajectory, gyro, rules, all_packets=True)))
    return rows


def _against_best(sequence: Sequence, trajectory: events.Trajectory) -> list[Row]:
    """The true poses, where they are there, or else the gyroscope, whose place beside the camera is found."""
    if sequence.poses is None:
        gyro = read_gyro(sequence.events)
        fit = events.fit_gyro(trajectory, gyro, within_s=0.1)
        return [_row("gyroscope", events.evaluate(trajectory, fit.apply(gyro)))]
    found = events.evaluate(trajectory, events.read_ground_truth(sequence.poses))
    table = np.loadtxt(sequence.poses, ndmin=2, comments="#")
    return [
        _row("poses", found) | {"orientation_rms_deg": orientation_error_deg(trajectory, table[:, 0], table[:, 4:8])}
    ]


def _row(protocol: str, found: events.Evaluation) -> Row:
    x, y, z = found.rms_axes_deg_s
    return {
        "protocol": protocol,
        "packets": len(found.t_s),
        "rms_deg_s": found.rms_deg_s,
        **({} if found.percent is None else {"percent": found.percent}),
        "x_deg_s": x,
        "y_deg_s": y,
        "z_deg_s": z,
        "median_deg_s": found.median_deg_s,
        "within_95": found.within_95,
    }


def _published(path: Path) -> list[Row]:
    try:
        rows = list(csv.DictReader(path.read_text(encoding="utf-8").splitlines()))
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read as a table ({error})") from None
    if not rows or not {"sequence", "protocol", "method", "rms_deg_s"} <= rows[0].keys():
        raise InputError(
            f"{path}: expected a table with columns sequence,protocol,method,rms_deg_s and perhaps percent"
        )
    known = []
    for line, row in enumerate(rows, 2):
        if lacking := [name for name in ("sequence", "protocol", "method", "rms_deg_s") if not row[name]]:
            raise InputError(f"{path}: line {line}: no {' and no '.join(lacking)}")
        if row["protocol"] not in _PROTOCOLS:
            raise InputError(f"{path}: line {line}: protocol {row['protocol']!r}; known are {', '.join(_PROTOCOLS)}")
        try:
            numbers = {name: float(row[name]) for name in ("rms_deg_s", "percent") if row.get(name)}
            if not np.isfinite([*numbers.values()]).all():
                raise ValueError("NaN or infinity")
        except ValueError:
            raise InputError(f"{path}: line {line}: rms_deg_s or percent is no number") from None
        known.append({name: row[name] for name in ("sequence", "protocol", "method")} | numbers)
    return known


def _write(rows: list[Row], out: Path, dataset: str) -> None:
    out.mkdir(parents=True, exist_ok=True)
    lines = [",".join(_FIELDS)]
    lines += [",".join(str(row.get(name, "")) for name in _FIELDS) for row in rows]
    write_text(out / "results.csv", "\n".join(lines) + "\n", force=True)
    found = {"dataset": dataset, "machine": describe_machine(), "rows": rows}
    write_text(out / "results.json", json_text(found, indent=2), force=True)


def _table(rows: list[Row], known: list[Row]) -> str:
    lines: list[str] = []
    for protocol, words in _PROTOCOLS.items():
        mine = sorted((row for row in rows if row["protocol"] == protocol), key=lambda row: row["sequence"])
        if not mine:
            continue
        orientation = any("orientation_rms_deg" in row for row in mine)
        lines += [f"{protocol}: {words}"]
        head = f"{'sequence':<22}{'method':<16}{'packets':>8}{'RMS deg/s':>10}{'%':>7}"
        head += "".join(f"{name:>8}" for name in ("x", "y", "z", "median"))
        lines.append(head + (f"{'turned deg':>12}" if orientation else ""))
        for row in [*mine, *_means(mine)]:
            numbers = [_number(row, "packets", 8, 0), _number(row, "rms_deg_s", 10), _number(row, "percent", 7)]
            numbers += [_number(row, name, 8) for name in ("x_deg_s", "y_deg_s", "z_deg_s", "median_deg_s")]
            numbers += [_number(row, "orientation_rms_deg", 12)] if orientation else []
            lines.append(f"{row['sequence']:<22}{row['method']:<16}" + "".join(numbers))
        lines.append("")
    if not known:
        lines.append("No published figures beside: give them with --published FILE.csv")
    return "\n".join(lines)


def _means(rows: Many[Row]) -> list[Row]:
    """The mean of each method's RMS over the sequences, where there are several and each has it."""
    count = len({row["sequence"] for row in rows})
    means = []
    for method in dict.fromkeys(row["method"] for row in rows):
        mine = [row for row in rows if row["method"] == method]
        if len(mine) == count > 1:
            names = [name for name in ("rms_deg_s", "percent") if all(name in row for row in mine)]
            values = {name: float(np.mean([row[name] for row in mine])) for name in names}
            means.append({"sequence": "mean", "method": method} | values)
    return means


def _number(row: Row, name: str, width: int, digits: int = 2) -> str:
    return f"{row[name]:{width},.{digits}f}" if name in row else f"{'-':>{width}}"
