"""Damage to what is read beside recordings (trajectories, truths, calibrations, fits): an answer or one clear line."""

import json
import random
import re

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pauca.errors import InputError
from pauca.events import Camera, GyroFit, Trajectory, read_ground_truth

from .test_calibration import DSEC, DV, KALIBR, OPENCV, ROS
from .test_trajectory import _trajectory

WORDS = (b"nan", b"inf", b"-1", b"1e400", b"null", b"[]", b"{}", b"9" * 20, b"abc", b":", b"- ", b"\n", b",", b"true")
FIT = GyroFit(0.01, 0.001, np.eye(3), np.ones(3), np.ones(3), np.ones(3), 1.0, 9, False)
READERS = {
    "a.npz": Trajectory.from_file,
    "a.csv": Trajectory.from_file,
    "truth.npz": read_ground_truth,
    "imu.txt": read_ground_truth,
    "poses.txt": read_ground_truth,
    "fit.json": GyroFit.from_file,
    **{f"{name}.yaml": Camera.from_file for name in ("ros", "kalibr", "opencv", "dsec")},
    "dv.xml": Camera.from_file,
}


class Files(dict):
    def __repr__(self) -> str:
        return "the files"


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The bytes of each file, undamaged."""
    folder = tmp_path_factory.mktemp("whole")
    _trajectory().to_npz(folder / "a.npz")
    _trajectory().to_csv(folder / "a.csv")
    np.savez_compressed(folder / "truth.npz", gt_t=np.arange(9.0), gt_w=np.ones((9, 3)))
    (folder / "imu.txt").write_text("\n".join(f"{i / 100} 0 0 9.8 0.1 0.2 0.3" for i in range(9)))
    (folder / "poses.txt").write_text("\n".join(f"{i / 100} 0 0 0 0 0 0 1" for i in range(9)))
    (folder / "fit.json").write_text(json.dumps(FIT.as_dict()))
    for name, text in (("ros", ROS), ("kalibr", KALIBR), ("opencv", OPENCV), ("dsec", DSEC), ("dv", DV)):
        (folder / f"{name}.{'xml' if name == 'dv' else 'yaml'}").write_text(text)
    return Files((path.name, path.read_bytes()) for path in folder.iterdir())


def _damaged(data: bytes, rng: random.Random) -> bytes:
    kind, out = rng.randrange(3), bytearray(data)
    if kind == 0:
        return data[: rng.randrange(len(data))]
    if kind == 1:
        for _ in range(rng.randint(1, 5)):
            out[rng.randrange(len(out))] = rng.randrange(256)
    elif words := list(re.finditer(rb"[-+\w.]+", data)):
        word = rng.choice(words)
        out[word.start() : word.end()] = rng.choice(WORDS)
    return bytes(out)


@pytest.mark.parametrize("name", READERS)
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**32 - 1))
def test_damage_is_read_or_one_clear_line(whole, tmp_path, name, seed):
    path, said = tmp_path / name, name
    path.write_bytes(_damaged(whole[name], random.Random(seed)))
    try:
        READERS[name](path)
    except InputError as error:
        said = str(error)
    assert name in said
    assert "\n" not in said
