"""Panoramas: continuous over the edges of the cube, repeatable, and the user's image where it belongs."""

import numpy as np
import pytest
from PIL import Image

from pauca.errors import InputError
from pauca.events.kernels.simulate import directions, look
from pauca.events.simulation.panorama import image_panorama, read_gray, shapes_panorama, texture_panorama

TEXELS = 64


def _see(faces, rays) -> np.ndarray:
    """Brightness in the given directions (n, 3)."""
    out = np.empty(len(rays), np.float32)
    look(faces, np.eye(3, dtype=np.float32), np.ascontiguousarray(np.asarray(rays, np.float32).T), out)
    return out


@pytest.mark.parametrize("paint", [texture_panorama, shapes_panorama])
def test_scenes_are_continuous_over_the_edges_of_the_cube(paint):
    """Just left and just right of an edge the brightness is the same, to the error of interpolation."""
    faces = paint(TEXELS, 20.0, np.random.default_rng(0))
    rng = np.random.default_rng(1)
    on_edge = np.ones((500, 3)) * rng.choice([-1, 1], (500, 3))
    on_edge[np.arange(500), rng.integers(0, 3, 500)] = rng.uniform(-1, 1, 500)
    nudge = 1e-4 * rng.standard_normal((500, 3))
    step = np.abs(_see(faces, on_edge + nudge) - _see(faces, on_edge - nudge))
    assert np.ptp(faces) > 1.5
    assert step.mean() < 0.02 * np.ptp(faces)


@pytest.mark.parametrize("paint", [texture_panorama, shapes_panorama])
def test_scenes_are_repeatable_and_fill_every_face(paint):
    one, same = (paint(TEXELS, 20.0, np.random.default_rng(3)) for _ in range(2))
    assert np.array_equal(one, same)
    assert one.shape == (6, TEXELS + 2, TEXELS + 2)
    assert one.std(axis=(1, 2)).min() > 0.05


def test_an_equirectangular_image_is_where_it_belongs(tmp_path):
    """Brightness painted as a function of longitude and latitude is seen again in that direction."""
    longitude = ((np.arange(360) - 179.5) / 180 * np.pi)[None, :]
    latitude = ((np.arange(180) - 89.5) / 180 * np.pi)[:, None]
    gray = 128 + 60 * np.sin(longitude) * np.cos(latitude) + 50 * np.sin(latitude)
    Image.fromarray(gray.astype(np.uint8)).save(tmp_path / "panorama.png")
    faces = image_panorama(read_gray(tmp_path / "panorama.png"), 256)
    rays = np.random.default_rng(0).standard_normal((1000, 3))
    x, y, _ = (rays / np.linalg.norm(rays, axis=1, keepdims=True)).T
    expected = np.log(((128 + 60 * x + 50 * y) / 255) ** 2.2 + 0.02)
    assert np.abs(_see(faces, rays) - expected).max() < 0.05


def test_a_photograph_is_mirrored_without_seams(tmp_path):
    """Any proportions: ahead is its middle, a quarter of the horizon is its width, then it runs backwards."""
    gray = np.tile(np.linspace(30, 230, 300), (200, 1))
    Image.fromarray(gray.astype(np.uint8)).save(tmp_path / "photo.png")
    faces = image_panorama(read_gray(tmp_path / "photo.png"), 256)

    def at(degrees):
        angle = np.radians(np.atleast_1d(degrees))
        return _see(faces, np.stack([np.sin(angle), 0 * angle, np.cos(angle)], axis=1))

    around = at(np.arange(0, 360.5, 0.5))
    assert np.abs(np.diff(around)).max() < 0.06
    assert at(0)[0] == pytest.approx(np.log((130 / 255) ** 2.2 + 0.02), abs=0.03)
    assert np.allclose(at([45 + 20, -45 - 20]), at([45 - 20, -45 + 20]), atol=0.02)


def test_what_is_no_image(tmp_path):
    (tmp_path / "notes.txt").write_text("no image")
    with pytest.raises(InputError, match=r"notes\.txt: cannot be read as an image"):
        read_gray(tmp_path / "notes.txt")
    with pytest.raises(InputError, match="cannot be read as an image"):
        read_gray(tmp_path / "gone.png")


def test_directions_are_unit_vectors_through_the_texels():
    rays = directions(4)
    assert np.allclose(np.linalg.norm(rays, axis=-1), 1)
    for face, axis in enumerate(((1, 0, 0), (-1, 0, 0), (0, 1, 0), (0, -1, 0), (0, 0, 1), (0, 0, -1))):
        middle = rays[face, 1:-1, 1:-1].reshape(-1, 3).sum(axis=0)
        assert np.allclose(middle / np.linalg.norm(middle), axis, atol=1e-6)
