"""The verbs of `pauca events`: parse, call the library, show."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from tyro.conf import Positional, arg

from pauca import events
from pauca.errors import ConfigError, InputError
from pauca.events.verbs.check import check
from pauca.events.verbs.convert import convert
from pauca.events.verbs.gyro import gyro
from pauca.events.verbs.info import info
from pauca.events.verbs.live import live
from pauca.events.verbs.panorama import panorama
from pauca.events.verbs.video import video
from pauca.runs import Progress, check_can_write, check_picture, save_figure


@dataclass(frozen=True)
class Cutting:
    """Where packets end, instead of what the preset says."""

    packet_events: int | None = None
    """Most events in one packet; default: 0.69 for each pixel of the sensor (30,000 on a DAVIS 240C). With the paper's
    preset, exactly so many."""
    min_events: int | None = None
    """A packet waits for so many events; default: a third of the most."""
    packet_s: float | None = None
    """Seconds after which a packet ends if it holds enough events and the image has moved enough; default 0.02."""
    least_pixels: float | None = None
    """A packet waits until the image is expected to have moved by so many pixels; default 4."""
    most_pixels: float | None = None
    """A packet ends when the image is expected to have moved by so many pixels; default 24."""
    longest_s: float | None = None
    """Seconds after which a packet of a moving camera ends in any case; default 0.1."""
    slowest_s: float | None = None
    """Seconds that a packet may last where the camera rests or moves slowly; default 0.3."""
    border: int | None = None
    """Pixels around the sensor in which warped events still count; default 60."""


def align(
    recording: Positional[Annotated[Path, arg(metavar="RECORDING")]],
    camera: Path | None = None,
    camera_name: str | None = None,
    motion: events.Motion = "rotation",
    objective: events.Objective = "st-ppp",
    estimator: events.Estimator | None = None,
    preset: Literal["default", "paper"] = "default",
    cutting: Cutting = Cutting(),
    out: Path | None = None,
    images: int = 3,
    reading: events.ReadConfig = events.ReadConfig(),  # noqa: B008 - frozen
    remove_hot_pixels: bool = True,
    remove_noise: bool = True,
    force: bool = False,
    quiet: bool = False,
) -> None:
    """Estimate the velocity of the camera over a recording; write a table, a plot and sharp images.

    Writes trajectory.csv, trajectory.npz, velocity.png and aligned_*.png to the output folder.

    Args:
        recording: events as text (plain or .gz), NPZ, HDF5, Prophesee RAW or DAT, AEDAT, ROS bag, or Event Stream.
        camera: calibration file (UZH calib.txt, YAML of ROS, Kalibr, DSEC or OpenCV, XML of DV), for recordings without
            their own.
        camera_name: which camera, where the calibration file holds several; default: cam0.
        motion: rotation of the camera, or translation parallel to the image.
        objective: st-ppp, the likelihood of the spatio-temporal Poisson point process, or contrast of the image.
        estimator: packets, a velocity for each packet, or trajectory, a velocity that is linear between knots; default:
            what the preset says.
        preset: default, or the paper's protocol (30,000 events, first-order warp to the first event).
        cutting: where packets end, instead of what the preset says.
        out: output folder; default: the recording's name, in runs/events.
        images: how many packets to draw before and after alignment, spread over the recording; 0 for none.
        reading: how the file is read.
        remove_hot_pixels: leave out the events of pixels that fire all the time, and say how many there are, unless
            --no-remove-hot-pixels is given.
        remove_noise: leave out events that no neighboring pixel confirms, and say how many there are, where the image
            shows much background noise, unless --no-remove-noise or the paper's preset is given.
        force: replace results that are there already.
        quiet: print only errors.
    """
    config = _align_config(motion, objective, estimator, preset, cutting)
    if images < 0:
        raise ConfigError(f"--images must not be negative, got {images}")
    out = out or Path("runs/events") / _stem(recording)
    for name in ("trajectory.csv", "trajectory.npz", "velocity.png"):
        check_can_write(out / name, force)
    started = time.perf_counter()
    loaded = events.read(recording, **vars(reading))
    calibration = _camera(loaded, camera, camera_name)
    if loaded.report is not None and loaded.report.clean and not quiet:  # what was repaired, `read` has logged
        print(loaded.report.summary())
    if remove_hot_pixels:
        loaded = _without_hot_pixels(loaded, quiet)
    if remove_noise and preset != "paper":  # its protocol takes all events
        cleaned = events.remove_noise(loaded)
        if cleaned is not loaded and not quiet:
            print(cleaned.notes[-1])
        loaded = cleaned
    reading_s = time.perf_counter() - started
    # Compiling the kernels, once after installation, is no part of the speed that is reported.
    events.Aligner(calibration, config).align(loaded.events[:1000])
    started = time.perf_counter()
    alignments = _align(loaded, calibration, config, quiet)
    trajectory = events.Trajectory.from_alignments(alignments)
    if config.estimator == "trajectory":
        trajectory = _refine(loaded, trajectory, calibration, config, quiet)
    seconds = time.perf_counter() - started
    trajectory.to_csv(out / "trajectory.csv", force)
    trajectory.to_npz(out / "trajectory.npz", force)
    chosen = _spread(alignments, images)
    _write_figures(trajectory, chosen, loaded, events.Aligner(calibration, config), out, force)
    if not quiet:
        print(_summary(trajectory, loaded, config, seconds, reading_s))
        print(f"wrote trajectory.csv, trajectory.npz, velocity.png{' and images' if chosen else ''} to {out}")


def simulate(
    out: Positional[Annotated[Path, arg(metavar="OUT")]],
    config: events.SimulateConfig = events.SimulateConfig(),  # noqa: B008 - frozen
    camera: Path | None = None,
    size: tuple[int, int] | None = None,
    motion: Path | None = None,
    force: bool = False,
    quiet: bool = False,
) -> None:
    """Simulate a rotating event camera before a panorama, and save its exact velocity with the events.

    Args:
        out: file to write: .npz or .h5.
        config: scene, movement, sensor and disturbances.
        camera: calibration file of the simulated camera; default: a DAVIS 240C.
        size: width and height of the sensor, where the calibration file (--camera) does not say it; without a
            calibration file, simulate a camera of this size without lens distortion.
        motion: file with the angular velocity to follow (CSV with columns t_s,wx_rad_s,wy_rad_s,wz_rad_s, UZH imu.txt
            or groundtruth.txt, or NPZ); default: the --movement below.
        force: replace a file that is there already.
        quiet: print only errors.
    """
    check_can_write(out, force)
    if motion and config.movement != "random":
        raise ConfigError(f"--motion FILE and --movement {config.movement} both say how the camera turns: choose one")
    calibration = _simulated_camera(camera, size)
    recording = events.simulate(config, camera=calibration, motion=events.read_ground_truth(motion) if motion else None)
    events.write(out, recording, force=force)
    if not quiet:
        seconds = recording.events.duration_us / 1e6
        print(f"{out}: {len(recording.events):,} events in {seconds:.3f} s, with ground truth at 1 kHz")


def evaluate(
    trajectory: Positional[Annotated[Path, arg(metavar="TRAJECTORY")]],
    truth: Positional[Annotated[Path, arg(metavar="TRUTH")]],
    protocol: Literal["stated", "packet-middle", "packet-end"] = "stated",
    axes: str = "x y z",
    offset_s: float | None = None,
    fit_offset: bool = False,
    fit_within_s: float = 0.05,
    all_packets: bool = False,
    plot: Path | None = None,
    force: bool = False,
    as_json: Annotated[bool, arg(name="json")] = False,
) -> None:
    """Compare a trajectory with a gyroscope, motion capture or a simulator.

    Args:
        trajectory: trajectory.csv or .npz of `pauca events align`.
        truth: UZH imu.txt or groundtruth.txt, NPZ with gt_t and gt_w, or CSV with t_s,wx_rad_s,wy_rad_s,wz_rad_s.
        protocol: stated compares at the time that each estimate states; packet-middle and packet-end are the published
            protocols of the UZH rotation sequences (gyroscope 2.4 ms earlier; see the docs).
        axes: which axes of the truth are the camera's x, y and z, such as --axes='-y x z'.
        offset_s: seconds to add to the truth's times, instead of what the protocol adds.
        fit_offset: find the offset between the two clocks that explains the estimates best, say how well it is known,
            and compare with it.
        fit_within_s: largest offset in seconds that --fit-offset tries, to either side.
        all_packets: compare disputed, stalled and degenerate packets, too; by default only trusted ones count.
        plot: draw the error over time to this picture (.png, .pdf or .svg).
        force: replace a picture that is there already.
        as_json: print JSON for programs.
    """
    if fit_offset and offset_s is not None:
        raise ConfigError("--offset-s gives the offset and --fit-offset looks for it: choose one")
    if plot is not None:
        check_picture(plot, force)
    estimates, true = events.Trajectory.from_file(trajectory), events.read_ground_truth(truth)
    rules = {"stated": events.STATED, "packet-middle": events.PACKET_MIDDLE, "packet-end": events.PACKET_END}[protocol]
    fitted = None
    if fit_offset:
        fitted = events.find_time_offset(estimates, true, rules, axes, fit_within_s, all_packets)
        offset_s = fitted.seconds
    if offset_s is not None:
        rules = replace(rules, truth_offset_s=offset_s)
    found = events.evaluate(estimates, true, rules, axes, all_packets)
    if plot is not None:
        from pauca.events.plots import error_figure

        save_figure(error_figure(found, f"{trajectory} beside {truth.name}"), plot, force)
    if as_json:
        numbers = found.as_dict() | {"truth_offset_s": rules.truth_offset_s} | (fitted.as_dict() if fitted else {})
        print(json.dumps(numbers, indent=2))
        return
    x, y, z = found.rms_axes_deg_s
    relative = "largest component" if rules.relative_to == "peak" else "range"
    print(
        f"{len(found.t_s)} packets ({found.left_out} outside the truth's time, {found.not_trusted} not converged), "
        f"truth moved by {1e3 * rules.truth_offset_s:+.1f} ms{fitted.in_words() if fitted else ''}"
    )
    print(
        f"RMS {found.rms_deg_s:.2f} deg/s ({found.percent:.2f} % of the truth's {relative}), "
        f"median {found.median_deg_s:.2f} deg/s; x {x:.2f}, y {y:.2f}, z {z:.2f} deg/s RMS"
    )
    print(
        f"{100 * found.within_68:.0f} % of the errors lie within the stated 68 % interval, "
        f"{100 * found.within_95:.0f} % within the stated 95 % interval"
    )


COMMANDS = {
    "align": align,
    "live": live,
    "info": info,
    "check": check,
    "convert": convert,
    "panorama": panorama,
    "video": video,
    "gyro": gyro,
    "evaluate": evaluate,
    "simulate": simulate,
}


def _align_config(
    motion: events.Motion,
    objective: events.Objective,
    estimator: events.Estimator | None,
    preset: str,
    cutting: Cutting,
) -> events.AlignConfig:
    config = events.AlignConfig.paper() if preset == "paper" else events.AlignConfig()
    changes: dict[str, Any] = {name: value for name, value in vars(cutting).items() if value is not None}
    if preset == "paper" and "packet_events" in changes:
        changes = {"min_events": changes["packet_events"], **changes}
    if estimator is not None:
        changes["estimator"] = estimator
    # Hot pixels and noise are left out, and counted, before the recording is cut.
    changes |= {"remove_hot_pixels": False, "remove_noise": False}
    return replace(config, motion=motion, objective=objective, **changes)


def _stem(recording: Path) -> str:
    """`boxes_rotation/events.txt.gz` is called events, after the file without its endings."""
    return recording.name.split(".")[0] or "recording"


def _camera(loaded: events.Recording, path: Path | None, name: str | None) -> events.Camera:
    if path is not None:
        return events.Camera.from_file(path, loaded.events.size, name)
    if loaded.camera is None:
        raise InputError(
            f"{loaded.name}: does not say its camera; add --camera FILE (UZH calib.txt, or YAML of ROS, Kalibr, OpenCV)"
        )
    return loaded.camera


def _simulated_camera(path: Path | None, size: tuple[int, int] | None) -> events.Camera:
    if path:
        return events.Camera.from_file(path, size)
    return events.Camera.pinhole(size) if size else events.DAVIS240C


def _without_hot_pixels(loaded: events.Recording, quiet: bool) -> events.Recording:
    cleaned = events.remove_hot_pixels(loaded)
    if not quiet:
        print(cleaned.notes[-1] if cleaned is not loaded else "no hot pixels")
    return cleaned


def _align(
    loaded: events.Recording, camera: events.Camera, config: events.AlignConfig, quiet: bool
) -> list[events.Alignment]:
    alignments: list[events.Alignment] = []
    with Progress("align", total=len(loaded.events), unit="events", quiet=quiet) as progress:
        for alignment in events.align_packets(loaded, camera, config):
            alignments.append(alignment)
            progress.advance(alignment.n_events, note=str(alignment.status))
    return alignments


def _refine(
    loaded: events.Recording,
    packets: events.Trajectory,
    camera: events.Camera,
    config: events.AlignConfig,
    quiet: bool,
) -> events.Trajectory:
    with Progress("refine", total=len(loaded.events), unit="events", quiet=quiet) as progress:
        return events.refine(loaded, packets, camera, config, progress.advance)


def _spread(alignments: list[events.Alignment], count: int) -> dict[int, events.Alignment]:
    """The packets in the middles of `count` equal parts, by number: they show more than the first ones would."""
    middles = (np.arange(count) + 0.5) / max(count, 1) * len(alignments)
    return {i: alignments[i] for i in np.unique(middles.astype(int)).tolist()}


def _write_figures(
    trajectory: events.Trajectory,
    chosen: dict[int, events.Alignment],
    loaded: events.Recording,
    aligner: events.Aligner,
    out: Path,
    force: bool,
) -> None:
    from pauca.events import plots

    for stale in out.glob("aligned_*.png"):  # of an earlier run, which --force replaces
        stale.unlink()
    figures = {"velocity.png": plots.velocity_figure(trajectory, loaded.ground_truth, loaded.name)}
    for i, alignment in chosen.items():
        window = loaded.events.between(alignment.start_us, alignment.end_us + 1)
        title = f"{loaded.name}: packet {i}, {alignment.start_us / 1e6:.3f} to {alignment.end_us / 1e6:.3f} s"
        before, after = aligner.images(window), aligner.images(window, alignment)
        figures[f"aligned_{i:05d}.png"] = plots.warped_figure(before, after, title)
    for name, figure in figures.items():
        save_figure(figure, out / name, force)


def _summary(
    trajectory: events.Trajectory,
    loaded: events.Recording,
    config: events.AlignConfig,
    seconds: float,
    reading_s: float,
) -> str:
    n, duration_s = len(loaded.events), loaded.events.duration_us / 1e6
    kind = "knot" if config.estimator == "trajectory" else "packet"
    packets = f"{len(trajectory)} {kind}{'' if len(trajectory) == 1 else 's'}"
    counts = ", ".join(f"{trajectory.count(status)} {status}" for status in events.Status)
    return (
        f"{packets} ({counts}), {n:,} events in {seconds:.2f} s (reading {reading_s:.2f} s): "
        f"{n / seconds / 1e6:.2f} million events/s, {duration_s / seconds:.2f} times real time"
    )
