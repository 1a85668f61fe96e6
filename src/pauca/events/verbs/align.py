"""`pauca events align`: the velocity of the camera over recordings, chunk by chunk."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from tyro.conf import Positional, arg

from pauca import events
from pauca.errors import ConfigError
from pauca.events.pieces import check_device
from pauca.events.verbs.aligning import AlignRun
from pauca.events.verbs.files import expanded, output_folder, stem
from pauca.events.verbs.many import ACCOUNT, AtOnce, align_many
from pauca.events.verbs.prior import PriorOptions


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
    recordings: Positional[Annotated[tuple[Path, ...], arg(metavar="RECORDING [RECORDING ...]")]],
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
    prior: PriorOptions = PriorOptions(),  # noqa: B008 - frozen
    workers: int | None = None,
    device: events.Device = "cpu",
    at_once: AtOnce = AtOnce(),  # noqa: B008 - frozen
    resume: bool = False,
    force: bool = False,
    quiet: bool = False,
) -> None:
    """Estimate the velocity of the camera over a recording; write a table, a plot and sharp images.

    Writes trajectory.csv, trajectory.npz, velocity.png, aligned_*.png and, of which files and options these are,
    made_from.json to the output folder. Rows of trajectory.csv are there as soon as they are found; what an interrupted
    run has found is kept, and --resume goes on.

    Args:
        recordings: events as text (plain or .gz), NPZ, HDF5, Prophesee RAW or DAT, AEDAT, ROS bag, or Event Stream; or
            folders of them.
        camera: calibration file (UZH calib.txt, YAML of ROS, Kalibr, DSEC or OpenCV, XML of DV), for recordings without
            their own.
        camera_name: which camera, where the calibration file holds several; default: cam0.
        motion: rotation of the camera, or translation parallel to the image.
        objective: st-ppp, the likelihood of the spatio-temporal Poisson point process, or contrast of the image.
        estimator: trajectory, a velocity that is linear between knots and drawn from packets, or packets alone, a
            velocity for each, at twice to four times the speed; default: trajectory for rotations by the likelihood,
            packets for all else, the paper's preset and a gyroscope as prior.
        preset: default, or the paper's protocol (30,000 events, first-order warp to the first event).
        cutting: where packets end, instead of what the preset says.
        out: output folder; default: the recording's name, in runs/events. Of several recordings, the folder of their
            folders.
        images: how many packets to draw before and after alignment, spread over the recording; 0 for none.
        reading: how the file is read.
        remove_hot_pixels: leave out the events of pixels that fire all the time, and say how many there are, unless
            --no-remove-hot-pixels is given.
        remove_noise: leave out events that no neighboring pixel confirms, and say how many there are, where the image
            shows much background noise, unless --no-remove-noise or the paper's preset is given.
        prior: a gyroscope beside the camera as a prior of each packet's velocity.
        workers: processes that share a recording, in pieces of 3 million events. Results are the same for any number of
            them, and near the seams not quite those without this option: one process, in one piece.
        device: cuda makes the images of many packets at once on a GPU, in pieces as with --workers, which then share
            what the CPU does for it. What lies between packets, of the trajectory, is estimated on the CPU.
        at_once: several recordings at a time.
        resume: go on with a run that was interrupted, from its last packet; of several recordings, pass over those
            that are done, and begin those that are not begun.
        force: replace results that are there already.
        quiet: print only errors.
    """
    config = _align_config(motion, objective, estimator, preset, cutting)
    if images < 0:
        raise ConfigError(f"--images must not be negative, got {images}")
    if resume and force:
        raise ConfigError("--resume goes on with a run and --force begins it anew: choose one")
    if prior.read() is not None and config.between_knots:
        if estimator is not None:
            raise ConfigError("--gyro-prior is for velocities of packets; choose --estimator packets")
        config = replace(config, estimator="packets")
    if workers is not None and workers < 1:
        raise ConfigError(f"--workers must be at least 1, got {workers}")
    if device != "cpu":
        check_device(device)
        config, workers = replace(config, device=device), workers or 1
    paths = expanded(recordings)
    single = len(paths) == 1 and recordings[0] == paths[0]
    folders = _folders(paths, out, single)
    runs = {
        path: AlignRun(
            path=path,
            out=folders[path],
            config=config,
            reading=reading,
            images=images,
            resume=resume,
            force=force,
            quiet=quiet,
            camera=camera,
            camera_name=camera_name,
            without_hot=remove_hot_pixels,
            without_noise=remove_noise and preset != "paper",
            workers=workers,
            prior=prior,
        )
        for path in paths
    }
    at_once.check(single, workers)
    if single:
        runs[paths[0]].align()
    else:
        align_many(runs, (out or Path("runs/events")) / ACCOUNT, at_once)


def _folders(paths: list[Path], out: Path | None, single: bool) -> dict[Path, Path]:
    """The output folder of each recording."""
    root = output_folder(out, Path("runs/events"))
    folders = {path: out if single and out is not None else root / stem(path) for path in paths}
    if len(set(folders.values())) < len(paths):  # events.txt in many folders
        folders = {path: root / f"{path.absolute().parent.name}-{stem(path)}" for path in paths}
    if len(set(folders.values())) < len(paths):
        raise ConfigError("two of the recordings have one name, and their results would, too; align them one by one")
    return folders


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
