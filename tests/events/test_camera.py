import cmath

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pauca.errors import InputError
from pauca.events import Camera
from pauca.events.camera import undistortion_table

# DAVIS 240C of the UZH data set: strong barrel distortion.
NUMBERS = (199.092366542, 198.82882047, 132.192071378, 110.712660011, -0.368436311798, 0.150947243557,
           -0.000296130534385, -0.000759431726241, 0.0)  # fmt: skip
DAVIS = Camera((240, 180), *NUMBERS)


def _opencv_distort(camera, x, y):
    """The distortion of OpenCV's documentation, written out for one point with complex numbers."""
    k1, k2, p1, p2, k3 = camera.distortion
    r2 = abs(complex(x, y)) ** 2
    tangential = complex(2 * p1 * x * y + p2 * (r2 + 2 * x * x), p1 * (r2 + 2 * y * y) + 2 * p2 * x * y)
    point = complex(x, y) * (1 + k1 * r2 + k2 * r2**2 + k3 * r2**3) + tangential
    assert cmath.isfinite(point)
    return camera.fx * point.real + camera.cx, camera.fy * point.imag + camera.cy


def test_undistortion_inverts_the_distortion_to_a_millionth_of_a_pixel():
    for u, v in [(0, 0), (239, 0), (0, 179), (239, 179), (120, 90), (17, 160)]:
        x, y = DAVIS.undistort(np.array([float(u)]), np.array([float(v)]))
        assert _opencv_distort(DAVIS, x[0], y[0]) == pytest.approx((u, v), abs=1e-6)


@given(k1=st.floats(-0.4, 0.3), k2=st.floats(0, 0.2), p1=st.floats(-0.01, 0.01), p2=st.floats(-0.01, 0.01))
def test_distort_and_undistort_are_inverse(k1, k2, p1, p2):
    camera = Camera((240, 180), 300.0, 290.0, 118.0, 92.0, k1, k2, p1, p2)
    v, u = np.mgrid[0:180:20, 0:240:20].astype(float)
    back = camera.distort(*camera.undistort(u, v))
    np.testing.assert_allclose(back, (u, v), atol=1e-6)


def test_table_reaches_where_the_specification_says():
    """Undistortion moves the corners of this sensor to x -37.7..268.7, y -31.7..196.9."""
    table = undistortion_table(DAVIS).astype(float)
    assert table.shape == (180, 240, 2)
    x, y = table[..., 0] * DAVIS.fx + DAVIS.cx, table[..., 1] * DAVIS.fy + DAVIS.cy
    assert (x.min(), x.max(), y.min(), y.max()) == pytest.approx((-37.7, 268.7, -31.7, 196.9), abs=0.05)


def test_distortion_without_inverse_is_refused():
    with pytest.raises(InputError, match="no inverse at pixel"):
        undistortion_table(Camera((240, 180), 100.0, 100.0, 120.0, 90.0, k1=-0.9))


def test_a_fisheye_stays_one_at_half_the_resolution():
    camera = Camera((346, 260), 226.4, 226.1, 173.6, 133.7, -0.033, -0.013, 0.012, -0.004, lens="equidistant")
    x, y = np.array([0.3]), np.array([-0.2])
    (u,), (v,) = camera.distort(x, y)
    (half_u,), (half_v,) = camera.reduced(2).distort(x, y)
    assert (2 * half_u + 0.5, 2 * half_v + 0.5) == pytest.approx((u, v))


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ((0.83, 1.1, 0.5, 0.5), "are they normalized"),
        ((199.0, 198.0, 320.0, 90.0), "outside of the sensor of 240 x 180"),
        ((199.0, 198.0, 120.0, -3.0), "cy -3 lies outside"),
        ((400.0, 400.0, 239.5, 179.5), r"240 x 180 pixels, or at its rim"),  # of a sensor that is read out by halves
    ],
)
def test_intrinsics_that_are_no_pixels_of_the_sensor_are_refused(tmp_path, numbers, message):
    """They were taken as they are: bearings of up to 240 focal lengths."""
    with pytest.raises(InputError, match=message):
        Camera((240, 180), *numbers)
    fx, fy, cx, cy = numbers
    matrix = f"{{data: [{fx}, 0, {cx}, 0, {fy}, {cy}, 0, 0, 1]}}"
    files = {
        "calib.txt": " ".join(map(str, (*numbers, 0, 0, 0, 0, 0))),
        "ros.yaml": f"image_width: 240\nimage_height: 180\ncamera_matrix: {matrix}",
        "kalibr.yaml": f"cam0:\n  camera_model: pinhole\n  intrinsics: {list(numbers)}\n  resolution: [240, 180]",
    }
    for name, text in files.items():
        (tmp_path / name).write_text(text)
        with pytest.raises(InputError, match=f"{name}: .*{message}"):
            Camera.from_file(tmp_path / name, (240, 180))


def test_a_center_outside_of_a_guessed_sensor_names_the_option_that_gives_its_size():
    with pytest.raises(
        InputError, match=r"true size \(--size WIDTH HEIGHT.*guessed; a crop keeps the pixels and the size"
    ):
        Camera((128, 128), 199.0, 199.0, 132.0, 110.0)


def test_wide_lenses_and_reduced_cameras_are_not_refused():
    Camera((346, 260), 90.0, 90.0, 173.0, 130.0, lens="equidistant").reduced(4)
    Camera((640, 480), 170.0, 170.0, 33.0, 450.0).reduced(4)


def _camera(size, *numbers) -> Camera:
    """A camera of anything, which tests would refuse by its type first."""
    camera = object.__new__(Camera)
    names = ("fx", "fy", "cx", "cy", "k1", "k2", "p1", "p2", "k3")
    given = {"size": size, "lens": "radtan", **dict.fromkeys(names, 0.0), **dict(zip(names, numbers, strict=False))}
    for name, value in given.items():
        object.__setattr__(camera, name, value)
    camera.__post_init__()
    return camera


def test_what_is_no_number_is_refused_and_numbers_of_numpy_are_taken():
    size = np.array([240, 180])
    for sized in (size, tuple(size), size.astype(float)):
        assert str(_camera(sized, *np.array(NUMBERS))) == str(DAVIS)
    for wrong in ((240, 180, 1), (240.5, 180), 240, ("a", "b"), None):
        with pytest.raises(InputError, match=r"is no \(width, height\) in pixels"):
            _camera(wrong, *NUMBERS)
    with pytest.raises(InputError, match=r"fx \[199, 198\] is no number; .* one by one"):
        _camera((240, 180), [199, 198], 132, 110, 0)
    with pytest.raises(InputError, match=r"k1 array.* is no number"):
        _camera((240, 180), *NUMBERS[:4], np.array(NUMBERS[4:]))
