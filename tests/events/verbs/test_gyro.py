"""What `pauca events gyro` and `--gyro-prior` read."""

import numpy as np

from pauca import events
from pauca.events.recording import Inertial
from pauca.events.verbs.gyro import read_gyro

from ..scenes import random_events


def test_the_gyroscope_of_a_recording_is_read_without_its_events_in_memory(tmp_path, monkeypatch):
    t_us = np.arange(0, 50_000, 1000)
    rates = np.stack([t_us * 1e-6, np.ones(50), np.zeros(50)], axis=1)
    inertial = Inertial(t_us, rates, np.zeros((50, 3)))
    events.write(tmp_path / "a.h5", events.Recording(random_events(list(range(0, 50_000, 10))), inertial=inertial))
    monkeypatch.setattr(events, "read", None)
    found = read_gyro(tmp_path / "a.h5")
    np.testing.assert_allclose(found.t_s, t_us * 1e-6)
    np.testing.assert_array_equal(found.omega_rad_s, rates)


def test_readings_in_degrees_are_converted(tmp_path):
    (tmp_path / "a.csv").write_text("t_s,wx_rad_s,wy_rad_s,wz_rad_s\n0,180,0,90\n1,180,0,90\n")
    np.testing.assert_allclose(read_gyro(tmp_path / "a.csv", "deg/s").omega_rad_s[0], [np.pi, 0, np.pi / 2])
