"""Whether an estimate of `pauca.events` may be acted on: errors, status and stated uncertainty over a matrix of trials.

    python benchmarks/events_trust.py [--quick] [--seed N] [--only WORD] [--minutes M]
                                        [--estimator packets|trajectory] [--json PATH] [--plot PATH] [--docs]

Each trial simulates a recording (motion, scene, camera, disturbance), aligns it with the defaults, and compares every
estimate with the exact velocity at the time that it states. A trial row says, in deg/s over packets and axes: RMS,
median and worst error of the packets that say they can be trusted (converged, rest), how many packets have which
status, how many trusted ones are off by more than 30 deg/s and by more than 4 standard deviations in some axis, the
share of axes within the 68 % and the 95 % interval, and Spearman's rank correlation of error and stated deviation.
Pooled rows follow, over the moving cases and over the others. At rest, in pure noise and for shuffled times, the truth
is a velocity of zero.

`--seed` changes scenes, noise and speeds. Where PAUCA_DATA has them, a real hand's motion and real packets are used.
"""

import argparse
import json
import logging
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import norm, spearmanr

from pauca import events
from pauca.events import DAVIS240C, AlignConfig, Camera, Events, GroundTruth, Recording, SimulateConfig, Status
from pauca.runs import describe_machine, save_figure

DATA = Path(os.environ.get("PAUCA_DATA", Path(__file__).resolve().parents[2] / "shared" / "data")) / "events"
CAMERAS = {
    "davis": DAVIS240C,
    "pinhole": Camera.pinhole((240, 180)),
    "128": Camera.pinhole((128, 128)),
    "vga": Camera.pinhole((640, 480)),
    "hd": Camera.pinhole((1280, 720)),
}
PAGE = Path(__file__).resolve().parents[1] / "docs" / "events" / "measured.md"
BEGIN, END = "<!-- written by benchmarks/events_trust.py --docs -->", "<!-- end of what it writes -->"
FAR_DEG_S, FAR_SIGMA = 30.0, 4.0
ROLL = (0.0, 0.0, 1.0)
TILTED = (0.3, 0.9, 0.3)


@dataclass(frozen=True)
class Trial:
    """One recording to make and to judge."""

    name: str
    config: SimulateConfig
    camera: str = "davis"
    kind: str = "moving"  # pooled with others of its kind: moving, rest, disturbed (must be flagged or wide)
    motion: GroundTruth | None = None
    spoil: Callable[[Recording], Recording] | None = None
    quick: bool = False


@dataclass(frozen=True, eq=False)
class Outcome:
    """Errors and stated deviations of one trial, in deg/s."""

    error: np.ndarray  # [packets, 3]
    sigma: np.ndarray  # [packets, 3]
    status: tuple[Status, ...]
    trusted: np.ndarray  # [packets]


def trials(seed: int) -> list[Trial]:
    """The matrix. With a seed other than 0, speeds differ by up to a quarter as well."""
    rng = np.random.default_rng(seed)

    def speed(deg_s: float) -> float:
        return deg_s * (1.0 if seed == 0 else float(rng.uniform(0.8, 1.25)))

    def config(**changes: Any) -> SimulateConfig:
        return SimulateConfig(**{"seed": int(rng.integers(2**31)), "duration_s": 0.6, "axis": TILTED, **changes})

    def constant(deg_s: float, **changes: Any) -> SimulateConfig:
        deg_s = speed(deg_s)
        seconds = float(np.clip(45.0 / deg_s, 0.06, 1.0))
        return config(movement="constant", peak_deg_s=deg_s, **{"duration_s": seconds, **changes})

    out: list[Trial] = []
    for scene in ("texture", "shapes"):
        first = scene == "texture"
        out += [
            Trial(f"{scene}, rest", config(scene=scene, movement="rest"), kind="rest", quick=first),
            Trial(
                f"{scene}, stop-and-go 200",
                config(scene=scene, movement="stop-and-go", peak_deg_s=speed(200)),
                quick=True,
            ),
            *(
                Trial(f"{scene}, constant {v}", constant(v, scene=scene), quick=v in (5, 300))
                for v in (2, 5, 20, 80, 300, 1000, 2000)
            ),
            Trial(f"{scene}, ramp to 1000", config(scene=scene, movement="ramp", peak_deg_s=speed(1000))),
            Trial(f"{scene}, roll 720", constant(720, scene=scene, axis=ROLL, duration_s=0.25)),
            Trial(
                f"{scene}, vibration 20 Hz 100",
                config(scene=scene, movement="rest", vibration_hz=20.0, vibration_deg_s=speed(100)),
                quick=first,
            ),
            Trial(
                f"{scene}, pan 100, 20 Hz 50",
                config(
                    scene=scene, movement="constant", peak_deg_s=speed(100), vibration_hz=20.0, vibration_deg_s=50.0
                ),
            ),
            Trial(
                f"{scene}, pan 100, 60 Hz 100",
                config(
                    scene=scene, movement="constant", peak_deg_s=speed(100), vibration_hz=60.0, vibration_deg_s=100.0
                ),
            ),
            Trial(f"{scene}, random 300", config(scene=scene, peak_deg_s=speed(300)), quick=True),
            *(
                Trial(f"{scene}, pinhole {v}", constant(v, scene=scene), camera="pinhole", quick=first and v == 10)
                for v in (2, 5, 10, 20, 40, 80, 300)
            ),
            Trial(
                f"{scene}, pinhole 10, 5 Hz, 60 hot",
                constant(10, scene=scene, noise_hz=5.0, hot_pixels=60, hot_pixel_hz=1000.0),
                camera="pinhole",
            ),
            Trial(f"{scene}, rectified 20", constant(20, scene=scene, undistorted=True)),
            Trial(f"{scene}, 128x128 20", constant(20, scene=scene), camera="128"),
            Trial(f"{scene}, 128x128 random 300", config(scene=scene, peak_deg_s=speed(300)), camera="128"),
            Trial(
                f"{scene}, 640x480 random 300",
                config(scene=scene, peak_deg_s=speed(300), duration_s=0.25),
                camera="vga",
            ),
            Trial(f"{scene}, 1280x720 100", constant(100, scene=scene, duration_s=0.12), camera="hd"),
            *_disturbed(config(scene=scene, peak_deg_s=speed(300), duration_s=0.5), first),
        ]
    photograph = _photograph()
    if photograph:
        out += [Trial(f"image, constant {v}", constant(v, image=photograph)) for v in (10, 100, 1000)]
        out.append(Trial("image, stop-and-go 200", config(image=photograph, movement="stop-and-go", peak_deg_s=200.0)))
    for i, motion in enumerate(_hand_motions(rng)):
        out.append(Trial(f"hand, part {i}", config(scene=("texture", "shapes")[i % 2]), motion=motion, quick=i == 0))
    for hz in (0.1, 2.0, 20.0):
        still = config(movement="rest", noise_hz=hz, duration_s=1.0)
        out.append(Trial(f"pure noise {hz:g} Hz", still, kind="rest", quick=hz == 2.0))
    return out


def _disturbed(config: SimulateConfig, first: bool) -> list[Trial]:
    """The same scene and motion under each disturbance: compare with the undisturbed one.

    Moving objects and a wrong calibration are judged apart.
    """

    def trial(
        name: str,
        spoil: Callable[[Recording], Recording] | None = None,
        kind: str = "moving",
        quick: bool = False,
        **changes: Any,
    ) -> Trial:
        changed = replace(config, **changes)
        return Trial(f"{config.scene}, with {name}", changed, kind=kind, spoil=spoil, quick=quick and first)

    return [
        trial("no disturbance", quick=True),
        *(trial(f"noise {hz:g} Hz", noise_hz=hz, quick=hz == 10) for hz in (0.02, 10.0, 30.0)),
        *(trial(f"{n} hot pixels", hot_pixels=n, hot_pixel_hz=1000.0, quick=n == 200) for n in (20, 200)),
        *(
            trial(f"object {share:.0%}", kind="disturbed", moving_object=share, quick=share == 0.25)
            for share in (0.1, 0.25, 0.5)
        ),
        trial("ON only", _on_only),
        trial("30 % of events", _thinned),
        trial("times in ms", _coarse),
        trial("focal length 5 % wrong", _wrong_focal, kind="disturbed"),
        trial("shuffled in time", _shuffled, kind="rest", quick=True),
    ]


def _select(recording: Recording, kept: np.ndarray) -> Recording:
    e = recording.events
    return replace(recording, events=e.where(kept))


def _on_only(recording: Recording) -> Recording:
    return _select(recording, recording.events.p == 1)


def _thinned(recording: Recording) -> Recording:
    return _select(recording, np.random.default_rng(1).random(len(recording.events)) < 0.3)


def _coarse(recording: Recording) -> Recording:
    e = recording.events
    return replace(recording, events=Events(e.t_us // 1000 * 1000, e.x, e.y, e.p, e.size))


def _wrong_focal(recording: Recording) -> Recording:
    camera = recording.camera
    assert camera is not None
    return replace(recording, camera=replace(camera, fx=1.05 * camera.fx, fy=1.05 * camera.fy))


def _shuffled(recording: Recording) -> Recording:
    """Each event keeps its pixel and polarity and gets another one's time: there is no motion left in it."""
    e = recording.events
    order = np.random.default_rng(1).permutation(len(e))
    truth = recording.ground_truth
    assert truth is not None
    still = GroundTruth(truth.t_s, np.zeros_like(truth.omega_rad_s))
    return replace(recording, events=Events(e.t_us, e.x[order], e.y[order], e.p[order], e.size), ground_truth=still)


def _photograph() -> Path | None:
    """The photograph that matplotlib ships."""
    import matplotlib

    path = Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg"
    return path if path.exists() else None


def _hand_motions(rng: np.random.Generator, count: int = 2, seconds: float = 0.7) -> list[GroundTruth]:
    """Parts of a real hand's motion, from the truth of a simulated sequence that followed motion capture."""
    path = DATA / "sim" / "shapes_rot.npz"
    if not path.exists():
        return []
    with np.load(path) as file:
        t_s, omega = file["gt_t"], file["gt_w"].astype(float)
    starts = rng.uniform(t_s[0], t_s[-1] - seconds, count)
    parts = [(t_s >= start) & (t_s <= start + seconds) for start in starts]
    return [GroundTruth(t_s[part], omega[part]) for part in parts]


def run(trial: Trial, config: AlignConfig) -> Outcome:
    """Simulate, spoil, align, compare."""
    recording = events.simulate(trial.config, camera=CAMERAS[trial.camera], motion=trial.motion)
    if trial.spoil:
        recording = trial.spoil(recording)
    truth = recording.ground_truth
    assert truth is not None
    trajectory = events.align(recording, config=config)
    at = np.stack([np.interp(trajectory.t_s, truth.t_s, part) for part in truth.omega_rad_s.T], axis=1)
    sigma = np.sqrt(np.diagonal(trajectory.covariance, axis1=1, axis2=2))
    return Outcome(np.degrees(trajectory.velocity - at), np.degrees(sigma), trajectory.status, trajectory.trusted)


def judge(outcomes: list[Outcome]) -> dict[str, float]:
    """The figures of a row, over one trial or several."""
    error, sigma = (np.concatenate([getattr(o, name)[o.trusted] for o in outcomes]) for name in ("error", "sigma"))
    status = [status for outcome in outcomes for status in outcome.status]
    row: dict[str, float] = {str(name): sum(s is name for s in status) for name in Status}
    if not len(error):
        return row
    size, share = np.abs(error), np.abs(error) / np.maximum(sigma, 1e-9)
    row |= {
        "rms": float(np.sqrt(np.mean(error**2))),
        "median": float(np.median(size)),
        "worst": float(size.max()),
        "far": int((size.max(axis=1) > FAR_DEG_S).sum()),
        "far_sigma": int((share.max(axis=1) > FAR_SIGMA).sum()),
        "within_68": float(np.mean(share < norm.ppf(0.84))),
        "within_95": float(np.mean(share < norm.ppf(0.975))),
    }
    if size.size > 8 and np.ptp(sigma) > 0 and np.ptp(size) > 0:
        row["spearman"] = float(spearmanr(size.ravel(), sigma.ravel()).statistic)
    return row


HEAD = (
    f"{'':34} {'RMS':>7} {'median':>7} {'worst':>7} {' '.join(f'{status[:5]:>5}' for status in Status)} {'>30':>4} "
    f"{'>4sd':>4} {'68 %':>5} {'95 %':>5} {'rank':>5}"
)


def line(name: str, row: dict[str, float]) -> str:
    """A row for people."""
    counts = " ".join(f"{row[str(status)]:5.0f}" for status in Status)
    if "rms" not in row:
        return f"{name:34} {'-':>7} {'-':>7} {'-':>7} {counts}"
    rank = f"{row['spearman']:5.2f}" if "spearman" in row else f"{'-':>5}"
    return (
        f"{name:34} {row['rms']:7.2f} {row['median']:7.2f} {row['worst']:7.1f} {counts} {row['far']:4.0f} "
        f"{row['far_sigma']:4.0f} {100 * row['within_68']:5.0f} {100 * row['within_95']:5.0f} {rank}"
    )


def page_table(rows: dict[str, dict[str, float]]) -> str:
    """The trials of both scenes as a table of docs/events/measured.md, and what they pool to."""

    def cells(row: dict[str, float] | None) -> str:
        if row is None:
            return "| |"
        trusted, flagged = row["converged"] + row["rest"], row["disputed"] + row["stalled"] + row["degenerate"]
        if "rms" not in row:
            return f"| none trusted | 0 + {flagged:.0f} |"
        return f"| {row['rms']:.2f} / {row['median']:.2f} / {row['worst']:.1f} | {trusted:.0f} + {flagged:.0f} |"

    scenes = ("texture", "shapes")
    names = dict.fromkeys(name.split(", ", 1)[1] for name in rows if name.split(", ")[0] in scenes)
    lines = [
        "| trial | texture: RMS / median / worst | trusted + flagged | shapes | trusted + flagged |",
        "|---|---|---|---|---|",
        *(f"| {name} {cells(rows.get(f'texture, {name}'))}{cells(rows.get(f'shapes, {name}'))[1:]}" for name in names),
        "",
        "| pooled | trusted | RMS | median | > 30 deg/s | > 4 deviations | in 68 % | in 95 % | rank correlation |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for kind in ("moving", "rest", "disturbed"):
        if row := rows.get(f"all {kind}"):
            n = row["converged"] + row["rest"]
            far, far_sigma = (f"{row[name]:.0f} ({100 * row[name] / n:.1f} %)" for name in ("far", "far_sigma"))
            rank = f"{row['spearman']:.2f}" if "spearman" in row else ""
            lines.append(
                f"| {kind} | {n:.0f} | {row['rms']:.2f} | {row['median']:.2f} | {far} | {far_sigma} | "
                f"{100 * row['within_68']:.0f} | {100 * row['within_95']:.0f} | {rank} |"
            )
    return "\n".join(lines)


def write_page(rows: dict[str, dict[str, float]]) -> None:
    """Put the table where the page holds it."""
    text = PAGE.read_text(encoding="utf-8")
    head, rest = text.split(BEGIN)
    PAGE.write_text(f"{head}{BEGIN}\n\n{page_table(rows)}\n\n{END}{rest.split(END)[1]}", encoding="utf-8")


def real_packets() -> list[str]:
    """Roll and tilt of the real packets beside the velocity stated for them; the pan is not comparable (README)."""
    lines = []
    for path in sorted((DATA / "rotation").glob("*_rotation.npz")):
        with np.load(path) as file:
            stated = np.degrees(file["w"])
        found = events.align(events.read(path))
        information = np.linalg.inv(found.covariance)
        mean = np.linalg.solve(information.sum(axis=0), np.einsum("nij,nj->i", information, found.velocity))
        velocity = np.degrees(mean)
        lines.append(
            f"{path.stem:18} stated {np.array2string(stated, precision=1)}, found "
            f"{np.array2string(velocity, precision=1)} deg/s, {', '.join(sorted(set(map(str, found.status))))}"
        )
    return lines


def reliability_figure(outcomes: list[Outcome]) -> Any:
    """Stated against true: coverage of every interval, and error by stated deviation."""
    from matplotlib.figure import Figure

    error, sigma = (np.concatenate([getattr(o, name)[o.trusted] for o in outcomes]) for name in ("error", "sigma"))
    size, sigma = np.abs(error).ravel(), sigma.ravel()
    figure = Figure(figsize=(9, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    stated = np.linspace(0.01, 0.99, 99)
    true = [np.mean(size < norm.ppf((1 + share) / 2) * sigma) for share in stated]
    left.plot([0, 100], [0, 100], color="0.6", lw=1, label="as stated")
    left.plot(100 * stated, 100 * np.array(true), color="#3b5ba5", label="measured")
    left.set_xlabel("interval stated (%)")
    left.set_ylabel("errors that lie within it (%)")
    order = np.argsort(sigma)
    parts = np.array_split(order, 10)
    middle = [np.sqrt(np.mean(sigma[part] ** 2)) for part in parts]
    rms = [np.sqrt(np.mean(size[part] ** 2)) for part in parts]
    right.loglog(middle, middle, color="0.6", lw=1, label="as stated")
    right.loglog(middle, rms, "o-", color="#c1440e", ms=4, label="measured")
    right.xaxis.set_minor_formatter("")
    right.set_xlabel("standard deviation stated (deg/s)")
    right.set_ylabel("RMS error (deg/s)")
    for panel in (left, right):
        panel.grid(alpha=0.3)
        panel.legend(loc="upper left", fontsize="small")
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a sixth of the trials")
    parser.add_argument("--seed", type=int, default=0, help="other scenes, noise and speeds")
    parser.add_argument("--only", default="", help="only trials whose name holds this word")
    parser.add_argument("--minutes", type=float, default=15.0, help="begin no trial after so many minutes")
    parser.add_argument("--estimator", choices=("packets", "trajectory"), help="instead of the default")
    parser.add_argument("--json", type=Path, help="write all rows here")
    parser.add_argument("--plot", type=Path, help="draw the reliability of the moving trials to this picture")
    parser.add_argument("--docs", action="store_true", help="write table and reliability plot into the docs")
    options = parser.parse_args()
    logging.getLogger("pauca").setLevel(logging.ERROR)  # each removal of hot pixels is logged
    config = replace(AlignConfig(), estimator=options.estimator) if options.estimator else AlignConfig()
    machine = describe_machine("benchmarks/events_trust.py")
    print(f"{machine['processor']}, Python {machine['python']}, seed {options.seed}\n\n{HEAD}", flush=True)
    chosen = [t for t in trials(options.seed) if options.only in t.name and (t.quick or not options.quick)]
    started, rows, outcomes = time.monotonic(), {}, {}
    for trial in chosen:
        if time.monotonic() - started > 60 * options.minutes:
            print(f"time is up: {len(chosen) - len(rows)} of {len(chosen)} trials were left out")
            break
        outcomes[trial] = run(trial, config)
        rows[trial.name] = judge([outcomes[trial]])
        print(line(trial.name, rows[trial.name]), flush=True)
    print()
    for kind in ("moving", "rest", "disturbed"):
        pool = [outcome for trial, outcome in outcomes.items() if trial.kind == kind]
        if pool:
            rows[f"all {kind}"] = judge(pool)
            print(line(f"all {kind} ({len(pool)} trials)", rows[f"all {kind}"]))
    print(f"\n{time.monotonic() - started:.0f} s")
    if not options.only and not options.quick:
        print("\n".join(["", "Real packets:", *real_packets()]))
    if options.json:
        options.json.write_text(json.dumps({"machine": machine, "seed": options.seed, "rows": rows}, indent=1))
    if options.docs:
        write_page(rows)
        options.plot = PAGE.parents[1] / "images" / "events-reliability.png"
    if options.plot:
        moving = [outcome for trial, outcome in outcomes.items() if trial.kind == "moving"]
        save_figure(reliability_figure(moving), options.plot, force=True)


if __name__ == "__main__":
    main()
