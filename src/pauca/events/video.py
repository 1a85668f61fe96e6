"""A recording as a video: as the sensor saw it, and with the camera's rotation taken out."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import ModuleType

import numpy as np
from jaxtyping import Float, UInt8
from scipy.spatial.transform import Rotation, Slerp

from pauca.errors import ConfigError, InputError, PaucaError
from pauca.events.alignment import Aligner
from pauca.events.camera import Camera
from pauca.events.coverage import with_events
from pauca.events.given import check_kinds
from pauca.events.mosaic import Attitude
from pauca.events.mosaic.projection import count_pixels
from pauca.events.passes import Chunks, parts_of, pieces_between
from pauca.events.recording import camera_of
from pauca.events.trajectory import Trajectory
from pauca.events.warp import Frame
from pauca.runs import atomic_write, check_can_write

_LEAST_GIF = 2  # hundredths of a second; viewers show fewer as ten
_FULL_QUANTILE = 0.9  # of the pixels with events, in the frame with most of them: so many events make a color full


@dataclass(frozen=True)
class VideoConfig:
    """How a recording is shown."""

    fps: float = 25.0
    """Frames for each second of the recording."""
    slower: float = 1.0
    """How many times as long as the recording the video lasts."""
    smooth_s: float = 0.5
    """The stabilized side follows the camera slowly, over so many seconds; inf for never."""
    border: int = 60
    """Pixels around the stabilized side: what the camera sees moves in it."""

    def __post_init__(self) -> None:
        check_kinds(self)
        for name in ("fps", "slower"):
            if not 0 < getattr(self, name) < 100_000:
                raise ConfigError(f"{name} {getattr(self, name)} must be positive")
        if not self.smooth_s > 0:
            raise ConfigError(f"smooth_s {self.smooth_s} must be positive")
        if not 0 <= self.border <= 2000:
            raise ConfigError(f"border {self.border} must lie in 0..2000 pixels")


def frames(
    recording: Chunks,
    trajectory: Trajectory,
    camera: Camera | None = None,
    config: VideoConfig = VideoConfig(),
) -> Iterator[UInt8[np.ndarray, "height width 3"]]:
    """Frames of a video, left as the sensor saw the events, right with the camera's rotation taken out.

    Args:
        recording: the events; what `open_events` returned is read chunk by chunk.
        trajectory: what `align` found for it.
        camera: calibration, where the recording does not bring its own.
        config: how fast, and what the right side does.

    Raises:
        InputError: no camera, a trajectory without any velocity that can be trusted, or of another time.
    """
    from pauca.events.plots import polarity_image  # brings matplotlib

    parts, camera, attitude = parts_of(recording), camera_of(recording, camera), Attitude.from_trajectory(trajectory)
    step_us = round(1e6 / config.fps)
    starts = np.arange(attitude.begin_us, int(attitude.times_us[-1]), step_us)
    looks = _looks(attitude, starts + step_us // 2, config.smooth_s)
    aligner, frame, full = Aligner(camera), Frame(camera, config.border), 0.0
    edges_us = np.append(starts, starts[-1:] + step_us)
    windows = with_events(pieces_between(parts, edges_us), trajectory)
    for look, window in zip(looks, windows, strict=True):
        packet = aligner.packet(window)
        raw = _both(np.stack([packet.x, packet.y, np.ones_like(packet.x)], axis=1), window.p, frame)
        still = _both(attitude.rays(window.t_us, packet.x, packet.y) @ look, window.p, frame)
        if len(window):
            shown = still.sum(0)
            full = max(full, float(np.quantile(shown[shown > 0], _FULL_QUANTILE))) if shown.any() else full
        sides = [polarity_image(images, max(full, 1.0)) for images in (raw, still)]
        yield np.round(255 * np.concatenate(sides, axis=1)).astype(np.uint8)


def _looks(attitude: Attitude, t_us: np.ndarray, smooth_s: float) -> Float[np.ndarray, "n 3 3"]:
    """Where the stabilized side looks at each frame: rotations to the first time's coordinates."""
    if np.isinf(smooth_s):
        return np.broadcast_to(np.eye(3), (len(t_us), 3, 3))
    turned = attitude.at(t_us)
    if len(t_us) < 2:
        return turned.as_matrix()
    smooth, weight = [turned[0]], 1 - np.exp(-np.diff(t_us) * 1e-6 / smooth_s)
    for now, share in zip(turned[1:], weight.tolist(), strict=True):
        smooth.append(Slerp([0, 1], Rotation.concatenate([smooth[-1], now]))([share])[0])
    return Rotation.concatenate(smooth).as_matrix()


def _both(rays: Float[np.ndarray, "n 3"], p: UInt8[np.ndarray, "n"], frame: Frame) -> Float[np.ndarray, "2 h w"]:
    """Counts of OFF and ON events."""
    return np.stack([count_pixels(rays[p == polarity], frame) for polarity in (0, 1)])


def longer_than_asked(path: Path, fps: float) -> float:
    """How many times as long as it should be a video lasts, because its format shows no more frames a second."""
    return max(1.0, fps * _LEAST_GIF / 100) if path.suffix.lower() == ".gif" else 1.0


def check_video(path: Path, force: bool = False) -> None:
    """Refuse early, before long work, what `write_video` would refuse after it.

    Raises:
        ConfigError: the name ends in neither .gif nor .mp4.
        PaucaError: it ends in .mp4, and the package that writes these is not installed.
        InputError: `path` exists and `force` is not set, or its folder can be neither written nor made.
    """
    if path.suffix.lower() not in (".gif", ".mp4"):
        raise ConfigError(f"{path}: videos are written as .gif or .mp4")
    if path.suffix.lower() == ".mp4":
        _ffmpeg()
    check_can_write(path, force)


def write_video(
    path: Path, shown: Iterable[UInt8[np.ndarray, "height width 3"]], fps: float, force: bool = False
) -> int:
    """Write frames as an animated GIF, or an MP4; returns their number. Errors as of `check_video`."""
    check_video(path, force)
    with atomic_write(path, force) as temporary:
        if path.suffix.lower() == ".gif":
            return _write_gif(temporary, shown, fps)
        return _write_mp4(temporary, shown, fps)


def _write_gif(path: Path, shown: Iterable[np.ndarray], fps: float) -> int:
    """Frame by frame: Pillow's `save` would hold all of them."""
    from PIL import GifImagePlugin, Image

    count = 0
    with path.open("wb") as file:
        for frame in shown:
            # A GIF counts hundredths of a second: frames differ by one, so that the whole is as long as it should be.
            duration_ms = 10 * max(_LEAST_GIF, round(100 * (count + 1) / fps) - round(100 * count / fps))
            page = Image.fromarray(frame).quantize(64)
            if count == 0:
                header, _ = GifImagePlugin.getheader(page.copy(), info={"loop": 0, "duration": duration_ms})
                file.writelines(header)
            file.writelines(GifImagePlugin.getdata(page, duration=duration_ms, include_color_table=True))
            count += 1
        file.write(b";")
    if count == 0:
        raise InputError("the recording is too short for a frame")
    return count


def _write_mp4(path: Path, shown: Iterable[np.ndarray], fps: float) -> int:
    writer, count = None, 0
    for frame in shown:
        even = frame[: frame.shape[0] // 2 * 2, : frame.shape[1] // 2 * 2]
        if writer is None:
            size = even.shape[1], even.shape[0]
            writer = _ffmpeg().write_frames(str(path), size, fps=fps, macro_block_size=2, output_params=["-crf", "18"])
            writer.send(None)
        writer.send(np.ascontiguousarray(even))
        count += 1
    if writer is None:
        raise InputError("the recording is too short for a frame")
    writer.close()
    return count


def _ffmpeg() -> ModuleType:
    try:
        return import_module("imageio_ffmpeg")
    except ModuleNotFoundError as error:
        raise PaucaError("an .mp4 needs imageio-ffmpeg: pip install 'pauca[video]'; a .gif needs nothing") from error
