"""The Rerun viewer (rerun.io): velocity over time, the events as they were seen, and with the rotation taken out."""

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

import numpy as np
from jaxtyping import Float
from scipy.spatial.transform import Rotation, Slerp

from pauca.errors import ConfigError, PaucaError
from pauca.events.alignment import Aligner
from pauca.events.camera import Camera
from pauca.events.mosaic.projection import count_pixels
from pauca.events.settings import AlignConfig
from pauca.events.types import Events, Motion, Status
from pauca.events.warp import Frame

_BORDER = 60  # pixels around the image: what the camera sees moves in it
_SMOOTH_S = 0.5  # the stabilized image follows the camera so slowly
_PICTURE_US = 40_000  # shortest time between pictures: 25 a second
_FULL_QUANTILE = 0.9  # of the pixels with events, in the picture with most of them: so many make a color full
_UNITS: dict[Motion, tuple[str, float]] = {"rotation": ("deg/s", 180 / np.pi), "translation": ("1/s", 1.0)}


@contextmanager
def open_viewer(where: str) -> Iterator[Any]:
    """A stream to the Rerun viewer, flushed at the end.

    Args:
        where: `open` starts the viewer in a window; `rerun+http://HOST:PORT/proxy` is a viewer that runs; anything that
            ends in .rrd is a file, for later.

    Raises:
        ConfigError: something else.
        PaucaError: rerun-sdk is not installed, or the viewer cannot be started.
    """
    check_viewer(where)
    stream = _rerun().RecordingStream("pauca events")
    try:
        if where == "open":
            stream.spawn()
        elif where.startswith("rerun+http"):
            stream.connect_grpc(where)
        else:
            stream.save(where)
    except (OSError, RuntimeError, ValueError) as error:
        raise PaucaError(f"{where}: the Rerun viewer cannot be reached ({str(error)[:160]})") from None
    try:
        yield stream
    finally:
        stream.flush()
        stream.disconnect()


def check_viewer(where: str) -> None:
    """Refuse early what `open_viewer` would refuse; errors as there."""
    if where != "open" and not where.startswith("rerun+http") and not where.lower().endswith(".rrd"):
        raise ConfigError(f"{where}: a viewer is open (a window), FILE.rrd, or rerun+http://HOST:PORT/proxy")
    _rerun()


class Viewer:
    """Shows packets one by one.

    Args:
        stream: what `open_viewer` gave.
        camera: of the events; None shows velocities alone.
        motion: what the velocities are.
    """

    def __init__(self, stream: Any, camera: Camera | None = None, motion: Motion = "rotation") -> None:
        self._rr, self._stream, self._motion = _rerun(), stream, motion
        self._unit, self._factor = _UNITS[motion]
        self._pictures = None if camera is None else _Pictures(camera, motion == "rotation")
        self._named = False
        stream.send_blueprint(_blueprint(camera is not None, self._unit))

    def add(
        self,
        t_us: int,
        velocity: Float[np.ndarray, "k"],
        sd: Float[np.ndarray, "k"],
        status: Status,
        events: Events | None = None,
    ) -> None:
        """Show a packet.

        Args:
            t_us: its time on the recording's clock.
            velocity: rad/s or 1/s; not drawn where its status says that it cannot be trusted.
            sd: its standard deviations.
            status: of the packet.
            events: its events.
        """
        stream, rr = self._stream, self._rr
        stream.set_time("recording", duration=np.timedelta64(t_us, "us"))
        names = [f"{axis} ({self._unit})" for axis in "xyz"[: len(velocity)]]
        if not self._named:
            for place in ("velocity", "deviation"):
                stream.log(place, rr.SeriesLines(names=names), static=True)
            self._named = True
        if status.trusted:
            stream.log("velocity", rr.Scalars(self._factor * velocity))
            stream.log("deviation", rr.Scalars(self._factor * np.where(np.isfinite(sd), sd, 0)))
        stream.log("status", rr.TextLog(str(status), level="INFO" if status.trusted else "WARN"))
        if events is None or self._pictures is None:
            return
        for name, picture in self._pictures.add(t_us, velocity if status.trusted else None, events).items():
            stream.log(name, rr.Image(picture).compress(jpeg_quality=90))


class _Pictures:
    """Pictures of the events, raw and stabilized, at most 25 for each second of the recording."""

    def __init__(self, camera: Camera, rotates: bool) -> None:
        self._aligner, self._frame = Aligner(camera, AlignConfig()), Frame(camera, _BORDER)
        self._rotates, self._full = rotates, 1.0
        self._turned = self._look = Rotation.identity()  # of the camera, and of the picture
        self._last: tuple[int, np.ndarray] | None = None  # time and velocity of the packet before
        self._shown_us = -np.inf

    def add(self, t_us: int, velocity: np.ndarray | None, events: Events) -> dict[str, np.ndarray]:
        """Move on to a packet, and give its pictures if it is time for some."""
        velocity = self._advance(t_us, velocity)
        if t_us - self._shown_us < _PICTURE_US or len(events) == 0:
            return {}
        self._shown_us = t_us
        packet = self._aligner.packet(events)
        rays = np.stack([packet.x, packet.y, np.ones_like(packet.x)], axis=1).astype(float)
        raw = self._counts(rays, events)
        seconds = ((events.t_us - t_us) * 1e-6)[:, None]
        if self._rotates:
            still = (self._look.inv() * self._turned * Rotation.from_rotvec(seconds * velocity)).apply(rays)
        else:
            still = rays - np.pad(seconds * velocity, ((0, 0), (0, 1)))
        return {"events": self._drawn(raw), "stabilized": self._drawn(self._counts(still, events))}

    def _advance(self, t_us: int, velocity: np.ndarray | None) -> np.ndarray:
        before = self._last
        if velocity is None:  # the camera goes on as before
            velocity = before[1] if before else np.zeros(3 if self._rotates else 2)
        if before is not None and self._rotates:
            seconds = (t_us - before[0]) * 1e-6
            self._turned = self._turned * Rotation.from_rotvec(seconds * (velocity + before[1]) / 2)
            share = 1 - np.exp(-max(seconds, 0.0) / _SMOOTH_S)
            self._look = Slerp([0, 1], Rotation.concatenate([self._look, self._turned]))([share])[0]
        self._last = t_us, velocity
        return velocity

    def _counts(self, rays: Float[np.ndarray, "n 3"], events: Events) -> Float[np.ndarray, "2 h w"]:
        return np.stack([count_pixels(rays[events.p == polarity], self._frame) for polarity in (0, 1)])

    def _drawn(self, images: Float[np.ndarray, "2 h w"]) -> np.ndarray:
        from pauca.events.plots import polarity_image  # brings matplotlib

        shown = images.sum(0)
        if shown.any():
            self._full = max(self._full, float(np.quantile(shown[shown > 0], _FULL_QUANTILE)))
        return np.round(255 * polarity_image(images, self._full)).astype(np.uint8)


def _blueprint(with_pictures: bool, unit: str) -> Any:
    _rerun()
    views = import_module("rerun.blueprint")
    series = views.TimeSeriesView(origin="/velocity", name=f"velocity ({unit})")
    log = views.TextLogView(origin="/status", name="status")
    parts = [views.Horizontal(series, log, column_shares=[4, 1])]
    if with_pictures:
        names = {"events": "as seen", "stabilized": "rotation taken out"}
        pictures = [views.Spatial2DView(origin=f"/{place}", name=name) for place, name in names.items()]
        parts.insert(0, views.Horizontal(*pictures))
    return views.Blueprint(views.Vertical(*parts))


def _rerun() -> Any:
    try:
        return import_module("rerun")
    except ModuleNotFoundError as error:
        raise PaucaError("the viewer needs rerun-sdk: pip install 'pauca[viewer]'") from error
