"""`pauca events live`: velocities of a camera that runs, a line each."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import numpy as np
from tyro.conf import arg

from pauca import events
from pauca.errors import ConfigError, InputError
from pauca.events.exports.viewer import Viewer, check_viewer, open_viewer
from pauca.events.live.hot_pixels import without_hot_pixels
from pauca.events.live.loop import LiveConfig, LiveReport, run
from pauca.events.live.recent import Recent
from pauca.events.live.sources import open_source, receive, replay
from pauca.events.types import Alignment, Events
from pauca.events.verbs.calibrated import calibrated
from pauca.runs import json_text


def live(
    source: Annotated[str, arg(name="from")],
    camera: Path | None = None,
    camera_name: str | None = None,
    size: tuple[int, int] | None = None,
    speed: float = 1.0,
    window_ms: float = 5.0,
    deadline_ms: float = 100.0,
    remove_hot_pixels: bool = True,
    viewer: str | None = None,
    quiet: bool = False,
) -> None:
    """Print the velocity of a running camera as lines of JSON, one for each packet, as soon as it is known.

    A line holds the packet's time, first and last microsecond, velocity in rad/s, its standard deviations, status,
    number of events, and latency_ms, counted from the arrival of the packet's last event. At the end, also of Ctrl-C, a
    line on standard error says how many events there were, how late the velocities came, and what was dropped.

    Args:
        source: file://RECORDING, played as if it happened now, or udp://HOST:PORT, where datagrams of events arrive.
        camera: calibration file, for a source without one of its own.
        camera_name: which camera, where the calibration file holds several.
        size: width and height of the sensor in pixels, for udp, or where the recording leaves it open.
        speed: how many times as fast as it was a recording is played.
        window_ms: milliseconds of a recording that arrive together.
        deadline_ms: events that have waited longer for the processor are dropped and counted, and a packet ends so many
            milliseconds after its first event in any case.
        remove_hot_pixels: leave out the events of pixels that fire all the time, from the second after they are found,
            unless --no-remove-hot-pixels is given.
        viewer: show velocities and events in the Rerun viewer (pip install 'pauca[viewer]'): open for a window,
            FILE.rrd to save for later, or rerun+http://HOST:PORT/proxy for a viewer that runs.
        quiet: nothing on standard error but errors.
    """
    if viewer is not None:
        check_viewer(viewer)
        if viewer.lower().endswith(".rrd") and Path(viewer).exists():
            raise InputError(f"{viewer}: exists already; choose another name")
    for name, value in (("speed", speed), ("window-ms", window_ms), ("deadline-ms", deadline_ms)):
        if not value > 0:
            raise ConfigError(f"--{name} must be positive, got {value}")
    windows, calibration = _open(source, camera, camera_name, size, speed, window_ms / 1e3)
    hot: list[int] = []
    if remove_hot_pixels:
        windows = without_hot_pixels(windows, hot)
    aligner = events.Aligner(calibration)
    _compile(aligner)
    report = LiveReport()
    try:
        with _viewer(viewer, calibration) as (watched, shown):
            run(watched(windows), aligner, _both(_print_line, shown), LiveConfig(deadline_ms / 1e3), report)
    finally:  # a camera runs until somebody stops it
        if not quiet and report.events:
            found = f"; {max(hot)} hot pixels left out" if hot and max(hot) else ""
            print(report.summary() + found, file=sys.stderr)


def _open(
    source: str,
    camera: Path | None,
    camera_name: str | None,
    size: tuple[int, int] | None,
    speed: float,
    window_s: float,
) -> tuple[Iterable[Events], events.Camera]:
    kind, place = open_source(source)
    if isinstance(place, Path):
        stream = events.open_events(place, events.ReadConfig(size=size))
        calibration = calibrated(stream, camera, camera_name)
        return replay(stream, window_s, speed), calibration
    if size is None or camera is None:
        raise InputError(f"{kind}://{place[0]}:{place[1]}: datagrams do not say their camera; add --size and --camera")
    return receive(*place, size), events.Camera.from_file(camera, size, camera_name)


def _compile(aligner: events.Aligner) -> None:
    """Have the kernels compiled, or read from where they were kept, before the first event waits for them."""
    width, height = aligner.camera.size
    rng = np.random.default_rng(0)
    t_us = np.sort(rng.integers(0, 20_000, 2_000))
    x, y = (rng.integers(0, n, t_us.size).astype(np.uint16) for n in (width, height))
    events.Aligner(aligner.camera, aligner.config).align(
        Events(t_us, x, y, (t_us % 2).astype(np.uint8), aligner.camera.size)
    )


@contextmanager
def _viewer(
    where: str | None, camera: events.Camera
) -> Iterator[tuple[Callable[[Iterable[Events]], Iterable[Events]], Callable[[Alignment], None]]]:
    """What keeps the events that go by, and what shows an alignment with its events."""
    if where is None:
        yield (lambda windows: windows), (lambda alignment: None)
        return
    with open_viewer(where) as stream:
        show, recent = Viewer(stream, camera), Recent()

        def shown(alignment: Alignment) -> None:
            sd = np.sqrt(np.maximum(np.diag(alignment.covariance), 0))
            window = recent.take(alignment.start_us, alignment.end_us)
            show.add(alignment.t_us, alignment.velocity, sd, alignment.status, window)

        yield recent.watch, shown


def _both(first: Callable[[Alignment, float], None], second: Callable[[Alignment], None]):
    def take(alignment: Alignment, latency_s: float) -> None:
        first(alignment, latency_s)
        second(alignment)

    return take


def _print_line(alignment: Alignment, latency_s: float) -> None:
    line = {
        "t_us": alignment.t_us,
        "start_us": alignment.start_us,
        "end_us": alignment.end_us,
        "velocity": [round(float(value), 6) for value in alignment.velocity],
        "sd": [round(float(value), 6) for value in np.sqrt(np.maximum(np.diag(alignment.covariance), 0))],
        "status": alignment.status.value,
        "events": alignment.n_events,
        "latency_ms": round(latency_s * 1e3, 3),
    }
    print(json_text(line), flush=True)  # null for a standard deviation that is not known
