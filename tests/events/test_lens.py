import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pauca.errors import InputError
from pauca.events import Camera
from pauca.events.camera import undistortion_table

MVSEC = Camera((346, 260), 226.4, 226.1, 173.6, 133.7, -0.033, -0.013, 0.012, -0.004, lens="equidistant")


def test_a_fisheye_puts_an_angle_where_kalibr_does():
    """theta_d = theta (1 + k1 theta^2 + k2 theta^4 + k3 theta^6 + k4 theta^8), along the direction of the ray."""
    theta, azimuth = 0.7, 0.4
    r = np.tan(theta)
    k = (-0.033, -0.013, 0.012, -0.004)
    landed = theta + sum(c * theta ** (2 * i + 3) for i, c in enumerate(k))
    u, v = MVSEC.distort(np.array([r * np.cos(azimuth)]), np.array([r * np.sin(azimuth)]))
    assert u[0] == pytest.approx(173.6 + 226.4 * landed * np.cos(azimuth))
    assert v[0] == pytest.approx(133.7 + 226.1 * landed * np.sin(azimuth))


@given(k1=st.floats(-0.05, 0.05), k2=st.floats(-0.02, 0.02))
def test_a_fisheye_is_undone(k1, k2):
    camera = Camera((346, 260), 230.0, 228.0, 170.0, 133.0, k1, k2, lens="equidistant")
    v, u = np.mgrid[0:260:20, 0:346:20].astype(float)
    np.testing.assert_allclose(camera.distort(*camera.undistort(u, v)), (u, v), atol=1e-6)


def test_pixels_beyond_a_right_angle_have_no_bearing():
    with pytest.raises(InputError, match="no inverse at pixel"):
        undistortion_table(Camera((346, 260), 90.0, 90.0, 173.0, 130.0, lens="equidistant"))


@pytest.mark.parametrize("shape", [(1,), (2, 3), (0,)])
@pytest.mark.parametrize("lens", ["radtan", "equidistant"])
def test_bearings_keep_their_shape(shape, lens):
    coefficients = (-0.3, 0.1, 0.001, 0.002, 0.0) if lens == "radtan" else (-0.05, 0.01, 0.0, 0.0)
    camera = Camera((346, 260), 200.0, 200.0, 173.0, 130.0, *coefficients, lens=lens)
    assert [part.shape for part in camera.distort(np.full(shape, 0.1), np.full(shape, 0.2))] == [shape, shape]
