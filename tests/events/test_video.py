import numpy as np
import pytest
from PIL import Image, ImageSequence
from scipy.ndimage import gaussian_filter

from pauca import cli, events
from pauca.errors import ConfigError, InputError
from pauca.events import Camera
from pauca.events.video import VideoConfig, check_video, frames, longer_than_asked, write_video

CAMERA = Camera.pinhole((64, 48))


@pytest.fixture(scope="module")
def recording():
    config = events.SimulateConfig(movement="constant", peak_deg_s=60.0, duration_s=0.2, noise_hz=0.0, seed=3)
    return events.simulate(config, camera=CAMERA)


def test_the_stabilized_side_stands_still(recording):
    shown = list(frames(recording, events.align(recording), config=VideoConfig(fps=50.0, smooth_s=np.inf, border=8)))
    assert {frame.shape for frame in shown} == {(64, 160, 3)}
    dark = [gaussian_filter(255.0 - frame.mean(axis=2), 1.0) for frame in shown[1:-1]]

    def alike(side: slice) -> float:
        first, last = dark[0][:, side].ravel(), dark[-1][:, side].ravel()
        return float(np.corrcoef(first, last)[0, 1])

    assert alike(slice(80, 160)) > 0.2
    assert alike(slice(80, 160)) > alike(slice(0, 80)) + 0.15


def test_a_view_that_follows_keeps_up_with_the_camera(recording):
    (*_, still) = frames(recording, events.align(recording), config=VideoConfig(smooth_s=np.inf))
    (*_, follows) = frames(recording, events.align(recording), config=VideoConfig(smooth_s=0.02))
    middle = [
        np.average(np.arange(184), weights=(255 - frame[:, 184:]).sum((0, 2)) + 1e-9) for frame in (still, follows)
    ]
    assert abs(middle[0] - 92) > abs(middle[1] - 92) + 3


def test_a_gif_plays_as_long_as_it_should(recording, tmp_path):
    words = ["events", "video", "turn.npz", "--out", str(tmp_path / "a.gif"), "--slower", "2", "--fps", "50", "--quiet"]
    events.write(tmp_path / "turn.npz", recording)
    words[2] = str(tmp_path / "turn.npz")
    assert cli.main(words) == 0
    with Image.open(tmp_path / "a.gif") as shown:
        assert shown.n_frames >= 9
        assert shown.info["duration"] == 40


@pytest.mark.parametrize(("fps", "lasts_ms"), [(25.0, 1000), (30.0, 1000), (12.5, 1000), (100.0, 2000)])
def test_a_gif_of_any_rate_lasts_as_long_as_is_said(fps, lasts_ms, tmp_path):
    count = round(fps)
    assert write_video(
        tmp_path / "a.gif", iter(np.random.default_rng(0).integers(0, 255, (count, 8, 9, 3), np.uint8)), fps
    )
    with Image.open(tmp_path / "a.gif") as shown:
        found = sum(page.info["duration"] for page in ImageSequence.Iterator(shown))
    assert abs(found - lasts_ms * count / fps) < 6
    assert longer_than_asked(tmp_path / "a.gif", fps) == (2.0 if fps == 100.0 else 1.0)
    assert longer_than_asked(tmp_path / "a.mp4", fps) == 1.0


def test_an_mp4_is_written_where_it_can_be(recording, tmp_path):
    pytest.importorskip("imageio_ffmpeg")
    shown = np.zeros((5, 33, 41, 3), np.uint8)
    assert write_video(tmp_path / "a.mp4", iter(shown), 25.0) == 5
    assert (tmp_path / "a.mp4").stat().st_size > 500


def test_bad_wishes_are_said_before_the_work(tmp_path, monkeypatch):
    with pytest.raises(ConfigError, match=r"\.gif or \.mp4"):
        check_video(tmp_path / "a.avi")
    with pytest.raises(ConfigError, match="fps"):
        VideoConfig(fps=0.0)
    with pytest.raises(ConfigError, match="smooth_s"):
        VideoConfig(smooth_s=-1.0)
    with pytest.raises(InputError, match="too short"):
        write_video(tmp_path / "a.gif", iter([]), 25.0)
    assert not (tmp_path / "a.gif").exists()
    monkeypatch.setitem(__import__("sys").modules, "imageio_ffmpeg", None)
    with pytest.raises(Exception, match=r"pauca\[video\]"):
        check_video(tmp_path / "a.mp4")
