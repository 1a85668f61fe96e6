"""The verbs of `pauca events`: parse, call the library, show."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from pauca import events
from pauca.errors import ConfigError
from pauca.events.evaluation import mirrors
from pauca.events.verbs.align import align
from pauca.events.verbs.benchmark import benchmark
from pauca.events.verbs.check import check
from pauca.events.verbs.convert import convert
from pauca.events.verbs.export import export
from pauca.events.verbs.gyro import gyro
from pauca.events.verbs.info import info
from pauca.events.verbs.live import live
from pauca.events.verbs.panorama import panorama
from pauca.events.verbs.video import video
from pauca.runs import check_can_write, check_picture, json_text, save_figure


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
    if mirrors(axes):
        print(f"axes '{axes}' mirror, which no mounting of a gyroscope does: is a sign wrong?", file=sys.stderr)
    if plot is not None:
        from pauca.events.plots import error_figure

        save_figure(error_figure(found, f"{trajectory} beside {truth.name}"), plot, force)
    if as_json:
        numbers = found.as_dict() | {"truth_offset_s": rules.truth_offset_s} | (fitted.as_dict() if fitted else {})
        print(json_text(numbers, indent=2))
        return
    x, y, z = found.rms_axes_deg_s
    relative = "largest component" if rules.relative_to == "peak" else "range"
    share = f"{found.percent:.2f} % of the truth's {relative}" if found.percent is not None else "the truth is at rest"
    print(
        f"{len(found.t_s)} velocities ({found.left_out} outside the truth's time, {found.not_trusted} not converged), "
        f"truth moved by {1e3 * rules.truth_offset_s:+.1f} ms{fitted.in_words() if fitted else ''}"
    )
    print(
        f"RMS {found.rms_deg_s:.2f} deg/s ({share}), "
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
    "export": export,
    "gyro": gyro,
    "evaluate": evaluate,
    "benchmark": benchmark,
    "simulate": simulate,
}


def _simulated_camera(path: Path | None, size: tuple[int, int] | None) -> events.Camera:
    if path:
        return events.Camera.from_file(path, size)
    return events.Camera.pinhole(size) if size else events.DAVIS240C
