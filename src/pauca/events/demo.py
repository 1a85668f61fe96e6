"""The part of `pauca demo` that shows `pauca.events`: a simulated camera's rotation, recovered and compared."""

import time
from pathlib import Path

import numpy as np

from pauca import events
from pauca.events import plots
from pauca.events.whole import compile_kernels
from pauca.runs import Progress, Report


def add_to_report(report: Report, folder: Path, seed: int, quiet: bool) -> None:
    """Simulate, align, compare with the exact motion; results go to `folder` and into `report`."""
    recording = events.simulate(events.SimulateConfig(scene="shapes", duration_s=2.0, seed=seed))
    config = events.AlignConfig()
    assert recording.camera is not None
    compile_kernels(recording.events[:1000], recording.camera, config)
    started = time.perf_counter()
    alignments: list[events.Alignment] = []
    with Progress("events", total=len(recording.events), unit="events", quiet=quiet) as progress:

        def show(alignment: events.Alignment) -> None:
            alignments.append(alignment)
            progress.advance(alignment.n_events)

        trajectory = events.align(recording, config=config, progress=show)
    seconds = time.perf_counter() - started
    events.write(folder / "recording.npz", recording, force=True)
    trajectory.to_csv(folder / "trajectory.csv", force=True)
    _describe(report, recording, alignments, trajectory, seconds)


def _describe(
    report: Report,
    recording: events.Recording,
    alignments: list[events.Alignment],
    trajectory: events.Trajectory,
    seconds: float,
) -> None:
    truth, camera = recording.ground_truth, recording.camera
    assert truth is not None
    assert camera is not None
    evaluation = events.evaluate(trajectory, truth)
    n = len(recording.events)
    report.heading("Few events: the rotation of an event camera")
    report.text(
        "A simulated DAVIS 240C turns by hand before a panorama of shapes. From its events alone, and its calibration, "
        "pauca.events recovers the camera's angular velocity and aligns the events into sharp images."
    )
    report.table(
        ["knots", "events", "million events/s", "times real time", "RMS error (deg/s)", "peak speed (deg/s)"],
        [
            [
                len(trajectory),
                n,
                round(n / seconds / 1e6, 2),
                round(recording.events.duration_us / 1e6 / seconds, 2),
                round(evaluation.rms_deg_s, 2),
                round(float(np.linalg.norm(evaluation.truth_deg_s, axis=1).max())),
            ]
        ],
        caption="One core; error over all knots and axes against the simulator's exact velocity.",
    )
    report.figure(
        plots.velocity_figure(trajectory, truth), "Angular velocity: estimate with its 2 sigma band, and truth."
    )
    fastest = alignments[int(np.argmax([np.linalg.norm(alignment.velocity) for alignment in alignments]))]
    window = recording.events.between(fastest.start_us, fastest.end_us + 1)
    aligner = events.Aligner(camera)
    figure = plots.warped_figure(aligner.images(window), aligner.images(window, fastest))
    report.figure(
        figure,
        f"The fastest packet, {window.duration_us / 1e3:.1f} ms of events, before and after alignment: pixels that "
        "became darker (OFF) orange, brighter (ON) blue.",
    )
