"""The sibling of what a function expects: taken where it holds that, else one line with the remedy."""

import json
import subprocess
import sys
from dataclasses import fields
from functools import cache

import numpy as np
import pytest

from pauca import events
from pauca.events import Aligner, GroundTruth, Inertial, Recording, Trajectory, fit_gyro
from pauca.events.live.loop import LiveConfig
from pauca.events.video import VideoConfig

from .scenes import CAMERA, rotating_events

# Every public function, and what someone gave it by mistake. The name says what the message must hold.
MISTAKES = {
    "write(path, path)": "events.read(path)",
    "write(path, array)": "as_events(array, size)",
    "write(recording, path)": "write(path, recording)",
    "write(path, packets)": "got a list",
    "write(path, None)": "got None",
    "read(recording)": "expected a path",
    "open_events(seen)": "write(path, events)",
    "open_events(path, {'sort': True})": "ReadConfig(**values)",
    "convert(recording, path)": "write(path, recording)",
    "info(path)": "events.read(path)",
    "check(str(path))": "events.read(path)",
    "hot_pixel_mask(path)": "events.read(path).events",
    "noise_mask(array)": "as_events(array, size)",
    "remove_hot_pixels(path)": "events.read(path)",
    "remove_noise(stream)": "stream.recording()",
    "joined(seen)": "joined([events, more_events])",
    "joined([])": "no window",
    "joined(packets)": "expected Events, got an Alignment",
    "next(cut_windows(path, AlignConfig()))": "events.read(path).events",
    "next(cut_windows(seen, {}))": "AlignConfig(**values)",
    "align(path)": "events.read(path)",
    "align(str(path), camera)": "events.read(path)",
    "align([seen], camera)": "joined(parts)",
    "align(recording, path)": "Camera.from_file(path)",
    "align(recording, (240, 180))": "Camera.pinhole(size)",
    "align(recording, camera, {'border': 20})": "AlignConfig(**values)",
    "align_packets(stream, camera)": "stream.recording()",
    "refine(recording, packets)": "Trajectory.from_alignments",
    "Aligner(path)": "Camera.from_file(path)",
    "Aligner(recording)": "recording.camera",
    "Aligner(camera, {})": "AlignConfig(**values)",
    "Aligner(camera).align(path)": "events.read(path).events",
    "Aligner(camera).push(stream)": "stream.recording().events",
    "next(Aligner(camera).follow(path))": "events.read(path)",
    "next(Aligner(camera).follow(str(path)))": "events.read(path)",
    "next(Aligner(camera).follow(None))": "got None",
    "Aligner(camera).images(array)": "as_events(array, size)",
    "Follower('calib.txt')": "Camera.from_file(path)",
    "Follower(camera).push(packets)": "expected Events",
    "next(views(camera, seen))": "expected an Aligner",
    "next(views(Aligner(camera), path))": "events.read(path).events",
    "panorama(path, trajectory, camera)": "events.read(path)",
    "panorama(packets, trajectory, camera)": "expected Events, got an Alignment",
    "panorama(recording, packets)": "Trajectory.from_alignments",
    "panorama(recording, trajectory, None, {})": "PanoramaConfig(**values)",
    "Attitude.from_trajectory(packets[0])": "Trajectory.from_alignments([alignment])",
    "export(path.with_suffix('.tum'), path)": "Trajectory.from_file(path)",
    "export(trajectory, path)": "expected a path",
    "evaluate(path, truth)": "Trajectory.from_file(path)",
    "evaluate(trajectory, path)": "read_ground_truth(path)",
    "evaluate(trajectory, recording)": "recording.ground_truth",
    "evaluate(trajectory, inertial)": "GroundTruth(inertial.t_us",
    "find_time_offset(packets, truth)": "Trajectory.from_alignments",
    "fit_time_offset(trajectory, trajectory)": "GroundTruth(trajectory.t_s",
    "fit_gyro(trajectory, recording)": "recording.inertial",
    "fit_gyro(path, truth)": "Trajectory.from_file(path)",
    "GyroPrior.of_camera(path)": "read_ground_truth(path)",
    "GyroPrior.from_fit(truth, truth)": "expected a GyroFit",
    "simulate(motion=trajectory)": "GroundTruth(trajectory.t_s",
    "simulate(camera=path)": "Camera.from_file(path)",
    "simulate({'seed': 1})": "SimulateConfig(**values)",
    "Trajectory.from_alignments(packets[0])": "put it into a list",
    "Trajectory.from_alignments([path])": "expected an Alignment",
    "Trajectory.from_file(trajectory)": "expected a path",
    "telling_packets(trajectory, 200.0)": "expected a list",
    "as_events(path, (240, 180))": "events.read(path).events",
    "Camera.from_file(camera)": "expected a path",
    "read_ground_truth(truth)": "expected a path",
}

SCRIPT = """
import json, sys
from pathlib import Path
import numpy as np
from pauca.events import *
from pauca.events.live.loop import LiveConfig
from pauca.events.video import VideoConfig
path = Path(sys.argv[1])
recording, stream = read(path), open_events(path)
seen, camera = recording.events, recording.camera
array = np.zeros((4, 4))
motion = "rotation", 50_000, np.ones(3), np.zeros(3), np.eye(3), 1.0, Status.CONVERGED, 1, 50_000, 0, 100_000, 100
packets = [Alignment(*motion)]
trajectory = Trajectory.from_alignments(packets)
truth = GroundTruth(np.linspace(0, 1, 9), np.ones((9, 3)))
inertial = Inertial(np.arange(9) * 100_000, np.ones((9, 3)), np.ones((9, 3)))
found = {}
for mistake in json.loads(sys.argv[2]):
    try:
        eval(mistake)
        found[mistake] = "no error"
    except Exception as error:
        found[mistake] = f"{type(error).__name__}: {error}"
print(json.dumps(found))
"""


@cache
def _said(path: str, mistakes: tuple[str, ...]) -> dict[str, str]:
    """What each mistake says, where types are not checked as they are in tests."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, path, json.dumps(mistakes)], capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    path = tmp_path_factory.mktemp("given") / "recording.npz"
    events.write(path, Recording(rotating_events([1.0, -2.0, 3.0], duration_us=60_000), CAMERA))
    return path


def test_a_mistake_is_one_line_with_the_remedy(path):
    said = _said(str(path), tuple(MISTAKES))
    wrong = {
        mistake: said[mistake]
        for mistake, remedy in MISTAKES.items()
        if not said[mistake].startswith("InputError: ") or remedy not in said[mistake] or "\n" in said[mistake]
    }
    assert not wrong


def test_events_alone_and_streams_are_written(tmp_path, path):
    recording = events.read(path)
    for name, given in (("events", recording.events), ("stream", events.open_events(path, chunk_events=1000))):
        got = events.read(events.write(tmp_path / f"{name}.npz", given))
        for column in ("t_us", "x", "y", "p"):
            assert np.array_equal(getattr(got.events, column), getattr(recording.events, column))
        assert (got.camera is None) == (name == "events")


def test_events_alone_are_described_checked_and_cleaned(path):
    seen = events.read(path).events
    assert events.info(seen).count == events.check(seen).statistics.count == len(seen)
    assert len(events.remove_noise(events.remove_hot_pixels(seen)).events) == len(seen)


def test_a_recording_stands_for_its_events(path):
    recording = events.read(path)
    first, second = Aligner(recording.camera), Aligner(recording.camera)
    assert np.array_equal(first.align(recording).velocity, second.align(recording.events).velocity)
    assert np.array_equal(first.images(recording), second.images(recording.events))
    assert np.array_equal(events.hot_pixel_mask(recording), events.hot_pixel_mask(recording.events))
    windows = events.cut_windows(recording, first.config)
    assert sum(len(window) for window in windows) == len(recording.events)


def test_alignments_on_their_way_become_a_trajectory(path):
    recording = events.read(path)
    found = Trajectory.from_alignments(events.align_packets(recording))
    assert len(found) == len(list(events.align_packets(recording)))


def test_an_inertial_sensor_is_a_gyroscope():
    t_us = np.arange(0, 2_000_000, 2_000)
    omega = np.stack([np.sin(t_us * 1e-6 * (3 + axis)) for axis in range(3)], axis=1)
    inertial = Inertial(t_us, omega, np.zeros_like(omega))
    gyro = GroundTruth(t_us * 1e-6, omega)
    at = np.arange(300_000, 1_700_000, 20_000)
    rows = [
        events.Alignment(
            *("rotation", int(t), np.array([np.interp(t, t_us, each) for each in omega.T]), np.zeros(3)),
            *(1e-6 * np.eye(3), 1.0, events.Status.CONVERGED, 1, int(t), int(t) - 9_000, int(t) + 9_000, 1_000),
        )
        for t in at
    ]
    trajectory = Trajectory.from_alignments(rows)
    assert fit_gyro(trajectory, inertial).as_dict() == fit_gyro(trajectory, gyro).as_dict()
    assert np.array_equal(events.GyroPrior.of_camera(inertial).t_us, events.GyroPrior.of_camera(gyro).t_us)


CONFIGS = {
    "AlignConfig": events.AlignConfig,
    "TrajectoryConfig": events.TrajectoryConfig,
    "SimulateConfig": events.SimulateConfig,
    "ReadConfig": events.ReadConfig,
    "WriteConfig": events.WriteConfig,
    "PanoramaConfig": events.PanoramaConfig,
    "ViewConfig": events.ViewConfig,
    "Protocol": events.Protocol,
    "VideoConfig": VideoConfig,
    "LiveConfig": LiveConfig,
}
# What is of another kind than a setting or a number, and what the message must hold.
OTHER_KINDS = {
    **{
        f"{name}({field.name}={wrong})": f"{name}: {field.name} must be "
        for name, kind in CONFIGS.items()
        for field in fields(kind)
        for wrong in ("[1]", "{}", "array", "camera")
    },
    "AlignConfig(packet_events='30000')": "packet_events must be a whole number, got the text '30000'",
    "AlignConfig(packet_events=0.5)": "packet_events must be a whole number, got 0.5",
    "AlignConfig(packet_s=None)": "packet_s must be a number, got None",
    "AlignConfig(exact='yes')": "exact must be True or False, got the text 'yes'",
    "AlignConfig(border=True)": "border must be a whole number, got True",
    "read(path, time_unit=recording)": "time_unit must be 's' or 'ms' or 'us' or 'ns', got a Recording",
    "read(path, size=7)": "size must be (width, height), got 7",
    "Camera.pinhole(240)": "size 240 is no (width, height) in pixels",
    "Camera.pinhole('240x180')": "size '240x180' is no (width, height)",
    "Camera((240, 180), 200, 200, 120, 90, lens='fisheye')": "choose 'radtan' or 'equidistant'",
    "Aligner(camera, prior=truth)": "GyroPrior.of_camera(readings)",
    "Follower(camera, delay_s='1')": "delay_s must be a number, got the text '1'",
    "Aligner(camera).push(seen, '1')": "deadline_s must be a number",
    "Events.from_arrays([1], [1], [1], [1], 240)": "size 240 is no (width, height)",
    "Events.from_arrays(['1'], [1], [1], [1], (9, 9))": "t_us must be an array of numbers",
    "Events.from_arrays([1], None, [1], [1], (9, 9))": "x must be an array of numbers, got None",
    "Events(seen.t_us, seen.x, seen.y, seen.p, ('9', '9'))": "is no (width, height)",
    "GyroPrior('a', 'b', 0.1)": "times of readings must be numbers",
    "GyroPrior(np.arange(3) * 1e3, np.zeros((2, 3)), 0.1)": "velocities of shapes",
    "GyroPrior(np.array([0, 2e3, 1e3]), np.zeros((3, 3)), 0.1)": "sort by time before",
    "GyroPrior(np.arange(3) * 1e3, np.zeros((3, 3)), '0.1')": "sd_rad_s must be a number",
    "GyroPrior.of_camera(GroundTruth('a', 'b'))": "velocities must be numbers",
    "NegativeBinomial('0.1')": "r must be a number",
    "Trajectory('spin', *[np.zeros(1)] * 8, status=('rest',))": "there are rotation and translation",
}


def test_another_kind_than_a_setting_s_is_one_line(path):
    """`AlignConfig(packet_events="30000")` was a TypeError about `<`, and `Protocol(spline="no")` was taken."""
    said = _said(str(path), tuple(OTHER_KINDS))
    wrong = {
        mistake: said[mistake]
        for mistake, told in OTHER_KINDS.items()
        if said[mistake].split(": ")[0] not in ("InputError", "ConfigError") or told not in said[mistake]
    }
    assert not wrong


def test_numbers_of_numpy_and_lists_are_taken(path):
    taken = (
        "AlignConfig(packet_events=np.int64(9_000), packet_s=np.float32(0.01), exact=np.bool_(True), border=9.0)",
        "ReadConfig(size=np.array([240, 180]))",
        "SimulateConfig(axis=[0, 1, 0], image='panorama.png')",
        "GyroPrior.of_camera(GroundTruth([0.0, 0.001, 0.002], [[1, 2, 3]] * 3))",
        "Camera.pinhole(np.array([240, 180]))",
    )
    assert _said(str(path), taken) == dict.fromkeys(taken, "no error")
