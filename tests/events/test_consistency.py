"""What the parts of a packet say: one motion, a vibration, an object that moves by itself."""

from dataclasses import replace

import numpy as np
import pytest

from pauca import events
from pauca.events import AlignConfig, Status


def _statuses(config):
    camera = events.Camera.pinhole((240, 180))
    recording = events.simulate(config, camera=camera)
    return [a.status for a in events.align_packets(recording, config=AlignConfig(border=30))]


STEADY = events.SimulateConfig(scene="texture", movement="constant", peak_deg_s=150.0, duration_s=0.12, seed=2)


def test_a_steady_motion_is_undisputed():
    assert set(_statuses(STEADY)) == {Status.CONVERGED}


@pytest.mark.parametrize("scene", ["texture", "shapes"])
def test_a_vibration_within_each_packet_is_disputed(scene):
    shaken = replace(STEADY, scene=scene, peak_deg_s=80.0, vibration_hz=60.0, vibration_deg_s=120.0)
    statuses = _statuses(shaken)
    assert np.mean([status is Status.DISPUTED for status in statuses]) > 0.7


def test_an_object_with_half_of_the_events_is_disputed():
    statuses = _statuses(replace(STEADY, moving_object=0.5))
    assert np.mean([status is Status.DISPUTED for status in statuses]) > 0.7
